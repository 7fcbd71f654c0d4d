// y = x W^T + b with packed weights (weights.h).
//
// With float activations, y[r][o] starts with b[o] (or 0), to which x[r][c] * w[o][c] is added for c = 0, 1, ... in
// this order, by fused multiply-adds in float: one chain per output. w is the float value of the weight (see
// weights.h).
//
// With int8 activations, x is rounded as described in activations.h, to codes q with a scale s per 32 columns. y[r][o]
// starts as above, and the groups of the weights are added one after another. A group adds the exact integer sum of q *
// code, times s * d (rounded to float), by a fused multiply-add. If the kind has minima, it then adds s * (sum of q
// over the group), rounded to float, times m, by another. int16 activations have a second plane: what the first one
// left over, x - s * q by a fused multiply-add, is rounded in the same way, and every group adds the terms of the
// second plane after those of the first. Plain float weights, and matrices whose number of columns is not a multiple of
// 32, always use float activations.
//
// Results depend on nothing else: not on the number of rows, the threads, the tiling or the instruction set. A row's
// bits therefore never depend on other rows.
#pragma once

#include <cstdint>

#include "dispatch.h"
#include "weights.h"

namespace kvloom {

enum class Activations : int { float32, int8, int16 };  // the value is the number of byte planes

struct LinearArgs {
  const float* x;       // [rows, cols]
  const Matrix* parts;  // stacked along the outputs; each has `cols` columns
  const float* bias;    // [outputs] or null
  float* out;           // [rows, outputs]
  int64_t rows, cols, outputs, num_parts;
  int threads;
  Activations activations = Activations::float32;
};

enum class Gate : int32_t { silu, gelu_tanh };

// down.out = down(gate(y[:, :half]) * y[:, half:]), y = gate_up(x): the same bits as three separate operators, but the
// values in between stay near the core that computed them. gate_up has two parts, each with as many outputs as down has
// columns. gate_up.out and down.x are not used.
struct MlpArgs {
  LinearArgs gate_up, down;
  Gate gate;
  float* between;  // working memory, [rows, down.cols]
};

struct LinearKernels {
  void (*linear)(const LinearArgs&);
  void (*mlp)(const MlpArgs&);
};
KV_DECLARE_AMX_VARIANTS(LinearKernels, linear_kernels)

}  // namespace kvloom
