// Sixteen float lanes on every machine.
//
// Every kernel source is compiled once per instruction set, with KV_ISA as its namespace. The order of arithmetic never
// depends on the lane width, and every multiply-add is fused (in scalar code by std::fma), so that all variants give
// equal bits.
//
//     AVX-512   v16 is one native vector
//     AVX2      v16 = Pair<v8>                    a compiler keeps native vectors in registers, but puts wider vector
//     others    v16 = Pair<Pair<v4>>              types on the stack: hence the pairs
//
// Everything here has internal linkage or is in the namespace KV_ISA: the linker must never keep a function that was
// compiled for one instruction set for all of them. For the same reason kernel sources use no standard containers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef KV_ISA
#define KV_ISA portable
#endif

// Placed before a loop over an array of v16 that must stay in registers, which requires full unrolling.
#if defined(__clang__)
#define KV_UNROLL _Pragma("unroll")
#else
#define KV_UNROLL _Pragma("GCC unroll 32")
#endif

// Behind the parameters of a lambda that is called several times, on arrays that must stay in registers.
#define KV_INLINE __attribute__((always_inline))

namespace kvloom {
namespace KV_ISA {

typedef float v4 __attribute__((vector_size(16)));
typedef float v8 __attribute__((vector_size(32)));

template <class Half>
struct Pair {
  Half lo, hi;
};

#if defined(__AVX512F__)
typedef float v16 __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef Pair<v8> v16;
#else
typedef Pair<Pair<v4>> v16;
#endif

template <class V>
constexpr bool is_pair = false;
template <class H>
constexpr bool is_pair<Pair<H>> = true;

// --- Element by element ----------------------------------------------------------------------------------------------

template <class H>
static inline Pair<H> operator+(Pair<H> a, Pair<H> b) {
  return {a.lo + b.lo, a.hi + b.hi};
}
template <class H>
static inline Pair<H> operator-(Pair<H> a, Pair<H> b) {
  return {a.lo - b.lo, a.hi - b.hi};
}
template <class H>
static inline Pair<H> operator*(Pair<H> a, Pair<H> b) {
  return {a.lo * b.lo, a.hi * b.hi};
}
template <class H>
static inline Pair<H> operator/(Pair<H> a, Pair<H> b) {
  return {a.lo / b.lo, a.hi / b.hi};
}

template <class V = v16>
static inline V splat(float x) {
  if constexpr (is_pair<V>)
    return {splat<decltype(V::lo)>(x), splat<decltype(V::lo)>(x)};
  else
    return x - V{};  // not V{} + x, which would lose the sign of -0
}

template <class V = v16>
static inline V load(const float* p) {
  if constexpr (is_pair<V>) {
    typedef decltype(V::lo) Half;
    return {load<Half>(p), load<Half>(p + sizeof(Half) / 4)};
  } else {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
}

template <class V>
static inline void store(float* p, V v) {
  if constexpr (is_pair<V>)
    store(p, v.lo), store(p + sizeof(v.lo) / 4, v.hi);
  else
    std::memcpy(p, &v, sizeof v);
}

static inline v4 fma(v4 a, v4 b, v4 c) {
#if defined(__FMA__)
  return (v4)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif defined(__aarch64__)
  return (v4)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  for (int i = 0; i < 4; i++) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
#endif
}
#if defined(__FMA__)
static inline v8 fma(v8 a, v8 b, v8 c) {
  return (v8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
#endif
#if defined(__AVX512F__)
static inline v16 fma(v16 a, v16 b, v16 c) {
  return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
#endif
template <class H>
static inline Pair<H> fma(Pair<H> a, Pair<H> b, Pair<H> c) {
  return {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)};
}

// The maximum; b if either is NaN.
template <class V>
static inline V vmax(V a, V b) {
  if constexpr (is_pair<V>) return {vmax(a.lo, b.lo), vmax(a.hi, b.hi)};
#if defined(__AVX512F__)
  else if constexpr (sizeof(V) == 64)
    return (V)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#endif
#if defined(__AVX2__)
  else if constexpr (sizeof(V) == 32)
    return (V)_mm256_max_ps((__m256)a, (__m256)b);
#endif
  else
    return a > b ? a : b;
}

// e^x to about 1 ulp for x in [-87, 88]. Exactly 0 below that, so that masked scores have no weight; e^88 above it. NaN
// remains NaN.
template <class V>
static inline V vexp(V x) {
  if constexpr (is_pair<V>) {
    return {vexp(x.lo), vexp(x.hi)};
  } else {
    const V low = splat<V>(-87.0f), high = splat<V>(88.0f), round = splat<V>(12582912.0f);
    V c = x < low ? low : x;
    c = c > high ? high : c;
    V n = fma(c, splat<V>(1.44269504088896341f), round) - round;
    V r = fma(n, splat<V>(-0.693359375f), c);
    r = fma(n, splat<V>(2.12194440e-4f), r);
    V p = splat<V>(1.9875691500e-4f);
    p = fma(p, r, splat<V>(1.3981999507e-3f));
    p = fma(p, r, splat<V>(8.3334519073e-3f));
    p = fma(p, r, splat<V>(4.1665795894e-2f));
    p = fma(p, r, splat<V>(1.6666665459e-1f));
    p = fma(p, r, splat<V>(5.0000001201e-1f));
    p = fma(p, r * r, r) + splat<V>(1.0f);
    typedef decltype(x < x) Bits;  // the integer vector of the same width
    // A NaN may convert to any integer, but then p is NaN and remains so.
    Bits e = (__builtin_convertvector(n, Bits) + 127) << 23;
    return x < low ? V{} : p * (V)e;
  }
}

// times * 2^r for r in [-0.5, 0.5], where times is a power of 2, with the smallest relative error that a polynomial of
// this degree can have.
template <class V>
static inline V pow2_near_0(V r, float times) {
  V p = splat<V>(times * 1.3264727e-3f);
  p = fma(p, r, splat<V>(times * 9.6715127e-3f));
  p = fma(p, r, splat<V>(times * 5.5507337e-2f));
  p = fma(p, r, splat<V>(times * 2.4022242e-1f));
  p = fma(p, r, splat<V>(times * 6.9314698e-1f));
  return fma(p, r, splat<V>(times));
}

// 2^x for x <= 0, to about 1.5 ulp. Exactly 1 at 0, and exactly 0 from -126 down, so that masked scores have no weight.
// NaN remains NaN.
template <class V>
static inline V vexp2(V x) {
  if constexpr (is_pair<V>) {
    return {vexp2(x.lo), vexp2(x.hi)};
  } else {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) {  // the same results with fewer instructions
      const __m512 y = (__m512)x, r = _mm512_maskz_reduce_ps(0xffff, y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __m512 n = _mm512_sub_ps(y, r);
      const __mmask16 there = _mm512_cmp_ps_mask(n, _mm512_set1_ps(-126.0f), _CMP_NLE_UQ);
      return (V)_mm512_maskz_scalef_ps(there, (__m512)pow2_near_0((V)r, 1.0f), n);
    }
#endif
    typedef decltype(x < x) Bits;  // the integer vector of the same width
    // 1.5 * 2^23 + 126: rounds x to an integer n, and leaves n + 126 in the lowest bits, the exponent of 2^(n - 1).
    const V round = splat<V>(12583038.0f);
    const V c = vmax(splat<V>(-126.0f), x);
    const V t = c + round;
    const V r = c - (t - round);
    return pow2_near_0(r, 2.0f) * (V)((Bits)t << 23);
  }
}

// --- Halves of a vector ----------------------------------------------------------------------------------------------

static inline v4 low_half(v8 v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3);
}
static inline v4 high_half(v8 v) {
  return __builtin_shufflevector(v, v, 4, 5, 6, 7);
}
#if defined(__AVX512F__)
static inline v8 low_half(v16 v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
}
static inline v8 high_half(v16 v) {
  return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif
template <class H>
static inline H low_half(Pair<H> v) {
  return v.lo;
}
template <class H>
static inline H high_half(Pair<H> v) {
  return v.hi;
}

// --- Squares: rows to columns ----------------------------------------------------------------------------------------

typedef uint16_t h8 __attribute__((vector_size(16)));

static inline v4 zip_low(v4 a, v4 b) {
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
}
static inline v4 zip_high(v4 a, v4 b) {
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
}
static inline h8 zip_low(h8 a, h8 b) {
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
static inline h8 zip_high(h8 a, h8 b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

// Each round moves one bit of a number's row index to its column index.
template <class V, int N>
static inline void transpose(V (&square)[N]) {
  KV_UNROLL for (int round = 1; round < N; round *= 2) {
    V next[N];
    KV_UNROLL for (int i = 0; i < N / 2; i++) {
      next[2 * i] = zip_low(square[i], square[i + N / 2]);
      next[2 * i + 1] = zip_high(square[i], square[i + N / 2]);
    }
    KV_UNROLL for (int i = 0; i < N; i++) square[i] = next[i];
  }
}

// --- Across lanes: folded in halves, a fixed order -------------------------------------------------------------------

static inline float fold_sum(v16 v) {
  auto eight = low_half(v) + high_half(v);
  v4 four = low_half(eight) + high_half(eight);
  v4 two = four + __builtin_shufflevector(four, four, 2, 3, 0, 1);
  return two[0] + two[1];
}

static inline float fold_max(v16 v) {
  auto eight = vmax(low_half(v), high_half(v));
  v4 four = vmax(low_half(eight), high_half(eight));
  v4 two = vmax(four, __builtin_shufflevector(four, four, 2, 3, 0, 1));
  return two[0] > two[1] ? two[0] : two[1];
}

// The one whose bits are the larger integer: the maximum of nonnegative numbers, NaN if either is NaN.
template <class V>
static inline V vtop(V a, V b) {
  if constexpr (is_pair<V>) {
    return {vtop(a.lo, b.lo), vtop(a.hi, b.hi)};
  } else {
    typedef uint32_t Bits __attribute__((vector_size(sizeof(V))));
    const Bits x = (Bits)a, y = (Bits)b;
    return (V)(x > y ? x : y);
  }
}

static inline float fold_top(v16 v) {
  auto eight = vtop(low_half(v), high_half(v));
  v4 four = vtop(low_half(eight), high_half(eight));
  v4 two = vtop(four, __builtin_shufflevector(four, four, 2, 3, 0, 1));
  return vtop(two, __builtin_shufflevector(two, two, 1, 0, 3, 2))[0];
}

// --- Other number formats --------------------------------------------------------------------------------------------

static inline float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, body = h & 0x7fffu, bits;
  if (body >= 0x7c00u) {
    bits = sign | 0x7f800000u | (body & 0x3ffu) << 13;
    if (body > 0x7c00u) bits |= 0x400000u;  // make NaN quiet, as hardware does
  } else if (body >= 0x0400u) {
    bits = sign | ((body << 13) + 0x38000000u);
  } else {  // zero and subnormals: exact in float
    float f = (float)body * 5.9604644775390625e-8f;
    std::memcpy(&bits, &f, 4);
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

template <class V = v16>
static inline V load_f16(const uint16_t* p) {
  if constexpr (is_pair<V>) {
    typedef decltype(V::lo) Half;
    return {load_f16<Half>(p), load_f16<Half>(p + sizeof(Half) / 4)};
  } else {
#if defined(__AVX512F__)
    static_assert(sizeof(V) == 64, "v16 is native");
    return (V)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)p));  // see load_bf16
#elif defined(__F16C__)
    static_assert(sizeof(V) == 32, "v16 is a pair of v8");
    return (V)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__aarch64__)
    return (V)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    V v;
    for (size_t i = 0; i < sizeof(V) / 4; i++) v[i] = half_to_float(p[i]);
    return v;
#endif
  }
}

template <class V = v16>
static inline V load_bf16(const uint16_t* p) {
  if constexpr (is_pair<V>) {
    typedef decltype(V::lo) Half;
    return {load_bf16<Half>(p), load_bf16<Half>(p + sizeof(Half) / 4)};
  } else {
#if defined(__AVX512F__)
    // The maskz forms are equivalent; gcc 12 warns about the plain ones.
    __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i*)p));
    return (V)_mm512_maskz_slli_epi32(0xffff, wide, 16);
#elif defined(__AVX2__)
    return (V)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#else
    uint32_t bits[sizeof(V) / 4];
    for (size_t i = 0; i < sizeof(V) / 4; i++) bits[i] = (uint32_t)p[i] << 16;
    V v;
    std::memcpy(&v, bits, sizeof v);
    return v;
#endif
  }
}

// Rounds to nearest even, as torch does; overflow gives infinity, NaN remains NaN.
static inline uint16_t float_to_half(float f) {
#if defined(__F16C__)
  return (uint16_t)_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
  uint32_t x;
  std::memcpy(&x, &f, 4);
  uint32_t sign = (x >> 16) & 0x8000u;
  x &= 0x7fffffffu;
  if (x > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((x >> 13) & 0x3ffu));
  if (x >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
  if (x < 0x38800000u) {  // subnormal: float addition does the rounding
    float magic = 0.5f, v;
    std::memcpy(&v, &x, 4);
    v += magic;
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    return (uint16_t)(sign | (bits - 0x3f000000u));
  }
  uint32_t odd = (x >> 13) & 1u;
  return (uint16_t)(sign | ((x + 0xc8000fffu + odd) >> 13));
#endif
}

static inline uint16_t float_to_bf16(float f) {
  uint32_t x;
  std::memcpy(&x, &f, 4);
  if ((x & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((x >> 16) | 0x40u);
  return (uint16_t)((x + 0x7fffu + ((x >> 16) & 1u)) >> 16);
}

}  // namespace KV_ISA
}  // namespace kvloom
