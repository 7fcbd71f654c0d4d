// The module, and what attend needs of it. Python passes addresses as integers: tensors are checked there,
// once, and not known here.
//
// Each family of kernels has its own bind_ function. All release the GIL while they work.
#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "attend.h"
#include "decoder.h"
#include "work_plan.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace kvloom;

namespace {

using Address = uintptr_t;
using NoGil = nb::call_guard<nb::gil_scoped_release>;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

std::vector<std::string> list_isas() {
  std::vector<std::string> names;
  for (int i = 0; i < num_isas; i++)
    if (machine_runs((Isa)i)) names.push_back(isa_names[i]);
  return names;
}

}  // namespace

Isa kvloom::choose_isa(const std::string& name) {
  const Isa isa = name.empty() ? default_isa() : find_isa(name.c_str());
  if (isa != num_isas) return isa;
  std::string message = name.empty() ? "KVLOOM_ISA names an instruction set" : "`" + name + "` is an instruction set";
  message += " that cannot run here; possible:";
  for (const std::string& possible : list_isas()) message += " " + possible;
  throw nb::value_error(message.c_str());
}

void kvloom::raise_fault(const char* fault) {
  if (fault) throw nb::value_error(fault);
}

namespace {

void bind_dispatch(nb::module_& m) {
  m.def("isas", &list_isas, "Instruction sets that this machine can run, best first.");
  m.def(
      "default_isa", [] { return std::string(isa_names[choose_isa("")]); },
      "The one used when none is named: the best, or what the environment variable KVLOOM_ISA says.");
}

// Arrays of a plan as they are: never a converted copy, which would be gone after the call (see noconvert below).
typedef nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> Ints;

// Descriptions of arrays are made once per plan and checked when made. They do not keep the arrays alive.
Rows bind_rows(const Ints& positions, const Ints& seq_rows) {
  if (seq_rows.size() < 1) throw nb::value_error("seq_rows is empty");
  const Rows bound{positions.data(), seq_rows.data(), (int32_t)positions.size(), (int32_t)seq_rows.size() - 1};
  raise_fault(find_fault(bound));
  return bound;
}

typedef nb::ndarray<const uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> Masks;
typedef nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu> Table;

// What all parts and writes of one page format have in common: a part without arrays.
struct PageKind {
  Part part;
  int64_t page_bytes, memory_bytes;
};

PageKind page_kind(Address memory, int64_t memory_bytes, const std::string& codec, int lists, int entries,
                   int32_t slots, int32_t heads, int32_t k_dim, int32_t v_dim, int64_t k_bytes, int64_t v_bytes,
                   int64_t window, int64_t slot_bytes, int64_t head_bytes, int64_t page_bytes) {
  PageKind kind{{}, page_bytes, memory_bytes};
  Part& part = kind.part;
  part.memory = pointer<uint8_t>(memory), part.heads = heads, part.k_dim = k_dim, part.v_dim = v_dim;
  if (!KV_PICK(attend_kernels, choose_isa("portable")).set_codec(part, codec.c_str()))
    throw nb::value_error(("the kernels have no codec `" + codec + "`").c_str());
  if (part.k_bytes() != k_bytes || part.v_bytes() != v_bytes)
    throw nb::value_error(("the kernels and Python disagree about the bytes of `" + codec + "`").c_str());
  part.slot_bytes = slot_bytes, part.head_bytes = head_bytes;
  part.lists = (Lists)lists, part.entries = (Entries)entries, part.slots = slots, part.window = window;
  return kind;
}

Rotations bind_rotations(const Ints& shifts, const Table& cos, const Table& sin) {
  if (cos.shape(0) != shifts.size() || sin.shape(0) != shifts.size() || cos.shape(1) != sin.shape(1))
    throw nb::value_error("there must be one row of cos and of sin per rotation");
  return {shifts.data(), cos.data(), sin.data(), (int32_t)shifts.size(), (int32_t)cos.shape(1)};
}

Part bind_part(const Rows& rows, const PageKind& kind, const Ints& page_ids, const Ints& list_bounds,
               const std::optional<Ints>& page_starts, const std::optional<Masks>& page_masks,
               const std::optional<Ints>& list_turns, const Rotations* rotations) {
  Part part = kind.part;
  const size_t num_pages = page_ids.size();
  const int64_t num_lists = (int64_t)list_bounds.size() - 1;
  const int64_t lists_each = part.lists == Lists::by_sequence ? 1 : (int64_t)part.slots * part.heads;
  if (num_lists != rows.seqs * lists_each) throw nb::value_error("there must be one list per reader");
  if (page_starts.has_value() != (part.entries == Entries::contiguous) ||
      (page_starts && page_starts->size() != num_pages))
    throw nb::value_error("there must be one start per page of contiguous entries");
  if (page_masks && page_masks->size() != num_pages) throw nb::value_error("there must be one mask per page");
  if (list_turns && (!rotations || (int64_t)list_turns->size() != num_lists))
    throw nb::value_error("there must be one rotation per list");
  part.page_ids = page_ids.data(), part.list_bounds = list_bounds.data();
  part.page_starts = page_starts ? page_starts->data() : nullptr;
  part.page_masks = page_masks ? page_masks->data() : nullptr;
  if (list_turns) part.list_turns = list_turns->data(), part.rotations = *rotations;
  raise_fault(find_fault(part, (int64_t)num_pages, num_lists, kind.page_bytes, kind.memory_bytes));
  part.even = are_even(part, num_lists);
  return part;
}

BoundWrites bind_writes(const Rows& rows, const PageKind& kind, const Ints& row_pages, const Ints& row_slots) {
  if ((int64_t)row_pages.size() != rows.rows || (int64_t)row_slots.size() != rows.rows)
    throw nb::value_error("there must be one page and one slot per row");
  raise_fault(find_write_fault(row_pages.data(), row_slots.data(), rows.rows, kind.page_bytes, kind.memory_bytes));
  return {kind.part, kind.part.slots, row_pages.data(), row_slots.data()};
}

// Lists, the table that continues them, and where: see Continuation.
typedef std::tuple<int32_t, int32_t, Ints> Seam;

Read bind_seam(const std::vector<Part>& parts, const Seam& seam) {
  const auto& [lists, table, stops] = seam;
  const int32_t count = (int32_t)parts.size();
  if (lists < 0 || lists >= count || table < 0 || table >= count) throw nb::value_error("there is no such part");
  raise_fault(find_fault(parts[lists], {&parts[table], stops.data()}, (int64_t)stops.size()));
  return {lists, table, stops.data()};
}

BoundGroup bind_group(const Rows& rows, std::vector<Part> parts, std::vector<BoundWrites> writes,
                      const std::vector<Seam>& seams) {
  if (parts.empty()) throw nb::value_error("a layer group has no parts");
  std::vector<Read> reads;
  for (int32_t part = 0; part < (int32_t)parts.size(); part++) reads.push_back({part, -1, nullptr});
  for (const Seam& seam : seams) {
    if ((int32_t)std::get<2>(seam).size() != rows.seqs) throw nb::value_error("there must be one stop per sequence");
    const Read made = bind_seam(parts, seam);
    const auto is = [&](int32_t part) { return [part](const Read& read) { return read.part == part; }; };
    const auto lists = std::find_if(reads.begin(), reads.end(), is(made.part));
    if (lists == reads.end() || lists->table >= 0) throw nb::value_error("lists are continued once");
    const auto table = std::find_if(reads.begin(), reads.end(), is(made.table));
    if (table == reads.end() || table->table >= 0) throw nb::value_error("a table continues one part");
    // In the table's place, where rows without such lists have it in any company.
    *table = made;
    reads.erase(lists);
  }
  return {std::move(parts), std::move(writes), std::move(reads)};
}

void run_write(const BoundGroup& group, int32_t layer_slot, int32_t rows, Address k, Address v, int32_t threads,
               const std::string& isa) {
  for (const BoundWrites& writes : group.writes)
    KV_PICK(attend_kernels, choose_isa(isa))
        .write({writes.layout, layer_slot, rows, threads, pointer<const float>(k), pointer<const float>(v),
                writes.row_pages, writes.row_slots});
}

const Read& read_of(const BoundGroup& group, size_t index) {
  if (index >= group.reads.size()) throw nb::index_error("there is no such read");
  return group.reads[index];
}

WorkPlan make_work_plan(const Rows& rows, const BoundGroup& group, size_t index, int32_t layer_slot, int32_t q_heads,
                        int32_t threads) {
  const Read& read = read_of(group, index);
  return WorkPlan(rows, group.parts[read.part], group.after(read), layer_slot, q_heads, threads);
}

int32_t slot_of_work_plan(const BoundGroup& group, size_t index, int32_t layer_slot) {
  return work_plan_slot(group.parts[read_of(group, index).part], layer_slot);
}

void run_attend(const Rows& rows, const BoundGroup& group, size_t index, const WorkPlan& work_plan, int32_t layer_slot,
                float scale, Address q, Address out, Address lse, bool merge, int32_t threads, const std::string& isa) {
  const Read& read = read_of(group, index);
  const Part& part = group.parts[read.part];
  if (!work_plan.fits(rows, part)) throw nb::value_error("the work plan is of another plan");
  KV_PICK(attend_kernels, choose_isa(isa))
      .attend({rows, part, group.after(read).table, work_plan.work(), layer_slot, work_plan.q_heads(), threads, scale,
               pointer<const float>(q), pointer<float>(out), pointer<float>(lse), merge});
}

void bind_attend(nb::module_& m) {
  nb::class_<Rows>(m, "Rows");
  nb::class_<PageKind>(m, "PageKind");
  nb::class_<Rotations>(m, "Rotations");
  nb::class_<Part>(m, "Part");
  nb::class_<BoundWrites>(m, "Writes");
  nb::class_<BoundGroup>(m, "Group").def_prop_ro("reads", [](const BoundGroup& group) { return group.reads.size(); });
  m.def("bind_rows", &bind_rows, "positions"_a.noconvert(), "seq_rows"_a.noconvert());
  m.def("page_kind", &page_kind, nb::kw_only(), "memory"_a, "memory_bytes"_a, "codec"_a, "lists"_a, "entries"_a,
        "slots"_a, "heads"_a, "k_dim"_a, "v_dim"_a, "k_bytes"_a, "v_bytes"_a, "window"_a, "slot_bytes"_a,
        "head_bytes"_a, "page_bytes"_a);
  m.def("bind_rotations", &bind_rotations, "shifts"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert());
  m.def("bind_part", &bind_part, "rows"_a, "kind"_a, "page_ids"_a.noconvert(), "list_bounds"_a.noconvert(),
        "page_starts"_a.noconvert().none(), "page_masks"_a.noconvert().none(), "list_turns"_a.noconvert().none(),
        "rotations"_a.none());
  m.def("bind_writes", &bind_writes, "rows"_a, "kind"_a, "row_pages"_a.noconvert(), "row_slots"_a.noconvert());
  m.def("bind_group", &bind_group, "rows"_a, "parts"_a, "writes"_a, "seams"_a.noconvert());
  m.def("write", &run_write, NoGil(), "group"_a, "layer_slot"_a, "rows"_a, "k"_a, "v"_a, "threads"_a, "isa"_a = "");
  nb::class_<WorkPlan>(m, "WorkPlan").def_prop_ro("kv_bytes", &WorkPlan::kv_bytes);
  m.def("work_plan_slot", &slot_of_work_plan, "group"_a, "read"_a, "layer_slot"_a,
        "The layer slot whose work plan serves this one.");
  m.def("make_work_plan", &make_work_plan, NoGil(), "rows"_a, "group"_a, "read"_a, "layer_slot"_a, "q_heads"_a,
        "threads"_a);
  m.def("attend", &run_attend, NoGil(), "rows"_a, "group"_a, "read"_a, "work_plan"_a, "layer_slot"_a, "scale"_a, "q"_a,
        "out"_a, "lse"_a, "merge"_a, "threads"_a, "isa"_a = "");
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.doc() = "kvloom's C++ kernels. Use them through kvloom.kernels and the classes above it.";
  bind_dispatch(m);
  bind_plan(m);
  bind_attend(m);
  bind_observe(m);
  bind_compression(m);
  bind_linear(m);
  bind_decoder(m);
}
