// Shared by the binding files.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "dispatch.h"

namespace kvloom {

// "" means the default. Throws ValueError if this machine cannot run it.
Isa choose_isa(const std::string& name);

// Throws ValueError if there is a fault.
void raise_fault(const char* fault);

// From page tables to the arrays of a plan.
void bind_plan(nanobind::module_& m);

// What a compression does: entries move between pages, and are merged.
void bind_compression(nanobind::module_& m);

// Weights, matrix products, and the small operators.
void bind_linear(nanobind::module_& m);

// Statistics of attention.
void bind_observe(nanobind::module_& m);

// A whole step of a decoder in one call.
void bind_decoder(nanobind::module_& m);

}  // namespace kvloom
