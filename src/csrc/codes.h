// Small integers in memory to float lanes.
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

// One byte per lane: its low and its high four bits.
template <class V>
static inline void load_nibbles(const uint8_t* p, V& low, V& high) {
  if constexpr (is_pair<V>) {
    load_nibbles(p, low.lo, high.lo);
    load_nibbles(p + sizeof(low.lo) / 4, low.hi, high.hi);
  } else {
    const native_i pair = widen_u8(p);
    low = to_float(pair & 15);
    high = to_float(pair >> 4);
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
