// The small operators between matrix products, each in one pass. A row's bits depend on that row only, with every
// instruction set.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace kvloom {

// `outer` x `inner` vectors of `width` floats; strides are in floats. `add` (same shape, contiguous) may be null;
// otherwise it is first added to x in place. out is contiguous.
struct NormArgs {
  float* x;
  const float* add;
  const float* weight;
  float* out;
  int64_t outer, inner, width, outer_stride, inner_stride;
  float eps;
  int threads;
};

// x [tokens, heads, >= 2 * half], rotated in place: (a, b) = (x[i], x[i + half]) -> (a cos - b sin, b cos + a
// sin).
struct RopeArgs {
  float* x;
  const int32_t* positions;
  const float *cos, *sin;  // [positions, half]
  int64_t tokens, heads, half, token_stride, head_stride;
  int threads;
};

// Splits qkv [rows, heads + 2 * kv_heads, dim] into contiguous q, k and v, as attention needs them. q and k are normed
// per head (by rms_norm, if the weight is not null) and rotated (by rope); v is copied.
struct SplitHeadsArgs {
  const float* qkv;
  const int32_t* positions;
  const float *cos, *sin;        // [positions, half]
  const float *q_norm, *k_norm;  // [dim] or null
  float *q, *k, *v;
  int64_t rows, heads, kv_heads, dim, half;
  float q_eps, k_eps;
  int threads;
};

// x [rows, 2 * width] holds gate and up side by side; out [rows, width] = f(gate) * up.
struct GateArgs {
  const float* x;
  float* out;
  int64_t rows, width;
  int threads;
};

// out [rows]: index of the largest value of each row of x [rows, width], the first one of several. A NaN counts as the
// largest.
struct ArgmaxArgs {
  const float* x;
  int64_t* out;
  int64_t rows, width;
  int threads;
};

struct OpsKernels {
  void (*rms_norm)(const NormArgs&);
  void (*rope)(const RopeArgs&);
  void (*split_heads)(const SplitHeadsArgs&);
  void (*silu_mul)(const GateArgs&);
  void (*gelu_tanh_mul)(const GateArgs&);
  void (*argmax)(const ArgmaxArgs&);
};
KV_DECLARE_VARIANTS(OpsKernels, ops_kernels)

}  // namespace kvloom
