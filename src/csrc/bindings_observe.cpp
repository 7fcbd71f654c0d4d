// Python's door to the statistics of attention. What is asked is bound once per step and checked then; arrays are not
// kept alive.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "decoder.h"
#include "observe.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvloom {
namespace {

typedef nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> Ints;
typedef nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> Places;
typedef nb::ndarray<double, nb::ndim<3>, nb::c_contig, nb::device::cpu> Running;
typedef nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> Counts;
typedef nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu> Queries;

Chosen choose(const Rows& rows, int32_t sequence, const Ints& chosen, std::vector<int64_t> layers, size_t places) {
  if (layers.size() != places) throw nb::value_error("there must be one place per layer");
  Chosen made{sequence, (int32_t)chosen.size(), chosen.data(), std::move(layers)};
  raise_fault(find_fault(made, rows));
  return made;
}

void add_tally(Observer& observer, const Rows& rows, int32_t sequence, const Ints& chosen, std::vector<int64_t> layers,
               int reduce, int64_t first_column, const Running& running, const Counts& counted) {
  Chosen made = choose(rows, sequence, chosen, std::move(layers), running.shape(0));
  if (counted.size() != running.shape(0)) throw nb::value_error("there must be one count per layer");
  observer.tallies.push_back({std::move(made), (Reduce)reduce, (int32_t)running.shape(1), first_column,
                              (int64_t)running.shape(2), running.data(), counted.data()});
}

void add_record(Observer& observer, const Rows& rows, int32_t sequence, const Ints& chosen, std::vector<int64_t> layers,
                const Places& places, const Queries& queries) {
  Chosen made = choose(rows, sequence, chosen, std::move(layers), queries.shape(0));
  if (places.size() != chosen.size()) throw nb::value_error("there must be one place per row");
  for (size_t n = 0; n < places.size(); n++)
    if (places.data()[n] < 0 || places.data()[n] >= (int64_t)queries.shape(1))
      throw nb::value_error("a row has no place");
  observer.records.push_back({std::move(made), places.data(), (int64_t)queries.shape(1), (int64_t)queries.shape(2),
                              (int64_t)queries.shape(3), queries.data()});
}

void run_observe(const Observer& observer, const Rows& rows, const BoundGroup& group, int64_t layer, int32_t slot,
                 float scale, int32_t q_heads, uintptr_t q, uintptr_t lse, int32_t threads, const std::string& isa) {
  const Attended attended{rows,
                          group.parts,
                          layer,
                          slot,
                          q_heads,
                          group.parts[0].k_dim,
                          threads,
                          scale,
                          (const float*)q,
                          (const float*)lse};
  raise_fault(find_fault(observer, attended));
  const nb::gil_scoped_release unlocked;
  observe(KV_PICK(attend_kernels, choose_isa(isa)), attended, observer);
}

}  // namespace

void bind_observe(nb::module_& m) {
  nb::class_<Observer>(m, "Observer")
      .def(nb::init<>())
      .def("add_tally", &add_tally, "rows"_a, "sequence"_a, "chosen"_a.noconvert(), "layers"_a, "reduce"_a,
           "first_column"_a, "running"_a.noconvert(), "counted"_a.noconvert())
      .def("add_record", &add_record, "rows"_a, "sequence"_a, "chosen"_a.noconvert(), "layers"_a,
           "places"_a.noconvert(), "queries"_a.noconvert());
  m.def("observe", &run_observe, "observer"_a, "rows"_a, "group"_a, "layer"_a, "layer_slot"_a, "scale"_a, "q_heads"_a,
        "q"_a, "lse"_a, "threads"_a, "isa"_a = "");
}

}  // namespace kvloom
