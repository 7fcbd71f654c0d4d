// Exact dot products of small integers: 16 outputs, four columns at a time.
//
// Weights are given as one word of four codes per output, activations as one word of four signed bytes for all outputs.
// A code has 4 bits (0 to 15) or is a byte. Where kByteOffset is 128, bytes are unsigned: the instruction multiplies
// unsigned by signed numbers, so 128 has been added to every code, and is corrected for with the sum of the
// activations. Where kByteOffset is 0, bytes are signed.
#pragma once

#include "codes.h"

namespace kvloom {
namespace KV_ISA {

#if defined(__AVX2__)
constexpr int kByteOffset = 128;
#else
constexpr int kByteOffset = 0;
#endif

static inline int32_t word_at(const int8_t* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return word;
}

#if defined(__AVX512F__)
typedef __m512i Bytes;
static inline Bytes pair_products(Bytes codes, Bytes x) {
  return _mm512_maddubs_epi16(codes, x);
}
static inline Bytes add16(Bytes a, Bytes b) {
  return _mm512_add_epi16(a, b);
}
static inline Bytes pair_sums(Bytes v) {
  return _mm512_madd_epi16(v, _mm512_set1_epi16(1));
}
static inline Bytes low_halves(Bytes v) {
  return _mm512_and_si512(v, _mm512_set1_epi8(15));
}
static inline Bytes high_halves(Bytes v) {
  return _mm512_and_si512(_mm512_maskz_srli_epi16(0xffffffff, v, 4), _mm512_set1_epi8(15));
}
#elif defined(__AVX2__)
typedef __m256i Bytes;
static inline Bytes pair_products(Bytes codes, Bytes x) {
  return _mm256_maddubs_epi16(codes, x);
}
static inline Bytes add16(Bytes a, Bytes b) {
  return _mm256_add_epi16(a, b);
}
static inline Bytes pair_sums(Bytes v) {
  return _mm256_madd_epi16(v, _mm256_set1_epi16(1));
}
static inline Bytes low_halves(Bytes v) {
  return _mm256_and_si256(v, _mm256_set1_epi8(15));
}
static inline Bytes high_halves(Bytes v) {
  return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}
#endif

// The sum over a group of at most 32 columns, for as many outputs as a native vector has lanes.
#if defined(__AVX512VNNI__)

template <int kBits>
struct NativeDot {
  native_i sum;
  void begin(int32_t start) { sum = splat_int<native_i>(start); }
  void add(native_i codes, native_i x) {
    sum = (native_i)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, (__m512i)x);
  }
  native_i total(int32_t) const { return sum; }
};

#elif defined(__AVX2__)

// 16-bit sums are sufficient for a group of 4-bit codes: 16 * 15 * 127 < 2^15. A byte is treated as two of those.
template <int kBits>
struct NativeDot {
  Bytes low, high;
  void begin(int32_t) { low = high = Bytes{}; }
  void add(native_i codes, native_i x) {
    if constexpr (kBits == 4) {
      low = add16(low, pair_products((Bytes)codes, (Bytes)x));
    } else {
      low = add16(low, pair_products(low_halves((Bytes)codes), (Bytes)x));
      high = add16(high, pair_products(high_halves((Bytes)codes), (Bytes)x));
    }
  }
  native_i total(int32_t start) const {
    native_i sum = (native_i)pair_sums(low) + start;
    if constexpr (kBits == 8) sum += (native_i)pair_sums(high) << 4;
    return sum;
  }
};

#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)

template <int kBits>
struct NativeDot {
  native_i sum;
  void begin(int32_t start) { sum = splat_int<native_i>(start); }
  void add(native_i codes, native_i x) { sum = (native_i)vdotq_s32((int32x4_t)sum, (int8x16_t)codes, (int8x16_t)x); }
  native_i total(int32_t) const { return sum; }
};

#elif defined(__aarch64__)

template <int kBits>
struct NativeDot {
  int32x4_t low, high;  // pairwise sums, of outputs 0 and 1, and of 2 and 3
  void begin(int32_t) { low = high = vdupq_n_s32(0); }
  void add(native_i codes, native_i x) {
    const int8x16_t a = (int8x16_t)codes, b = (int8x16_t)x;
    low = vpadalq_s16(low, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    high = vpadalq_s16(high, vmull_s8(vget_high_s8(a), vget_high_s8(b)));
  }
  native_i total(int32_t start) const { return (native_i)vpaddq_s32(low, high) + start; }
};

#else

template <int kBits>
struct NativeDot {
  native_i sum;
  void begin(int32_t start) { sum = splat_int<native_i>(start); }
  void add(native_i codes, native_i x) {
    for (int b = 0; b < 4; b++) sum += signed_byte(codes, b) * signed_byte(x, b);
  }
  native_i total(int32_t) const { return sum; }
};

#endif

// The same for 16 outputs. `start` is the initial value of the sum. Pass it to both functions: each variant uses it in
// one of them.
template <int kBits, class V = ints>
struct Dot {
  NativeDot<kBits> part;
  void begin(int32_t start) { part.begin(start); }
  void add(V codes, V x) { part.add(codes, x); }
  V total(int32_t start) const { return part.total(start); }
};
template <int kBits, class H>
struct Dot<kBits, Pair<H>> {
  Dot<kBits, H> lo, hi;
  void begin(int32_t start) { lo.begin(start), hi.begin(start); }
  void add(Pair<H> codes, Pair<H> x) { lo.add(codes.lo, x.lo), hi.add(codes.hi, x.hi); }
  Pair<H> total(int32_t start) const { return {lo.total(start), hi.total(start)}; }
};

}  // namespace KV_ISA
}  // namespace kvloom
