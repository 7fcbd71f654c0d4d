// The activations of a gated MLP.
#pragma once

#include "simd.h"

namespace kvloom {
namespace KV_ISA {

static inline v16 sigmoid_of_negative(v16 x) {
  return splat(1.0f) / (splat(1.0f) + vexp(x));
}

static inline v16 silu(v16 x) {
  return x * sigmoid_of_negative(splat(-1.0f) * x);
}

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3). Computed without cancellation.
static inline v16 gelu_tanh(v16 x) {
  const v16 cubic = fma(x * x * x, splat(0.044715f), x);
  return x * sigmoid_of_negative(cubic * splat(-1.5957691216057308f));
}

}  // namespace KV_ISA
}  // namespace kvloom
