// Products of bytes in groups of four. Every 32-bit lane holds four bytes, which are multiplied by four 16-bit numbers
// that are the same for all lanes. Nothing is converted to floats, and sums are exact.
//
// The four numbers are passed as two words, in the form that the instruction set needs:
//
//     VNNI     their upper bytes, then their lower bytes; both are multiplied by the four bytes as stored, and summed
//              separately
//     others   numbers 0 and 2, then 1 and 3, as 16-bit halves; they are multiplied by the bytes with even and with odd
//              index, widened
//
// Either way, that is two products of four bytes, or of two 16-bit numbers, per lane and quad.
#pragma once

#include "attend_numbers.h"
#include "integer_keys.h"

namespace kvloom {
namespace KV_ISA {

typedef uint8_t b16 __attribute__((vector_size(16)));

// Which operand is signed: the bytes, and the numbers are 0 to 2^15 - 1; or the numbers, which are -2^15 to 2^15 - 129,
// and the bytes are unsigned.
enum class Sign { of_bytes, of_numbers };

#if defined(__AVX512VNNI__)

constexpr int quad_sums = 2;  // accumulators per sum
constexpr int32_t highest_number = 32767 - 128;

struct QuadSum {
  ints upper, lower;
};
typedef ints Quads;

static inline QuadSum quad_sum(ints start) {
  return {ints{}, start};
}
template <Sign kSign>
static inline Quads load_quads(const void* p) {
  return load_ints((const uint8_t*)p);
}
template <Sign kSign>
static inline ints add_quads(ints sum, ints bytes, ints numbers) {
  return kSign == Sign::of_bytes ? (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)numbers, (__m512i)bytes)
                                 : (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)bytes, (__m512i)numbers);
}
template <Sign kSign>
static inline void add_quads(QuadSum& sum, Quads bytes, ints first, ints second) {
  sum.upper = add_quads<kSign>(sum.upper, bytes, first), sum.lower = add_quads<kSign>(sum.lower, bytes, second);
}
static inline ints total(const QuadSum& sum) {
  return (sum.upper << 8) + sum.lower;
}

// Two words for each four of eight signed numbers. The lower byte is signed, from -128 to 127, and the upper byte
// compensates for that.
static inline b16 number_words(h8 x) {
  return __builtin_shufflevector((b16)(x + ((x & 128) << 1)), b16{}, 1, 3, 5, 7, 0, 2, 4, 6, 9, 11, 13, 15, 8, 10, 12,
                                 14);
}
// Two words, and two unused ones, for each four numbers, which are the lower halves of lanes.
static inline ints lane_words(ints x) {
  const __m512i order = _mm512_set4_epi32(0, 0, 0x0c080400, 0x0d090501);
  return (ints)_mm512_maskz_shuffle_epi8(~0ull, (__m512i)x, order);  // as in load_bf16
}

#else

constexpr int quad_sums = 1;
constexpr int32_t highest_number = 32767;

typedef int16_t native_s __attribute__((vector_size(sizeof(native))));
typedef uint16_t native_u __attribute__((vector_size(sizeof(native))));

struct QuadSum {
  ints all;
};
struct Quads {
  ints even, odd;  // bytes, widened to 16 bits
};

static inline QuadSum quad_sum(ints start) {
  return {start};
}
template <Sign kSign, class V>
static inline V even_bytes(V v) {
  if constexpr (is_pair<V>)
    return {even_bytes<kSign>(v.lo), even_bytes<kSign>(v.hi)};
  else if constexpr (kSign == Sign::of_bytes)
    return (V)((native_s)((native_s)v << 8) >> 8);
  else
    return v & 0x00ff00ff;
}
template <Sign kSign, class V>
static inline V odd_bytes(V v) {
  if constexpr (is_pair<V>)
    return {odd_bytes<kSign>(v.lo), odd_bytes<kSign>(v.hi)};
  else if constexpr (kSign == Sign::of_bytes)
    return (V)((native_s)v >> 8);
  else
    return (V)((native_u)v >> 8);
}
template <Sign kSign>
static inline Quads load_quads(const void* p) {
  const ints bytes = load_ints((const uint8_t*)p);
  return {even_bytes<kSign>(bytes), odd_bytes<kSign>(bytes)};
}
template <Sign kSign>
static inline void add_quads(QuadSum& sum, const Quads& bytes, ints first, ints second) {
  sum.all = add_products(add_products(sum.all, bytes.even, first), bytes.odd, second);
}
static inline ints total(const QuadSum& sum) {
  return sum.all;
}

static inline b16 number_words(h8 x) {
  return (b16)__builtin_shufflevector(x, x, 0, 2, 1, 3, 4, 6, 5, 7);
}
static inline ints lane_words(ints x) {
  h8 lanes[4];
  std::memcpy(lanes, &x, sizeof lanes);
  for (h8& four : lanes) four = __builtin_shufflevector(four, four, 0, 4, 2, 6, 0, 4, 2, 6);
  std::memcpy(&x, lanes, sizeof lanes);
  return x;
}

#endif

// The step of weights that are rounded to 15-bit numbers, the largest of which is `top`. It is 0, or not less than
// 2^-107, as for steps of values (codec_int8.h); NaN if a weight is NaN.
static inline Step step_of_weights(float top) {
  if (top < 0x1p-107f) return {0.0f, 0.0f};
  if (!(top < __builtin_huge_valf())) return {__builtin_nanf(""), 0.0f};
  return {top / 32767.0f, 32767.0f / top};
}

}  // namespace KV_ISA
}  // namespace kvloom
