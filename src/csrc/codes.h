// Conversion of small integers in memory to float lanes.
#pragma once

#include "simd.h"

namespace kvloom {
namespace KV_ISA {

#if defined(__AVX512F__)
typedef v16 native;
#elif defined(__AVX2__)
typedef v8 native;
#else
typedef v4 native;
#endif
constexpr int kNative = sizeof(native) / 4;
typedef int32_t native_i __attribute__((vector_size(sizeof(native))));

static inline native_i widen_u8(const uint8_t* p) {
#if defined(__AVX512F__)
  return (native_i)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128((const __m128i*)p));  // as in load_bf16
#elif defined(__AVX2__)
  return (native_i)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
  return native_i{p[0], p[1], p[2], p[3]};
#endif
}

static inline native_i widen_i8(const uint8_t* p) {
#if defined(__AVX512F__)
  return (native_i)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
  return (native_i)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
  return native_i{(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]};
#endif
}

static inline native to_float(native_i v) {
  return __builtin_convertvector(v, native);
}

template <class V = v16>
static inline V load_u8(const uint8_t* p) {
  if constexpr (is_pair<V>) {
    typedef decltype(V::lo) Half;
    return {load_u8<Half>(p), load_u8<Half>(p + sizeof(Half) / 4)};
  } else {
    return to_float(widen_u8(p));
  }
}

template <class V = v16>
static inline V load_i8(const uint8_t* p) {
  if constexpr (is_pair<V>) {
    typedef decltype(V::lo) Half;
    return {load_i8<Half>(p), load_i8<Half>(p + sizeof(Half) / 4)};
  } else {
    return to_float(widen_i8(p));
  }
}

// Sixteen 32-bit integers, with the same structure as v16.
#if defined(__AVX512F__)
typedef native_i ints;
#elif defined(__AVX2__)
typedef Pair<native_i> ints;
#else
typedef Pair<Pair<native_i> > ints;
#endif

template <class V = ints>
static inline V splat_int(int32_t x) {
  if constexpr (is_pair<V>)
    return {splat_int<decltype(V::lo)>(x), splat_int<decltype(V::lo)>(x)};
  else
    return x - V{};
}

template <class V = ints>
static inline V load_ints(const uint8_t* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// (v >> shift) & mask per lane; an arithmetic shift.
template <class V>
static inline V bits_of(V v, int shift, int32_t mask) {
  if constexpr (is_pair<V>)
    return {bits_of(v.lo, shift, mask), bits_of(v.hi, shift, mask)};
  else
    return (v >> shift) & mask;
}

// v with the bits of `mask` from `high`, shifted right by `shift`, or left by -shift; v has 0 there.
template <class V>
static inline V with_bits(V v, V high, int shift, int32_t mask) {
  if constexpr (is_pair<V>)
    return {with_bits(v.lo, high.lo, shift, mask), with_bits(v.hi, high.hi, shift, mask)};
  else
    return v | ((shift < 0 ? high << -shift : high >> shift) & mask);
}

template <class V>
static inline V flip(V v, int32_t bits) {
  if constexpr (is_pair<V>)
    return {flip(v.lo, bits), flip(v.hi, bits)};
  else
    return v ^ bits;
}

// Byte `at` of every lane, sign-extended.
template <class V>
static inline V signed_byte(V v, int at) {
  if constexpr (is_pair<V>)
    return {signed_byte(v.lo, at), signed_byte(v.hi, at)};
  else
    return (v << (24 - 8 * at)) >> 24;
}

template <class V>
static inline auto to_floats(V v) {
  if constexpr (is_pair<V>)
    return Pair<decltype(to_floats(v.lo))>{to_floats(v.lo), to_floats(v.hi)};
  else
    return to_float(v);
}

}  // namespace KV_ISA
}  // namespace kvloom
