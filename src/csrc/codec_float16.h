// float16: IEEE half precision, rounded to nearest.
#pragma once

#include "codec_floats.h"

namespace kvloom {
namespace KV_ISA {

struct Float16Numbers {
  typedef uint16_t type;
  static constexpr int64_t size = 2;
  static inline v16 at(const void* base, int64_t i) { return load_f16((const uint16_t*)base + i); }
  static inline void soon(const void* base, int64_t i) { fetch_soon(base, 2 * i); }
  static inline void later(const void* base, int64_t i) { fetch_later(base, 2 * i); }
  static inline void encode(const float* x, int32_t n, uint16_t* out) {
#if defined(__AVX512F__)
    if (n == 16) {
      _mm256_storeu_si256((__m256i*)out, _mm512_maskz_cvtps_ph(0xffff, _mm512_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT));
      return;
    }
#endif
    for (int32_t i = 0; i < n; i++) out[i] = float_to_half(x[i]);
  }
};

struct Float16 : FloatCodec<Float16Numbers> {
  static constexpr const char* name = "float16";
};

}  // namespace KV_ISA
}  // namespace kvloom
