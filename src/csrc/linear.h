// y = x W^T + b over packed weights (weights.h).
//
// The contract: y[r][o] starts at b[o] (or 0) and takes x[r][c] * w[o][c] for c = 0, 1, ... one after
// another, by fused multiply-add in float: one chain per output. Nothing else enters: not the number of rows,
// the threads, the tiling or the instruction set, so that a row's bits never depend on its company. w is the
// float value of the weight (see weights.h).
#pragma once

#include <cstdint>

#include "dispatch.h"
#include "weights.h"

namespace kvloom {

struct LinearArgs {
  const float* x;       // [rows, cols]
  const Matrix* parts;  // stacked along the outputs; all have `cols` columns
  const float* bias;    // [outputs] or null
  float* out;           // [rows, outputs]
  int64_t rows, cols, outputs, num_parts;
  int threads;
};

struct LinearKernels {
  void (*linear)(const LinearArgs&);
};
KV_DECLARE_VARIANTS(LinearKernels, linear_kernels)

}  // namespace kvloom
