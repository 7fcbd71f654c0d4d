// Activations rounded to bytes, with a scale per 32 columns. A matrix has one plane of bytes or two: the second plane
// holds what the rounding of the first left over, and both together are as precise as 15 bits.
//
// scale = max|x| / 127; code = x * (127 / max|x|), rounded to nearest, ties to even. A group in which every |x| is at
// most 1e-30 becomes zeros. A group with a non-finite value gets the scale NaN, so that every output of its row is NaN.
//
// Rows are stored in tiles, in the order in which the kernels read them: for every four columns one word per row of the
// tile (or, for AMX, for every group 32 bytes per row), and for every group one scale per row.
#pragma once

#include "dot.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {

constexpr int kGroup = 32;

// How many columns of a row lie side by side: 4 for dot products (dot.h), a group for AMX tiles (linear_amx.h).
enum class Order { words, groups };

// A matrix of activations rounded to bytes. In order of groups there are no corrections: AMX multiplies signed numbers.
struct Plane {
  int8_t* codes;     // [cols / 4][rows][4] or [cols / 32][rows][32]
  float* scale;      // [cols / 32][rows]
  float* total;      // [cols / 32][rows]: scale * sum of codes, to be multiplied by the minima of weights
  int32_t* less8;    // [cols / 16][rows]: -8 * sum of 16 codes, the correction for 4-bit weights with an offset
  int32_t* less128;  // [cols / 16][rows]

  Plane tile(int64_t row, int64_t cols) const {
    const int64_t groups = row * (cols / kGroup);
    return {codes + row * cols, scale + groups, total + groups, less8 + 2 * groups, less128 + 2 * groups};
  }
};

struct Activations8 {
  Plane plane[2];
  int planes;
  Order order;

  // The tile that starts with row `row`.
  Activations8 tile(int64_t row, int64_t cols) const {
    return {{plane[0].tile(row, cols), plane[1].tile(row, cols)}, planes, order};
  }

  // Columns `col` (a multiple of 32) onwards of a tile of `rows` rows.
  Activations8 after(int64_t col, int64_t rows) const { return tile(rows, col); }
};

static inline Activations8 activations_scratch(Scratch purpose, int64_t rows, int64_t cols, int planes, Order order) {
  constexpr int64_t kBeyond = 16 * kGroup;  // a tile that is not full is read as if it were
  const int64_t groups = rows * (cols / kGroup), bytes = rows * cols + groups * 24;
  char* at = (char*)scratch(purpose, (size_t)(planes * bytes + kBeyond));
  Activations8 x = {};
  x.planes = planes, x.order = order;
  for (int i = 0; i < planes; i++, at += bytes) {
    float* floats = (float*)(at + rows * cols);
    int32_t* sums = (int32_t*)(floats + 2 * groups);
    x.plane[i] = {(int8_t*)at, floats, floats + groups, sums, sums + 2 * groups};
  }
  return x;
}

template <class V>
static inline V max_int(V a, V b) {
  if constexpr (is_pair<V>)
    return {max_int(a.lo, b.lo), max_int(a.hi, b.hi)};
  else
    return a > b ? a : b;
}

// The maximum over all lanes.
template <class V>
static inline int32_t fold_max_int(V v) {
  if constexpr (is_pair<V>) {
    return fold_max_int(max_int(v.lo, v.hi));
  } else {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t most = v[0];
    for (int i = 1; i < kNative; i++) most = v[i] > most ? v[i] : most;
    return most;
#endif
  }
}

// Rounds to the nearest integer, ties to even; |x| < 2^22.
template <class V>
static inline V rounded(V x) {
  const V magic = splat<V>(12582912.0f);
  return x + magic - magic;
}

// Stores integers as bytes; they must fit.
template <class V>
static inline void store_i8(int8_t* p, V v) {
  if constexpr (is_pair<V>) {
    store_i8(p, v.lo), store_i8(p + sizeof(v.lo) / 4, v.hi);
  } else {
    typedef decltype(v < v) Wide;
    typedef int8_t Bytes __attribute__((vector_size(sizeof(V) / 4)));
    const Bytes bytes = __builtin_convertvector(__builtin_convertvector(v, Wide), Bytes);
    std::memcpy(p, &bytes, sizeof bytes);
  }
}

// The largest |x| of 32 values, NaN if any is NaN. Compares bits as integers, which orders magnitudes and puts NaN
// last.
static inline float greatest(const float* x) {
  const auto magnitude = [](const float* p) { return bits_of(load_ints((const uint8_t*)p), 0, 0x7fffffff); };
  const int32_t bits = fold_max_int(max_int(magnitude(x), magnitude(x + 16)));
  float most;
  std::memcpy(&most, &bits, sizeof most);
  return most;
}

// Quantizes group `g` of row `r` of a tile of `rows` rows. The codes go to `codes`, in the order of x. The rounding
// errors go to `rest` unless it is null.
static inline void quantize_group(const Plane& out, const float* x, int64_t g, int64_t r, int64_t rows, int8_t* codes,
                                  float* rest) {
  const float most = greatest(x);
  const bool finite = most < INFINITY, usable = finite && most > 1e-30f;
  const float scale = usable ? most / 127.0f : finite ? 0.0f : NAN;
  const v16 inverse = splat(usable ? 127.0f / most : 0.0f);
  float sums[2];  // exact
  KV_UNROLL
  for (int half = 0; half < 2; half++) {
    const v16 v = load(x + 16 * half), q = usable ? rounded(v * inverse) : splat(0.0f);
    store_i8(codes + 16 * half, q);
    sums[half] = fold_sum(q);
    if (rest) store(rest + 16 * half, fma(splat(-scale), q, v));
    out.less8[(2 * g + half) * rows + r] = -8 * (int32_t)sums[half];
    out.less128[(2 * g + half) * rows + r] = -128 * (int32_t)sums[half];
  }
  out.scale[g * rows + r] = scale;
  out.total[g * rows + r] = scale * (sums[0] + sums[1]);
}

// Quantizes row `r` of a tile of `rows` rows. `cols` is a multiple of 32.
static inline void quantize_row(const float* x, int64_t cols, const Activations8& out, int64_t r, int64_t rows) {
  constexpr int64_t kAtOnce = 8 * kGroup;
  for (int64_t c = 0; c < cols; c += kAtOnce) {
    const int64_t end = c + kAtOnce < cols ? c + kAtOnce : cols;
    alignas(64) int8_t codes[2][kAtOnce];
    for (int64_t at = c; at < end; at += kGroup) {
      alignas(64) float rest[kGroup];
      const bool two = out.planes == 2;
      quantize_group(out.plane[0], x + at, at / kGroup, r, rows, codes[0] + at - c, two ? rest : nullptr);
      if (two) quantize_group(out.plane[1], rest, at / kGroup, r, rows, codes[1] + at - c, nullptr);
    }
    for (int i = 0; i < out.planes; i++)
      for (int64_t at = c; at < end; at += 4) std::memcpy(out.plane[i].codes + at * rows + 4 * r, codes[i] + at - c, 4);
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
