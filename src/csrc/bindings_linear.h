#pragma once

#include <nanobind/nanobind.h>

namespace kvloom {

void bind_linear(nanobind::module_& m);

}  // namespace kvloom
