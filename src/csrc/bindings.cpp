#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings_linear.h"
#include "dispatch.h"

namespace {

std::optional<int> runnable(kvloom::Isa isa) {
  if (isa == kvloom::num_isas) return std::nullopt;
  return (int)isa;
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (int i = 0; i < kvloom::num_isas; i++)
    if (kvloom::machine_runs((kvloom::Isa)i)) names.emplace_back(kvloom::isa_names[i]);
  return names;
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.def("isas", isas);
  m.def("find_isa", [](const std::string& name) { return runnable(kvloom::find_isa(name.c_str())); });
  m.def("default_isa", [] { return runnable(kvloom::default_isa()); });
  kvloom::bind_linear(m);
}
