// float32: numbers are stored unchanged.
#pragma once

#include "codec_floats.h"

namespace kvloom {
namespace KV_ISA {

struct Float32Numbers {
  typedef float type;
  static constexpr int64_t size = 4;
  static inline v16 at(const void* base, int64_t i) { return load((const float*)base + i); }
  static inline void soon(const void* base, int64_t i) { fetch_soon(base, 4 * i), fetch_soon(base, 4 * i + 64); }
  static inline void later(const void* base, int64_t i) { fetch_later(base, 4 * i), fetch_later(base, 4 * i + 64); }
  static inline void encode(const float* x, int32_t n, float* out) { std::memcpy(out, x, (size_t)n * 4); }
};

struct Float32 : FloatCodec<Float32Numbers> {
  static constexpr const char* name = "float32";
  static constexpr int in_place_groups = any_groups;
};

}  // namespace KV_ISA
}  // namespace kvloom
