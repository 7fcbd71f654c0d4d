// Rounds a tile of up to 16 rows to bytes in the order of groups (activations.h). Same results as row by row.
#pragma once

#include "activations.h"

namespace kvloom {
namespace KV_ISA {

#if defined(__AVX512F__)

constexpr int kLaneRows = 16;

// Lane r of the result is `join` over the lanes of rows[r]. `join` may be called in any order.
template <class Join>
static inline ints across_lanes(ints (&rows)[kLaneRows], const Join& join) {
  KV_UNROLL for (int i = 0; i < 8; i++) {
    const ints a = rows[i], b = rows[i + 8];
    rows[i] = join(__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                   __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
  }
  KV_UNROLL for (int i = 0; i < 4; i++) {
    const ints a = rows[i], b = rows[i + 4];
    rows[i] = join(__builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
                   __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31));
  }
  KV_UNROLL for (int i = 0; i < 2; i++) {
    const ints a = rows[i], b = rows[i + 2];
    rows[i] = join(__builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
                   __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
  }
  const ints a = rows[0], b = rows[1];
  return join(__builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
              __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31));
}

// Quantizes group `g` of all rows; row r is at x + min(r, rows - 1) * stride. The rounding errors go to `rest` [16][32]
// unless it is null.
static inline void quantize_group_of_rows(const Plane& out, const float* x, int64_t stride, int64_t g, int64_t rows,
                                          float* rest) {
  const auto row = [&](int64_t r) { return x + (r < rows ? r : rows - 1) * stride; };
  ints lanes[kLaneRows];
  KV_UNROLL for (int r = 0; r < kLaneRows; r++) {
    const auto magnitude = [&](int half) { return (ints)load(row(r) + 16 * half) & 0x7fffffff; };
    lanes[r] = max_int(magnitude(0), magnitude(1));
  }
  const ints top = across_lanes(lanes, [](ints a, ints b) { return max_int(a, b); });
  const v16 most = (v16)top, zero = {};
  const ints finite = top < 0x7f800000, usable = finite & (most > 1e-30f);
  const v16 scale = usable ? most / 127.0f : finite ? zero : splat(NAN);
  alignas(64) float inverses[kLaneRows], scales[kLaneRows];
  store(inverses, usable ? 127.0f / most : zero), store(scales, scale);
  KV_UNROLL for (int r = 0; r < kLaneRows; r++) {
    lanes[r] = ints{};
    KV_UNROLL for (int half = 0; half < 2; half++) {
      const v16 v = load(row(r) + 16 * half);
      // To nearest, ties to even. NaN (a group that is not finite) becomes -2^31, whose lowest byte is 0.
      const __m512i code = _mm512_maskz_cvtps_epi32(0xffff, (__m512)(v * splat(inverses[r])));
      if (r < rows)
        _mm_storeu_si128((__m128i*)(out.codes + (g * rows + r) * kGroup) + half,
                         _mm512_maskz_cvtepi32_epi8(0xffff, code));
      lanes[r] += (ints)code;
      if (rest) store(rest + r * kGroup + 16 * half, fma(splat(-scales[r]), to_floats((ints)code), v));
    }
  }
  const ints sum = across_lanes(lanes, [](ints a, ints b) { return a + b; });
  const __mmask16 there = (__mmask16)((1u << rows) - 1);
  _mm512_mask_storeu_ps(out.scale + g * rows, there, (__m512)scale);
  _mm512_mask_storeu_ps(out.total + g * rows, there, (__m512)(scale * to_floats(sum)));
}

// Quantizes a tile of up to 16 rows.
static inline void quantize_groups(const float* x, int64_t cols, const Activations8& out, int64_t rows) {
  for (int64_t g = 0; g < cols / kGroup; g++) {
    alignas(64) float rest[kLaneRows * kGroup];
    quantize_group_of_rows(out.plane[0], x + g * kGroup, cols, g, rows, out.planes == 2 ? rest : nullptr);
    if (out.planes == 2) quantize_group_of_rows(out.plane[1], rest, kGroup, g, rows, nullptr);
  }
}

#endif

}  // namespace KV_ISA
}  // namespace kvloom
