// y = x W^T + b over packed weights (weights.h).
//
// The contract with float activations: y[r][o] starts at b[o] (or 0) and takes x[r][c] * w[o][c] for c = 0, 1, ...
// one after another, by fused multiply-add in float: one chain per output. w is the float value of the weight (see
// weights.h).
//
// With int8 activations, x is rounded as activations.h says, to codes q with a scale s per 32 columns. y[r][o] starts
// as above and takes the weights' groups one after another: first, by fused multiply-add, the exact integer sum of
// q * code times s * d rounded to float, then, by fused multiply-add too and if the kind has minima, s * (the sum of
// q over the group) rounded to float times m. int16 activations are a second plane beside that: what the first left
// over, x - s * q by fused multiply-add, is rounded in the same way, and every group adds its terms after those of the
// first plane. Parts of plain floats, and matrices whose columns are no multiple of
// 32, are multiplied with float activations all the same.
//
// Results depend on nothing else, such as the number of rows, the threads, the tiling or the instruction set, so a
// row's bits never depend on the other rows.
#pragma once

#include <cstdint>

#include "dispatch.h"
#include "weights.h"

namespace kvloom {

enum class Activations : int { float32, int8, int16 };  // the value: planes of bytes

struct LinearArgs {
  const float* x;       // [rows, cols]
  const Matrix* parts;  // stacked along the outputs; all have `cols` columns
  const float* bias;    // [outputs] or null
  float* out;           // [rows, outputs]
  int64_t rows, cols, outputs, num_parts;
  int threads;
  Activations activations = Activations::float32;
};

enum class Gate : int32_t { silu, gelu_tanh };

// down.out = down(gate(y[:, :half]) * y[:, half:]), y = gate_up(x): the bits of the three operators one by one, but
// what is between the products stays near the core that made it. gate_up has two parts, of as many outputs each as down
// has columns; its `out` and the `x` of down are not used.
struct MlpArgs {
  LinearArgs gate_up, down;
  Gate gate;
  float* between;  // room for [rows, down.cols]
};

struct LinearKernels {
  void (*linear)(const LinearArgs&);
  void (*mlp)(const MlpArgs&);
};
KV_DECLARE_VARIANTS(LinearKernels, linear_kernels)

}  // namespace kvloom
