// Python's door to what a compression does: entries move between pages, and are merged. Arrays are checked here, so
// that kernels only read and write what there is.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "attend.h"
#include "bindings.h"
#include "doubles.h"
#include "merge.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvloom {
namespace {

template <class T, size_t kDims>
using Array = nb::ndarray<T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
typedef Array<const int32_t, 1> Ints;
typedef Array<const int64_t, 1> Indices;
typedef Array<const float, 1> Row;
typedef Array<const float, 2> Rows2;

void check(bool holds, const char* fault) {
  if (!holds) throw nb::value_error(fault);
}

// --- Gather ----------------------------------------------------------------------------------------------------------

// Which entries go to which page, and where on it.
struct Placed {
  std::vector<int64_t> firsts{0};
  std::vector<int32_t> places;
  std::vector<uint16_t> masks;

  // Entries of a list, after `lead` unused places.
  void add(int64_t entries, int32_t lead) {
    check(entries >= 0, "bounds must ascend");
    check(lead >= 0 && lead < page_tokens, "less than a page stays unused before a list's entries");
    for (int64_t left = entries; left > 0; lead = 0) {
      const int32_t here = (int32_t)std::min<int64_t>(left, page_tokens - lead);
      places.push_back(lead);
      firsts.push_back(firsts.back() + here);
      masks.push_back((uint16_t)(((1u << here) - 1) << lead));
      left -= here;
    }
  }
};

// The row of new keys and values that each entry gets.
std::vector<int32_t> rows_of(const Indices& changed, size_t entries) {
  std::vector<int32_t> made(entries, not_made);
  for (size_t row = 0; row < changed.size(); row++) {
    const int64_t entry = changed.data()[row];
    check(entry >= 0 && entry < (int64_t)entries, "a new entry is none of the entries");
    made[entry] = (int32_t)row;
  }
  return made;
}

PageLayout layout_of(const AttendKernels& kernels, const Array<const uint8_t, 1>& memory, const std::string& codec,
                     int32_t k_dim, int32_t v_dim) {
  PageLayout layout{};
  layout.memory = const_cast<uint8_t*>(memory.data()), layout.heads = 1, layout.k_dim = k_dim, layout.v_dim = v_dim;
  check(k_dim > 0 && k_dim % 16 == 0 && v_dim > 0 && v_dim % 16 == 0, "head dims must be multiples of 16");
  check(kernels.set_codec(layout, codec.c_str()), "the kernels have no such codec");
  return layout;
}

void run_gather(const Array<const uint8_t, 1>& memory, const std::string& codec, int32_t k_dim, int32_t v_dim,
                const Indices& bounds, const Ints& leads, const Indices& cells, const Ints& slots,
                const Ints& positions, const Row& biases, const Indices& changed, const Rows2& k, const Rows2& v,
                const Array<uint8_t, 2>& pages, const Array<uint16_t, 1>& masks, int32_t threads,
                const std::string& isa) {
  const auto& kernels = KV_PICK(attend_kernels, choose_isa(isa));
  GatherCall call{};
  call.from = layout_of(kernels, memory, codec, k_dim, v_dim);
  const size_t lists = leads.size(), entries = cells.size(), rows = changed.size();
  check(bounds.size() == lists + 1 && bounds.data()[0] == 0 && bounds.data()[lists] == (int64_t)entries,
        "bounds must cover all entries");
  check(slots.size() == entries && positions.size() == entries && biases.size() == entries,
        "there must be one of each per entry");
  check(k.shape(0) == rows && v.shape(0) == rows && (int64_t)k.shape(1) == k_dim && (int64_t)v.shape(1) == v_dim,
        "there must be a key and a value for each new entry");
  Placed placed;
  for (size_t n = 0; n < lists; n++) placed.add(bounds.data()[n + 1] - bounds.data()[n], leads.data()[n]);
  call.num_pages = (int64_t)placed.places.size();
  check((int64_t)pages.shape(0) == call.num_pages && (int64_t)masks.size() == call.num_pages,
        "there must be as many pages as entries fill");
  check((int64_t)pages.shape(1) == call.page_bytes(), "the kernels and Python disagree about the bytes of a page");
  const std::vector<int32_t> made = rows_of(changed, entries);
  call.places = placed.places.data(), call.firsts = placed.firsts.data(), call.made = made.data();
  call.cells = cells.data(), call.slots = slots.data(), call.positions = positions.data(), call.biases = biases.data();
  call.k = k.data(), call.v = v.data(), call.pages = pages.data(), call.threads = threads;
  raise_fault(find_gather_fault(call, (int64_t)rows, (int64_t)memory.size()));
  std::copy(placed.masks.begin(), placed.masks.end(), masks.data());
  const nb::gil_scoped_release unlocked;
  kernels.gather(call);
}

void run_read(const Array<const uint8_t, 1>& memory, const std::string& codec, int32_t k_dim, int32_t v_dim, bool keys,
              const Array<const int64_t, 2>& cells, const Array<const int32_t, 2>& slots, const Array<float, 3>& out,
              int32_t threads, const std::string& isa) {
  const auto& kernels = KV_PICK(attend_kernels, choose_isa(isa));
  const ReadCall call{layout_of(kernels, memory, codec, k_dim, v_dim),
                      keys,
                      (int32_t)cells.shape(0),
                      (int64_t)cells.shape(1),
                      cells.data(),
                      slots.data(),
                      out.data(),
                      threads};
  check(slots.shape(0) == cells.shape(0) && slots.shape(1) == cells.shape(1), "there must be one of each per entry");
  check((int64_t)out.shape(0) == call.entries && (int64_t)out.shape(1) == call.heads &&
            (int64_t)out.shape(2) == call.dim(),
        "what is read has another shape");
  raise_fault(find_read_fault(call, (int64_t)memory.size()));
  const nb::gil_scoped_release unlocked;
  kernels.read(call);
}

// --- Merge -----------------------------------------------------------------------------------------------------------

// Rows of heads in panels.
std::vector<Panel> panels_of(const Indices& bounds, size_t num_rows, std::vector<int64_t>* firsts = nullptr) {
  const int64_t* first = bounds.data();
  const size_t heads = bounds.size() - 1;
  check(bounds.size() > 0 && first[0] == 0 && first[heads] == (int64_t)num_rows, "bounds must cover all rows");
  std::vector<Panel> panels;
  for (size_t head = 0; head < heads; head++) {
    check(first[head] <= first[head + 1], "bounds must ascend");
    if (firsts) firsts->push_back((int64_t)panels.size());
    for (int64_t at = first[head]; at < first[head + 1]; at += panel_rows)
      panels.push_back({(int32_t)head, (int32_t)std::min<int64_t>(panel_rows, first[head + 1] - at), at});
  }
  if (firsts) firsts->push_back((int64_t)panels.size());
  return panels;
}

void check_rows(const Indices& rows, const Rows2& x) {
  const auto inside = [&](int64_t row) { return row >= 0 && row < (int64_t)x.shape(0); };
  check(std::all_of(rows.data(), rows.data() + rows.size(), inside), "there is no such row");
}

void run_nearest(const Rows2& x, const Indices& rows, const Indices& bounds, const Indices& others,
                 const Indices& other_bounds, const Array<int64_t, 1>& nearest, const Array<float, 1>& cosines,
                 int32_t threads, const std::string& isa) {
  check_rows(rows, x), check_rows(others, x);
  check(bounds.size() == other_bounds.size(), "there must be bounds for every head");
  check(nearest.size() == rows.size() && cosines.size() == rows.size(), "there must be one result per row");
  std::vector<int64_t> firsts;
  const std::vector<Panel> panels = panels_of(bounds, rows.size()),
                           other_panels = panels_of(other_bounds, others.size(), &firsts);
  for (const Panel& panel : panels)
    check(firsts[panel.head] < firsts[panel.head + 1], "a head has nothing to compare with");
  const auto& kernels = KV_PICK(merge_kernels, choose_isa(isa));
  const nb::gil_scoped_release unlocked;
  const int64_t dim = (int64_t)x.shape(1);
  const std::unique_ptr<float[]> units(new float[other_panels.size() * panel_rows * dim]);
  kernels.nearest({x.data(), dim, rows.data(), others.data(), panels.data(), other_panels.data(),
                   (int64_t)panels.size(), (int64_t)other_panels.size(), firsts.data(), units.get(), nearest.data(),
                   cosines.data(), threads});
}

void run_weigh(const Rows2& x, const Indices& rows, const Indices& bounds, const Array<const float, 3>& queries,
               const Row& logs, const Array<float, 1>& weights, int32_t threads, const std::string& isa) {
  check_rows(rows, x);
  check(bounds.size() == queries.shape(0) + 1, "there must be queries of every head");
  check(queries.shape(1) > 0 && queries.shape(1) == logs.size(), "there must be queries, and how much each counts");
  check(queries.shape(2) == x.shape(1), "queries and keys have different dims");
  check(weights.size() == rows.size(), "there must be one result per row");
  const std::vector<Panel> panels = panels_of(bounds, rows.size());
  const auto& kernels = KV_PICK(merge_kernels, choose_isa(isa));
  const nb::gil_scoped_release unlocked;
  kernels.weigh({x.data(), (int64_t)x.shape(1), rows.data(), panels.data(), (int64_t)panels.size(), queries.data(),
                 logs.data(), (int64_t)logs.size(), weights.data(), threads});
}

void run_sum(const Rows2& x, const Indices& rows, const Row& shares, const Indices& bounds, const Array<float, 2>& out,
             int32_t threads, const std::string& isa) {
  check_rows(rows, x);
  check(shares.size() == rows.size(), "there must be one share per row");
  check(bounds.size() == out.shape(0) + 1 && out.shape(1) == x.shape(1), "there must be bounds of every sum");
  check(bounds.data()[0] == 0 && bounds.data()[out.shape(0)] == (int64_t)rows.size() &&
            std::is_sorted(bounds.data(), bounds.data() + bounds.size()),
        "bounds must ascend and cover all rows");
  const auto& kernels = KV_PICK(merge_kernels, choose_isa(isa));
  const nb::gil_scoped_release unlocked;
  kernels.sum({x.data(), (int64_t)x.shape(1), rows.data(), bounds.data(), shares.data(), (int64_t)out.shape(0),
               out.data(), threads});
}

// --- Fit -------------------------------------------------------------------------------------------------------------

void run_multiply(const Array<const double, 3>& a, const Array<const double, 3>& b, const Array<double, 3>& out,
                  int32_t threads, const std::string& isa) {
  check(a.shape(0) == b.shape(0) && a.shape(0) == out.shape(0) && a.shape(2) == b.shape(1) &&
            out.shape(1) == a.shape(1) && out.shape(2) == b.shape(2),
        "the shapes of a product do not match");
  const auto& kernels = KV_PICK(double_kernels, choose_isa(isa));
  const nb::gil_scoped_release unlocked;
  kernels.multiply({a.data(), b.data(), out.data(), (int64_t)a.shape(0), (int64_t)a.shape(1), (int64_t)a.shape(2),
                    (int64_t)b.shape(2), threads});
}

void run_solve(const Array<double, 3>& a, const Array<double, 3>& y, int32_t threads, const std::string& isa) {
  check(a.shape(1) == a.shape(2) && a.shape(0) == y.shape(0) && a.shape(1) == y.shape(1),
        "the shapes of a system do not match");
  const auto& kernels = KV_PICK(double_kernels, choose_isa(isa));
  const nb::gil_scoped_release unlocked;
  kernels.solve({a.data(), y.data(), (int64_t)a.shape(0), (int64_t)a.shape(1), (int64_t)y.shape(2), threads});
}

}  // namespace

