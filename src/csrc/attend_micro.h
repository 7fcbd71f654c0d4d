// The inner loops of attention: scores of up to `max_rows` query rows against pages of keys, and weighted
// sums of values.
//
// Both are products A x B with A broadcast and B in lanes, whose accumulators stay in registers. Every
// accumulator is one fused chain in ascending order (of key components; of entries), however many rows and
// columns go together: that is why a row's bits do not depend on its neighbours.
#pragma once

#include "attend.h"
#include "simd.h"

namespace kvloom {
namespace KV_ISA {

// How stored numbers become float lanes. `at` reads 16 values from index i on; `soon` says that they are
// about to be read. The pages of a list lie far apart, where no hardware looks ahead.
struct Decoded {  // float32, already near
  static inline v16 at(const void* base, int64_t i) { return load((const float*)base + i); }
  static inline void soon(const void*, int64_t) {}
};
struct Float32 : Decoded {
  static inline void soon(const void* base, int64_t i) { __builtin_prefetch((const float*)base + i); }
};
struct Float16 {
  static inline v16 at(const void* base, int64_t i) { return load_f16((const uint16_t*)base + i); }
  static inline void soon(const void* base, int64_t i) { __builtin_prefetch((const uint16_t*)base + i); }
};
struct BFloat16 : Float16 {
  static inline v16 at(const void* base, int64_t i) { return load_bf16((const uint16_t*)base + i); }
};

constexpr int max_rows = 6;

// Accumulators that fit in registers, in v16.
#if defined(__AVX512F__)
constexpr int accumulators = 24;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int accumulators = 6;
#else
constexpr int accumulators = 2;
#endif

// Columns of B that go with R rows of A.
constexpr int columns_for(int rows) {
  return accumulators / rows >= 4 ? 4 : accumulators / rows >= 2 ? 2 : 1;
}

// Pages to score: keys[p] is a page's transposed K, whose scores go to s + slots[p] * page_tokens.
struct KeyPages {
  const void* const* keys;
  const int32_t* slots;
  int32_t count;
};

template <class Numbers, int R, int P>
static inline void score_some(const float* q, int32_t k_dim, const void* const* keys, const void* const* next,
                              const int32_t* slots, float* s, int32_t s_stride) {
  v16 acc[R][P];
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int p = 0; p < P; p++) acc[r][p] = splat(0.0f);
  for (int32_t d = 0; d < k_dim; d++) {
    v16 k[P];
    KV_UNROLL for (int p = 0; p < P; p++) k[p] = Numbers::at(keys[p], d * page_tokens);
    KV_UNROLL for (int p = 0; p < P; p++) Numbers::soon(next[p], d * page_tokens);
    KV_UNROLL for (int r = 0; r < R; r++) {
      const v16 x = splat(q[r * k_dim + d]);
      KV_UNROLL for (int p = 0; p < P; p++) acc[r][p] = fma(x, k[p], acc[r][p]);
    }
  }
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int p = 0; p < P; p++)
      store(s + r * s_stride + slots[p] * page_tokens, acc[r][p]);
}

// s[r][slot] = q[r] . keys, for R rows of q and all pages.
template <class Numbers, int R>
static void score(const float* q, int32_t k_dim, const KeyPages& pages, float* s, int32_t s_stride) {
  constexpr int P = columns_for(R);
  int32_t p = 0;
  for (; p + P <= pages.count; p += P) {
    const void* const* next = pages.keys + (p + 2 * P <= pages.count ? p + P : p);
    score_some<Numbers, R, P>(q, k_dim, pages.keys + p, next, pages.slots + p, s, s_stride);
  }
  for (; p < pages.count; p++)
    score_some<Numbers, R, 1>(q, k_dim, pages.keys + p, pages.keys + p, pages.slots + p, s, s_stride);
}

// Consecutive entries of a page: their values, their place in the row of weights, and how many they are.
struct Run {
  const void* values;
  int32_t weight, count;
};

template <class Numbers, int R, int C>
static inline void mix_columns(const float* weights, int32_t stride, const Run* runs, int32_t num_runs, float* out,
                               int32_t v_dim, int32_t column) {
  v16 acc[R][C];
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int c = 0; c < C; c++) acc[r][c] =
      load(out + r * v_dim + column + 16 * c);
  for (int32_t i = 0; i < num_runs; i++) {
    const float* w = weights + runs[i].weight;
    const void* values = runs[i].values;
    const void* next = runs[i + 1 < num_runs ? i + 1 : i].values;
    for (int32_t j = 0; j < runs[i].count; j++) {
      v16 v[C];
      KV_UNROLL for (int c = 0; c < C; c++) v[c] = Numbers::at(values, j * v_dim + column + 16 * c);
      KV_UNROLL for (int c = 0; c < C; c++) Numbers::soon(next, j * v_dim + column + 16 * c);
      KV_UNROLL for (int r = 0; r < R; r++) {
        const v16 x = splat(w[r * stride + j]);
        KV_UNROLL for (int c = 0; c < C; c++) acc[r][c] = fma(x, v[c], acc[r][c]);
      }
    }
  }
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int c = 0; c < C; c++)
      store(out + r * v_dim + column + 16 * c, acc[r][c]);
}

// out[r] += sum of weight x value over all runs, for R rows.
template <class Numbers, int R>
static void mix(const float* weights, int32_t stride, const Run* runs, int32_t num_runs, float* out, int32_t v_dim) {
  constexpr int C = columns_for(R);
  int32_t column = 0;
  for (; column + 16 * C <= v_dim; column += 16 * C)
    mix_columns<Numbers, R, C>(weights, stride, runs, num_runs, out, v_dim, column);
  for (; column < v_dim; column += 16) mix_columns<Numbers, R, 1>(weights, stride, runs, num_runs, out, v_dim, column);
}

template <class Numbers>
static void decode(const void* stored, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 16) store(out + i, Numbers::at(stored, i));
}

// One number format's inner loops; index r - 1 serves r rows.
struct Micro {
  void (*score[max_rows])(const float*, int32_t, const KeyPages&, float*, int32_t);
  void (*mix[max_rows])(const float*, int32_t, const Run*, int32_t, float*, int32_t);
  void (*decode)(const void*, int64_t, float*);
};

template <class N>
static constexpr Micro micro_of = {{score<N, 1>, score<N, 2>, score<N, 3>, score<N, 4>, score<N, 5>, score<N, 6>},
                                   {mix<N, 1>, mix<N, 2>, mix<N, 3>, mix<N, 4>, mix<N, 5>, mix<N, 6>},
                                   decode<N>};

static inline const Micro& micro_for(Number number) {
  return number == Number::float32   ? micro_of<Float32>
         : number == Number::float16 ? micro_of<Float16>
                                     : micro_of<BFloat16>;
}

}  // namespace KV_ISA
}  // namespace kvloom
