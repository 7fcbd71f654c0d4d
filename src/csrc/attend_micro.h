// The inner loops of attention: scores of up to `max_rows` query rows against pages of keys, and weighted sums of
// values.
//
// Both are products A x B, with A broadcast, B in lanes and accumulators in registers. A floating-point accumulator is
// one chain of fused multiply-adds in ascending order (of key components, or of entries), no matter how many rows and
// columns are processed together. Sums of integers are exact. A row's bits therefore do not depend on its neighbours.
#pragma once

#include "attend_numbers.h"

namespace kvloom {
namespace KV_ISA {

// s[r][slot] = q[r] . keys, for R rows and all pages; q holds one component (or word) of all R rows after the other.
template <class Keys, int R>
static void score(const float* q, int32_t k_dim, const KeyPages& pages, float* s) {
  constexpr int P = columns_for(R * Keys::sums);
  int32_t p = 0;
  for (; p + P <= pages.count; p += P) Keys::template score<R, P>(q, k_dim, pages, p, s);
  for (; p < pages.count; p++) Keys::template score<R, 1>(q, k_dim, pages, p, s);
}

template <class Values, int R, bool kBlends>
static void accumulate_all(const float* weights, const Runs& runs, const Blend& blend, float* out, int32_t v_dim) {
  constexpr int C = columns_for(R * Values::sums);
  int32_t column = 0;
  for (; column + 16 * C <= v_dim; column += 16 * C)
    Values::template add<R, C, kBlends>(weights, runs, blend, out, v_dim, column);
  for (; column < v_dim; column += 16) Values::template add<R, 1, kBlends>(weights, runs, blend, out, v_dim, column);
}

// out[r] += sum of weight x value over all runs, for R rows.
template <class Values, int R>
static void accumulate(const float* weights, const Runs& runs, float* out, int32_t v_dim) {
  accumulate_all<Values, R, false>(weights, runs, {}, out, v_dim);
}

// out[r] = out[r] x keep[r] + take[r] x sum of weight x value over all runs, for R rows.
template <class Values, int R>
static void blend(const float* weights, const Runs& runs, const Blend& blend, float* out, int32_t v_dim) {
  accumulate_all<Values, R, true>(weights, runs, blend, out, v_dim);
}

// Maximum number of rows processed together: a sum may need several accumulators.
template <class Numbers>
constexpr int rows_of = max_rows / Numbers::sums;

// Loops for more rows are never called; those for one row take their places in the tables.
template <class Numbers>
constexpr int asked(int rows) {
  return rows <= rows_of<Numbers> ? rows : 1;
}

// The inner loops for a format of keys and one of values. Index r - 1 is for r rows.
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
#define KV_SCORE(R) score<Keys, asked<Keys>(R)>
#define KV_ACCUMULATE(R) accumulate<Values, asked<Values>(R)>
#define KV_BLEND(R) blend<Values, asked<Values>(R)>

template <class Keys, class Values>
static constexpr Micro micro_of = {
    {KV_EACH_COUNT(KV_SCORE)}, {KV_EACH_COUNT(KV_ACCUMULATE)}, {KV_EACH_COUNT(KV_BLEND)}, Values::size};

}  // namespace KV_ISA
}  // namespace kvloom