void bind_compression(nb::module_& m) {
  m.def("gather", &run_gather, nb::kw_only(), "memory"_a.noconvert(), "codec"_a, "k_dim"_a, "v_dim"_a,
        "bounds"_a.noconvert(), "leads"_a.noconvert(), "cells"_a.noconvert(), "slots"_a.noconvert(),
        "positions"_a.noconvert(), "biases"_a.noconvert(), "changed"_a.noconvert(), "k"_a.noconvert(),
        "v"_a.noconvert(), "pages"_a.noconvert(), "masks"_a.noconvert(), "threads"_a, "isa"_a = "");
  m.def("read", &run_read, nb::kw_only(), "memory"_a.noconvert(), "codec"_a, "k_dim"_a, "v_dim"_a, "keys"_a,
        "cells"_a.noconvert(), "slots"_a.noconvert(), "out"_a.noconvert(), "threads"_a, "isa"_a = "");
  m.def("nearest", &run_nearest, "x"_a.noconvert(), "rows"_a.noconvert(), "bounds"_a.noconvert(),
        "others"_a.noconvert(), "other_bounds"_a.noconvert(), "nearest"_a.noconvert(), "cosines"_a.noconvert(),
        "threads"_a, "isa"_a = "");
  m.def("weigh", &run_weigh, "x"_a.noconvert(), "rows"_a.noconvert(), "bounds"_a.noconvert(), "queries"_a.noconvert(),
        "logs"_a.noconvert(), "weights"_a.noconvert(), "threads"_a, "isa"_a = "");
  m.def("sum_rows", &run_sum, "x"_a.noconvert(), "rows"_a.noconvert(), "shares"_a.noconvert(), "bounds"_a.noconvert(),
        "out"_a.noconvert(), "threads"_a, "isa"_a = "");
  m.def("multiply", &run_multiply, "a"_a.noconvert(), "b"_a.noconvert(), "out"_a.noconvert(), "threads"_a,
        "isa"_a = "");
  m.def("solve", &run_solve, "a"_a.noconvert(), "y"_a.noconvert(), "threads"_a, "isa"_a = "");
}

}  // namespace kvloom
