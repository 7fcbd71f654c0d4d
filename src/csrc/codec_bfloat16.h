// bfloat16: the upper half of a float32, rounded to nearest.
#pragma once

#include "codec_floats.h"

namespace kvloom {
namespace KV_ISA {

struct BFloat16Numbers {
  typedef uint16_t type;
  static constexpr int64_t size = 2;
  static inline v16 at(const void* base, int64_t i) { return load_bf16((const uint16_t*)base + i); }
  static inline void soon(const void* base, int64_t i) { fetch_soon(base, 2 * i); }
  static inline void later(const void* base, int64_t i) { fetch_later(base, 2 * i); }
  static inline void encode(const float* x, int32_t n, uint16_t* out) {
    for (int32_t i = 0; i < n; i++) out[i] = float_to_bf16(x[i]);
  }
};

struct BFloat16 : FloatCodec<BFloat16Numbers> {
  static constexpr const char* name = "bfloat16";
};

}  // namespace KV_ISA
}  // namespace kvloom
