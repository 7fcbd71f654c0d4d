// The module, and what attend needs of it. Python passes addresses as integers: tensors are checked there,
// once, and not known here.
//
// Each family of kernels has its own bind_ function. All release the GIL while they work.
#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "attend.h"
#include "decoder.h"
#include "schedule.h"

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

// What all parts of one page format and window have in common.
struct PartKind {
  Part part;
  int64_t page_bytes, memory_bytes;
};

PartKind part_kind(Address memory, int64_t memory_bytes, int number, bool ragged, int32_t heads, int32_t k_dim,
                   int32_t v_dim, int64_t window, int64_t cell_bytes, int64_t page_bytes) {
  return {{pointer<uint8_t>(memory), (Number)number, ragged, heads, k_dim, v_dim, window, cell_bytes, nullptr, nullptr,
           nullptr},
          page_bytes,
          memory_bytes};
}

BoundPart bind_part(const Rows& rows, const PartKind& kind, const Ints& page_ids, const Ints& page_marks,
                    const Ints& page_lists) {
  const int64_t num_pages = (int64_t)page_ids.size(), num_lists = (int64_t)page_lists.size() - 1;
  if ((int64_t)page_marks.size() != num_pages) throw nb::value_error("there must be one mark per page");
  if (num_lists < 0 || (!kind.part.ragged && num_lists != rows.seqs))
    throw nb::value_error("there must be one list per sequence");
  Part part = kind.part;
  part.page_ids = page_ids.data(), part.page_marks = page_marks.data(), part.page_lists = page_lists.data();
  raise_fault(find_fault(part, num_pages, num_lists, kind.page_bytes, kind.memory_bytes));
  return {part};
}

BoundPart bind_written_part(const Rows& rows, const PartKind& kind, const Ints& page_ids, const Ints& page_marks,
                            const Ints& page_lists, const Ints& row_pages, const Ints& row_slots) {
  BoundPart bound = bind_part(rows, kind, page_ids, page_marks, page_lists);
  if ((int64_t)row_pages.size() != rows.rows || (int64_t)row_slots.size() != rows.rows)
    throw nb::value_error("there must be one page and one slot per row");
  raise_fault(find_write_fault(row_pages.data(), row_slots.data(), rows.rows, kind.page_bytes, kind.memory_bytes));
  bound.row_pages = row_pages.data(), bound.row_slots = row_slots.data();
  return bound;
}

void run_write(const Rows& rows, const BoundPart& bound, int32_t layer_slot, Address k, Address v, int32_t threads,
               const std::string& isa) {
  KV_PICK(attend_kernels, choose_isa(isa))
      .write({bound.part, layer_slot, rows.rows, threads, pointer<const float>(k), pointer<const float>(v),
              bound.row_pages, bound.row_slots});
}

Schedule make_schedule(const Rows& rows, const BoundPart& bound, int32_t layer_slot, int32_t q_heads, int32_t threads) {
  return Schedule(rows, bound.part, layer_slot, q_heads, threads);
}

void run_attend(const Rows& rows, const BoundPart& bound, const Schedule& schedule, int32_t layer_slot, float scale,
                Address q, Address out, Address lse, bool merge, int32_t threads, const std::string& isa) {
  if (!schedule.fits(rows, bound.part)) throw nb::value_error("the schedule is of another plan");
  KV_PICK(attend_kernels, choose_isa(isa))
      .attend({rows, bound.part, schedule.work(), layer_slot, schedule.q_heads(), threads, scale,
               pointer<const float>(q), pointer<float>(out), pointer<float>(lse), merge});
}

void bind_attend(nb::module_& m) {
  nb::class_<Rows>(m, "Rows");
  nb::class_<PartKind>(m, "PartKind");
  nb::class_<BoundPart>(m, "Part");
  m.def("bind_rows", &bind_rows, "positions"_a.noconvert(), "seq_rows"_a.noconvert());
  m.def("part_kind", &part_kind, nb::kw_only(), "memory"_a, "memory_bytes"_a, "number"_a, "ragged"_a, "heads"_a,
        "k_dim"_a, "v_dim"_a, "window"_a, "cell_bytes"_a, "page_bytes"_a);
  m.def("bind_part", &bind_part, "rows"_a, "kind"_a, "page_ids"_a.noconvert(), "page_marks"_a.noconvert(),
        "page_lists"_a.noconvert());
  m.def("bind_written_part", &bind_written_part, "rows"_a, "kind"_a, "page_ids"_a.noconvert(),
        "page_marks"_a.noconvert(), "page_lists"_a.noconvert(), "row_pages"_a.noconvert(), "row_slots"_a.noconvert());
  m.def("write", &run_write, NoGil(), "rows"_a, "part"_a, "layer_slot"_a, "k"_a, "v"_a, "threads"_a, "isa"_a = "");
  nb::class_<Schedule>(m, "Schedule").def_prop_ro("kv_bytes", &Schedule::kv_bytes);
  m.def("make_schedule", &make_schedule, NoGil(), "rows"_a, "part"_a, "layer_slot"_a, "q_heads"_a, "threads"_a);
  m.def("attend", &run_attend, NoGil(), "rows"_a, "part"_a, "schedule"_a, "layer_slot"_a, "scale"_a, "q"_a, "out"_a,
        "lse"_a, "merge"_a, "threads"_a, "isa"_a = "");
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.doc() = "kvloom's C++ kernels. Use them through kvloom.kernels and the classes above it.";
  bind_dispatch(m);
  bind_plan(m);
  bind_attend(m);
  bind_linear(m);
  bind_decoder(m);
}
