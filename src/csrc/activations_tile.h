// Rounds a tile of rows to bytes at once (activations.h). A lane is a row, so that maxima and sums need no reduction
// across lanes, and codes come out in the order in which the kernels read them. Same results as row by row.
#pragma once

#include "activations_groups.h"

namespace kvloom {
namespace KV_ISA {

#if defined(__AVX512F__)

constexpr int64_t kLeastLanes = 8;  // fewer rows are faster one by one

// Four columns of rows r, r + 4 and r + 8; the last row stands in for rows that do not exist.
static inline v16 three_rows(const float* x, int64_t stride, int64_t r, int64_t rows) {
  const auto four = [&](int64_t row) { return _mm_loadu_ps(x + (row < rows ? row : rows - 1) * stride); };
  __m512 v = _mm512_zextps128_ps512(four(r));
  v = _mm512_maskz_insertf32x4(0xffff, v, four(r + 4), 1);
  return (v16)_mm512_maskz_insertf32x4(0xffff, v, four(r + 8), 2);
}

// Loads 32 columns of up to 12 rows.
static inline void load_columns(const float* x, int64_t stride, int64_t rows, v16 (&column)[kGroup]) {
  for (int c = 0; c < kGroup; c += 4) {
    const v16 a = three_rows(x + c, stride, 0, rows), b = three_rows(x + c, stride, 1, rows);
    const v16 e = three_rows(x + c, stride, 2, rows), f = three_rows(x + c, stride, 3, rows);
    typedef double d8 __attribute__((vector_size(64)));
    const d8 ab_low = (d8)__builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    const d8 ef_low = (d8)__builtin_shufflevector(e, f, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    const d8 ab_high = (d8)__builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    const d8 ef_high = (d8)__builtin_shufflevector(e, f, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    column[c] = (v16)__builtin_shufflevector(ab_low, ef_low, 0, 8, 2, 10, 4, 12, 6, 14);
    column[c + 1] = (v16)__builtin_shufflevector(ab_low, ef_low, 1, 9, 3, 11, 5, 13, 7, 15);
    column[c + 2] = (v16)__builtin_shufflevector(ab_high, ef_high, 0, 8, 2, 10, 4, 12, 6, 14);
    column[c + 3] = (v16)__builtin_shufflevector(ab_high, ef_high, 1, 9, 3, 11, 5, 13, 7, 15);
  }
}

// Quantizes group `g` of all rows. If `leave_rest`, the rounding errors replace x.
static inline void quantize_columns(const Plane& out, int64_t g, int64_t rows, bool leave_rest, v16 (&x)[kGroup]) {
  const __mmask16 lanes = (__mmask16)((1u << rows) - 1);
  const auto put = [&](void* to, auto v) { _mm512_mask_storeu_epi32(to, lanes, (__m512i)v); };
  const v16 zero = {}, magic = splat(12582912.0f);  // see `rounded`
  ints top = {};
  for (int c = 0; c < kGroup; c++) top = max_int(top, (ints)x[c] & 0x7fffffff);
  const v16 most = (v16)top;
  const ints finite = top < 0x7f800000, usable = finite & (most > 1e-30f);
  const v16 scale = usable ? most / 127.0f : finite ? zero : splat(NAN);
  const v16 inverse = usable ? 127.0f / most : zero;
  ints sums[2];
  for (int half = 0; half < 2; half++) {
    ints sum = {};
    for (int c = 16 * half; c < 16 * half + 16; c += 4) {
      ints word = {};
      KV_UNROLL for (int i = 0; i < 4; i++) {
        const v16 moved = x[c + i] * inverse + magic;  // its lowest bits are the code
        const ints code = ((ints)moved - (ints)magic) & usable;
        sum += code;
        word |= (code & 255) << (8 * i);
        if (leave_rest) x[c + i] = fma(zero - scale, __builtin_convertvector(code, v16), x[c + i]);
      }
      put(out.codes + (g * kGroup + c) * rows, word);
    }
    put(out.less8 + (2 * g + half) * rows, sum * -8);
    put(out.less128 + (2 * g + half) * rows, sum * -128);
    sums[half] = sum;
  }
  put(out.scale + g * rows, scale);
  put(out.total + g * rows, scale * __builtin_convertvector(sums[0] + sums[1], v16));
}

// Quantizes a tile of kLeastLanes to 12 rows.
static inline void quantize_lanes(const float* x, int64_t cols, const Activations8& out, int64_t rows) {
  for (int64_t g = 0; g < cols / kGroup; g++) {
    v16 column[kGroup];
    load_columns(x + g * kGroup, cols, rows, column);
    for (int i = 0; i < out.planes; i++) quantize_columns(out.plane[i], g, rows, i + 1 < out.planes, column);
  }
}

#endif

// Quantizes a tile.
static inline void quantize_tile(const float* x, int64_t cols, const Activations8& out, int64_t rows) {
#if defined(__AVX512F__)
  if (out.order == Order::groups) return quantize_groups(x, cols, out, rows);
  if (rows >= kLeastLanes) return quantize_lanes(x, cols, out, rows);
#endif
  for (int64_t r = 0; r < rows; r++) quantize_row(x + r * cols, cols, out, r, rows);
}

}  // namespace KV_ISA
}  // namespace kvloom
