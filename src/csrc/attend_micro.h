// The inner loops of attention: scores of up to `max_rows` query rows against pages of keys, and weighted
// sums of values.
//
// Both are products A x B with A broadcast and B in lanes, whose accumulators stay in registers. Every
// accumulator of floats is one fused chain in ascending order (of key components; of entries), however many rows
// and columns go together, and sums of integers are exact: that is why a row's bits do not depend on its neighbours.
#pragma once

#include "attend_numbers.h"

namespace kvloom {
namespace KV_ISA {

// s[r][slot] = q[r] . keys, for R rows and all pages; q holds one component (or word) of all R rows after the other.
template <class Keys, int R>
static void score(const float* q, int32_t k_dim, const KeyPages& pages, float* s) {
  constexpr int P = columns_for(R);
  int32_t p = 0;
  for (; p + P <= pages.count; p += P) Keys::template score<R, P>(q, k_dim, pages, p, s);
  for (; p < pages.count; p++) Keys::template score<R, 1>(q, k_dim, pages, p, s);
}

// Consecutive entries of a page: their values, as many to fetch meanwhile, their place in the row of weights, and how
// many they are.
struct Run {
  const void *values, *later;
  int32_t weight, count;
};

// Runs to accumulate. `after` is wanted next.
struct Runs {
  const Run* runs;
  int32_t count;
  const void* after;
};

// How much of every row stays and how much of the new sum comes to it.
struct Blend {
  const float *keep, *take;
};

template <class Numbers, int R, int C, bool kBlends>
static inline void accumulate_columns(const float* weights, const Runs& runs, const Blend& blend, float* out,
                                      int32_t v_dim, int32_t column) {
  v16 acc[R][C];
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int c = 0; c < C; c++) acc[r][c] =
      kBlends ? splat(0.0f) : load(out + r * v_dim + column + 16 * c);
  for (int32_t i = 0; i < runs.count; i++) {
    const float* w = weights + runs.runs[i].weight;
    const void* values = runs.runs[i].values;
    const void* later = runs.runs[i].later;
    const void* next = i + 1 < runs.count ? runs.runs[i + 1].values : runs.after;
    for (int32_t j = 0; j < runs.runs[i].count; j++) {
      v16 v[C];
      KV_UNROLL for (int c = 0; c < C; c++) v[c] = Numbers::at(values, j * v_dim + column + 16 * c);
      KV_UNROLL for (int c = 0; c < C; c += 2) Numbers::soon(next, j * v_dim + column + 16 * c);
      KV_UNROLL for (int c = 0; c < C; c += 2) Numbers::later(later, j * v_dim + column + 16 * c);
      KV_UNROLL for (int r = 0; r < R; r++) {
        const v16 x = splat(w[r * s_stride + j]);
        KV_UNROLL for (int c = 0; c < C; c++) acc[r][c] = fma(x, v[c], acc[r][c]);
      }
    }
  }
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int c = 0; c < C; c++) {
    float* to = out + r * v_dim + column + 16 * c;
    store(to, kBlends ? fma(load(to), splat(blend.keep[r]), acc[r][c] * splat(blend.take[r])) : acc[r][c]);
  }
}

template <class Numbers, int R, bool kBlends>
static void accumulate_all(const float* weights, const Runs& runs, const Blend& blend, float* out, int32_t v_dim) {
  constexpr int C = columns_for(R);
  int32_t column = 0;
  for (; column + 16 * C <= v_dim; column += 16 * C)
    accumulate_columns<Numbers, R, C, kBlends>(weights, runs, blend, out, v_dim, column);
  for (; column < v_dim; column += 16)
    accumulate_columns<Numbers, R, 1, kBlends>(weights, runs, blend, out, v_dim, column);
}

// out[r] += sum of weight x value over all runs, for R rows.
template <class Numbers, int R>
static void accumulate(const float* weights, const Runs& runs, float* out, int32_t v_dim) {
  accumulate_all<Numbers, R, false>(weights, runs, {}, out, v_dim);
}

// out[r] = out[r] x keep[r] + take[r] x sum of weight x value over all runs, for R rows.
template <class Numbers, int R>
static void blend(const float* weights, const Runs& runs, const Blend& blend, float* out, int32_t v_dim) {
  accumulate_all<Numbers, R, true>(weights, runs, blend, out, v_dim);
}

// The inner loops for one format of keys and one of values; index r - 1 serves r rows.
struct Micro {
  void (*score[max_rows])(const float*, int32_t, const KeyPages&, float*);
  void (*accumulate[max_rows])(const float*, const Runs&, float*, int32_t);
  void (*blend[max_rows])(const float*, const Runs&, const Blend&, float*, int32_t);
  int64_t value_size;  // bytes of a component of a value
};

#if defined(__AVX512F__)
#define KV_EACH_COUNT(X) X(1), X(2), X(3), X(4), X(5), X(6), X(7), X(8), X(9), X(10), X(11), X(12)
#else
#define KV_EACH_COUNT(X) X(1), X(2), X(3), X(4), X(5), X(6)
#endif
#define KV_SCORE(R) score<Keys, R>
#define KV_ACCUMULATE(R) accumulate<Values, R>
#define KV_BLEND(R) blend<Values, R>

template <class Keys, class Values>
static constexpr Micro micro_of = {
    {KV_EACH_COUNT(KV_SCORE)}, {KV_EACH_COUNT(KV_ACCUMULATE)}, {KV_EACH_COUNT(KV_BLEND)}, Values::size};

}  // namespace KV_ISA
}  // namespace kvloom
