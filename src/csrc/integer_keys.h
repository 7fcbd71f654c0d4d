// Keys as integers with a common step, and their scores, which are exact apart from the rounding of queries and keys.
//
// The step of a query is the power of two for which its norm is 2^14 to 2^15 steps; its components are multiples of the
// step, in 16 bits. If the norm of a key is at most as many of its own steps, a sum of products stays below 2^30, and
// so does every partial sum (Cauchy-Schwarz): 32 bits suffice for any dimension and order.
#pragma once

#include "attend_numbers.h"
#include "codec.h"
#include "codes.h"

namespace kvloom {
namespace KV_ISA {

// A step size and its inverse.
struct Step {
  float size, inverse;
};

// The step of a vector with this sum of squares. A little is added to the sum, so that the largest component, too,
// rounds to less than 2^15. If the sum is not finite, the step is NaN and the integers are meaningless.
static inline Step step_of(float squares) {
  if (!(squares <= 3.4e38f)) return {__builtin_nanf(""), 0.0f};
  const float more = squares * 1.0002f;
  int32_t bits;
  std::memcpy(&bits, &more, sizeof bits);
  const int32_t half = ((bits >> 23) + 1) >> 1;  // half of the exponent of the square
  const int32_t size_bits = (half + 49) << 23, inverse_bits = (205 - half) << 23;
  Step step;
  std::memcpy(&step.size, &size_bits, sizeof(float)), std::memcpy(&step.inverse, &inverse_bits, sizeof(float));
  return step;
}

// Rounds x to multiples of the step, ties to even; the results are in the lowest 16 bits of the lanes.
template <class V>
static inline auto in_steps(V x, V inverse) {
  if constexpr (is_pair<V>)
    return Pair<decltype(in_steps(x.lo, inverse.lo))>{in_steps(x.lo, inverse.lo), in_steps(x.hi, inverse.hi)};
  else
    return (decltype(x < x))fma(x, inverse, splat<V>(12582912.0f));  // 1.5 x 2^23: the lowest bit has the value 1
}

// Rounds dim floats (a multiple of 16) to dim / 2 words: word i holds components 2 i and 2 i + 1. Returns the step.
static inline float round_vector(const float* x, int32_t dim, int32_t* words) {
  v16 squares = splat(0.0f);
  for (int32_t d = 0; d < dim; d += 16) squares = fma(load(x + d), load(x + d), squares);
  const Step step = step_of(fold_sum(squares));
  for (int32_t d = 0; d < dim; d += 16) {
    const ints rounded = in_steps(load(x + d), splat(step.inverse));
    int32_t lanes[16];
    int16_t components[16];
    std::memcpy(lanes, &rounded, sizeof lanes);
    for (int i = 0; i < 16; i++) components[i] = (int16_t)lanes[i];
    std::memcpy(words + d / 2, components, sizeof components);
  }
  return step.size;
}

// Adds the products of the 16-bit halves of a and b, both products of a lane, to sum.
static inline native_i add_products(native_i sum, native_i a, native_i b) {
#if defined(__AVX512VNNI__)
  return (native_i)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512F__)
  return sum + (native_i)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return sum + (native_i)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__aarch64__)
  const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
  return sum + (native_i)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
#else
  return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}
template <class H>
static inline Pair<H> add_products(Pair<H> sum, Pair<H> a, Pair<H> b) {
  return {add_products(sum.lo, a.lo, b.lo), add_products(sum.hi, a.hi, b.hi)};
}

static inline ints splat_word(const float* word) {
  int32_t bits;
  std::memcpy(&bits, word, sizeof bits);
  return splat_int(bits);
}

// Prepares a query for the inner loop: words of two components, then step x scale. Returns the number of 32-bit words.
// `to` may be equal to the input.
static inline int32_t prepare_integers(const float* q, int32_t dim, float scale, float* to) {
  to[dim / 2] = round_vector(q, dim, (int32_t*)to) * scale;
  return dim / 2 + 1;
}

// Words in memory, or decoded: for each pair of components, those of all entries; then the steps of the entries.
struct NearWords {
  static inline ints words(const void* base, int64_t i) { return load_ints((const uint8_t*)base + i * 64); }
  static inline v16 steps(const void* base, int64_t num_words) { return load((const float*)base + num_words * 16); }
  static inline void soon(const void*, int64_t) {}
  static inline void later(const void*, int64_t) {}
};

// q holds the words of all rows, word by word, then step x scale of the rows.
template <class Numbers, int R, int P>
static inline void score_integers(const float* q, int32_t k_dim, const KeyPages& pages, int32_t first, float* s) {
  const void* const* keys = pages.keys + first;
  const int32_t num_words = k_dim / 2;
  ints sum[R][P];
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int p = 0; p < P; p++) sum[r][p] = ints{};
  for (int32_t i = 0; i < num_words; i++) {
    KV_UNROLL for (int p = 0; p < P; p++) Numbers::soon(keys[P + p], i);
    KV_UNROLL for (int p = 0; p < P; p++) Numbers::later(pages.later[first + p], i);
    ints k[P];
    KV_UNROLL for (int p = 0; p < P; p++) k[p] = Numbers::words(keys[p], i);
    KV_UNROLL for (int r = 0; r < R; r++) {
      const ints x = splat_word(q + i * R + r);
      KV_UNROLL for (int p = 0; p < P; p++) sum[r][p] = add_products(sum[r][p], k[p], x);
    }
  }
  KV_UNROLL for (int p = 0; p < P; p++) Numbers::later(pages.later[first + p], num_words);
  KV_UNROLL for (int p = 0; p < P; p++) {
    const v16 steps = Numbers::steps(keys[p], num_words);
    KV_UNROLL for (int r = 0; r < R; r++) store(s + r * s_stride + pages.slots[first + p] * page_tokens,
                                                to_floats(sum[r][p]) * steps * splat(q[num_words * R + r]));
  }
}

template <class Numbers>
struct IntegerKeys {
  static constexpr int sums = 1;
  template <int R, int P>
  static inline void score(const float* q, int32_t k_dim, const KeyPages& pages, int32_t first, float* s) {
    score_integers<Numbers, R, P>(q, k_dim, pages, first, s);
  }
};

}  // namespace KV_ISA
}  // namespace kvloom
