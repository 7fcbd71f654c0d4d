// Sixteen float lanes, whatever the machine: GCC and clang lower the vector type to the width at hand.
//
// Every kernel source is compiled once per instruction set with KV_ISA naming its namespace. The order of arithmetic never
// depends on the lane width, and every multiply-add is fused (scalar fallback: std::fma), so all variants give equal bits.
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

namespace kvloom {
namespace KV_ISA {

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));

static inline v16 splat(float x) {
  return v16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

static inline v16 load(const float* p) {
  v16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(float* p, v16 v) { std::memcpy(p, &v, sizeof v); }

static inline v16 fma(v16 a, v16 b, v16 c) {
#if defined(__AVX512F__)
  return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  struct Halves {
    __m256 lo, hi;
  };
  Halves x, y, z;
  std::memcpy(&x, &a, 64), std::memcpy(&y, &b, 64), std::memcpy(&z, &c, 64);
  z.lo = _mm256_fmadd_ps(x.lo, y.lo, z.lo), z.hi = _mm256_fmadd_ps(x.hi, y.hi, z.hi);
  v16 r;
  std::memcpy(&r, &z, 64);
  return r;
#elif defined(__aarch64__)
  float32x4_t x[4], y[4], z[4];
  std::memcpy(x, &a, 64), std::memcpy(y, &b, 64), std::memcpy(z, &c, 64);
  for (int i = 0; i < 4; i++) z[i] = vfmaq_f32(z[i], x[i], y[i]);
  v16 r;
  std::memcpy(&r, z, 64);
  return r;
#else
  for (int i = 0; i < 16; i++) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
#endif
}

static inline v16 vmax(v16 a, v16 b) { return a > b ? a : b; }

// Lanes are folded in halves: a fixed order.
static inline float fold_sum(v16 v) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
}

static inline float fold_max(v16 v) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
  return v[0];
}

static inline float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, body = h & 0x7fffu, bits;
  if (body >= 0x7c00u) {
    bits = sign | 0x7f800000u | (body & 0x3ffu) << 13;
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

static inline v16 load_f16(const uint16_t* p) {
#if defined(__AVX512F__)
  return (v16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
  __m256 h[2] = {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + 1))};
  v16 v;
  std::memcpy(&v, h, 64);
  return v;
#elif defined(__aarch64__)
  float32x4_t q[4];
  for (int i = 0; i < 4; i++) q[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  v16 v;
  std::memcpy(&v, q, 64);
  return v;
#else
  v16 v;
  for (int i = 0; i < 16; i++) v[i] = half_to_float(p[i]);
  return v;
#endif
}

static inline v16 load_bf16(const uint16_t* p) {
  v16i bits;
  for (int i = 0; i < 16; i++) bits[i] = (int32_t)((uint32_t)p[i] << 16);
  return (v16)bits;
}

// Round to nearest even, as torch does; overflow goes to infinity, NaN stays NaN.
static inline uint16_t float_to_half(float f) {
#if defined(__F16C__)
  return (uint16_t)_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
  uint32_t x;
  std::memcpy(&x, &f, 4);
  uint32_t sign = (x >> 16) & 0x8000u;
  x &= 0x7fffffffu;
  if (x > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (x >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
  if (x < 0x38800000u) {  // subnormal: let float addition round
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

// e^x to about 1 ulp for x in [-87, 88]; below that exactly 0 (so masked scores weigh nothing).
static inline v16 vexp(v16 x) {
  const v16 low = splat(-87.0f);
  v16 c = x > low ? x : low;
  c = c < splat(88.0f) ? c : splat(88.0f);
  v16 n = fma(c, splat(1.44269504088896341f), splat(12582912.0f)) - splat(12582912.0f);
  v16 r = fma(n, splat(-0.693359375f), c);
  r = fma(n, splat(2.12194440e-4f), r);
  v16 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  v16i e = (__builtin_convertvector(n, v16i) + 127) << 23;
  v16 y = p * (v16)e;
  return x > low ? y : splat(0.0f);
}

}  // namespace KV_ISA
}  // namespace kvloom
