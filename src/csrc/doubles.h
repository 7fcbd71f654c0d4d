// Products of matrices, and systems of equations, in double precision: for methods that fit something. numpy would call
// a library that has threads of its own, which wait for each other.
//
// Every element of a result is one chain of multiplications and additions in a fixed order, whatever the threads and
// the instruction set are. Matrices are contiguous, row after row.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace kvloom {

// out = a b, for each of several pairs.
struct ProductArgs {
  const double *a, *b;  // [pairs][rows][inner], [pairs][inner][columns]
  double* out;          // [pairs][rows][columns]
  int64_t pairs, rows, inner, columns;
  int threads;
};

// Solves a x = y for each of several symmetric, positive definite a. x replaces y, and a becomes working memory. Pivots
// that rounding has left without a positive value are replaced by a small one.
struct SolveArgs {
  double* a;  // [systems][size][size]
  double* y;  // [systems][size][columns]
  int64_t systems, size, columns;
  int threads;
};

struct DoubleKernels {
  void (*multiply)(const ProductArgs&);
  void (*solve)(const SolveArgs&);
};
KV_DECLARE_VARIANTS(DoubleKernels, double_kernels)

}  // namespace kvloom
