// Rows of activations as bytes: every 32 columns share a scale. Or as two digits of that form, the second being what
// the first left over, which is as good as 15 bits.
//
// scale = max|x| / 127, code = x * (127 / max|x|) rounded to the nearest, ties to even. Groups smaller than
// 1e-30 throughout become zeros; a group that holds something not finite gets the scale NaN, so that every
// output of the row is NaN.
//
// Rows are stored by tiles, as the kernels use them: for every four columns the words of the tile's rows one
// after another, and for every group the scales of its rows one after another.
#pragma once

#include "dot.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {

constexpr int kGroup = 32;

struct Digit {
  int8_t* codes;     // [cols / 4][rows][4]
  float* scale;      // [cols / 32][rows]
  float* total;      // [cols / 32][rows]: scale * sum of codes, which minima are multiplied with
  int32_t* less8;    // [cols / 16][rows]: -8 * sum of 16 codes, what 4-bit codes with an offset need
  int32_t* less128;  // [cols / 16][rows]

  Digit tile(int64_t row, int64_t cols) const {
    const int64_t groups = row * (cols / kGroup);
    return {codes + row * cols, scale + groups, total + groups, less8 + 2 * groups, less128 + 2 * groups};
  }
};

struct Activations8 {
  Digit digit[2];
  int digits;

  // Those of the tile that starts with row `row`.
  Activations8 tile(int64_t row, int64_t cols) const {
    return {{digit[0].tile(row, cols), digit[1].tile(row, cols)}, digits};
  }

  // Of a tile of `rows` rows, what follows column `col`, a multiple of 32.
  Activations8 after(int64_t col, int64_t rows) const { return tile(rows, col); }
};

static inline Activations8 activations_scratch(int64_t rows, int64_t cols, int digits) {
  const int64_t groups = rows * (cols / kGroup), bytes = rows * cols + groups * 24;
  char* at = (char*)scratch(Scratch::activations, (size_t)(digits * bytes));
  Activations8 x = {};
  x.digits = digits;
  for (int i = 0; i < digits; i++, at += bytes) {
    float* floats = (float*)(at + rows * cols);
    int32_t* sums = (int32_t*)(floats + 2 * groups);
    x.digit[i] = {(int8_t*)at, floats, floats + groups, sums, sums + 2 * groups};
  }
  return x;
}

template <class V>
static inline V vabs(V x) {
  if constexpr (is_pair<V>)
    return {vabs(x.lo), vabs(x.hi)};
  else
    return vmax(x, V{} - x);
}

// The integer in x + 1.5 * 2^23: x rounded to the nearest even, for |x| < 2^22.
template <class V>
static inline auto rounded(V x) {
  if constexpr (is_pair<V>) {
    return Pair<decltype(rounded(x.lo))>{rounded(x.lo), rounded(x.hi)};
  } else {
    typedef decltype(x < x) Bits;
    return (Bits)(x + splat<V>(12582912.0f)) - 0x4b400000;
  }
}

// One row's group to bytes. Returns its scale; sums[i] = sum of codes 16 i to 16 i + 15.
static inline float quantize_group(const float* x, int8_t* codes, int32_t* sums) {
  const v16 a = load(x), b = load(x + 16);
  const float most = fold_max(vmax(vabs(a), vabs(b)));
  const float poison = fold_sum(a * splat(0.0f)) + fold_sum(b * splat(0.0f));  // 0, or NaN
  const bool usable = most > 1e-30f && poison == 0.0f;
  const float inverse = usable ? 127.0f / most : 0.0f;
  alignas(64) int32_t wide[32];
  const ints r[2] = {rounded((usable ? a : v16{}) * splat(inverse)), rounded((usable ? b : v16{}) * splat(inverse))};
  std::memcpy(wide, r, sizeof wide);
  for (int half = 0; half < 2; half++) {
    int32_t sum = 0;
    for (int i = 16 * half; i < 16 * half + 16; i++) codes[i] = (int8_t)wide[i], sum += wide[i];
    sums[half] = sum;
  }
  return (usable ? most : 0.0f) / 127.0f + poison;
}

// Group `g` of row `r` of a tile of `rows` rows. What is left of x goes to `rest`.
static inline void quantize_into(const Digit& out, const float* x, int64_t g, int64_t r, int64_t rows, float* rest) {
  alignas(64) int8_t codes[kGroup];
  int32_t sums[2];
  const float scale = quantize_group(x, codes, sums);
  for (int64_t q = 0; q < kGroup / 4; q++)
    std::memcpy(out.codes + ((g * (kGroup / 4) + q) * rows + r) * 4, codes + 4 * q, 4);
  out.scale[g * rows + r] = scale;
  out.total[g * rows + r] = scale * (float)(sums[0] + sums[1]);
  for (int64_t half = 0; half < 2; half++) {
    out.less8[(2 * g + half) * rows + r] = -8 * sums[half];
    out.less128[(2 * g + half) * rows + r] = -128 * sums[half];
    store(rest + 16 * half, fma(splat(-scale), load_i8((const uint8_t*)codes + 16 * half), load(x + 16 * half)));
  }
}

// Row `r` of a tile of `rows` rows. `cols` is a multiple of 32.
static inline void quantize_row(const float* x, int64_t cols, const Activations8& out, int64_t r, int64_t rows) {
  for (int64_t g = 0; g < cols / kGroup; g++) {
    alignas(64) float rest[kGroup];
    quantize_into(out.digit[0], x + g * kGroup, g, r, rows, rest);
    if (out.digits == 2) quantize_into(out.digit[1], rest, g, r, rows, rest);
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
