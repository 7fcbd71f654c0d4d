// Partial results: the state of a set of rows over some entries, and the merging of such states.
//
// Scores are in units of log 2, so that weights are powers of 2, which are cheaper than powers of e.
#pragma once

#include "attend.h"
#include "simd.h"

namespace kvloom {
namespace KV_ISA {

constexpr float empty = -__builtin_huge_valf();  // the maximum over no entries
constexpr float log2_e = 1.44269504088896341f, ln_2 = 0.693147180559945309f;

// For every row: its maximum score m, the sum of its weights l (0 over no entries) and its weighted sum of values o
// (undefined over no entries), before division by l.
struct State {
  float *m, *l, *o;

  static int64_t floats(int64_t rows, int64_t v_dim) { return rows * (2 + v_dim); }
  static State at(float* base, int64_t rows) { return {base, base + rows, base + 2 * rows}; }
  State from(int64_t row, int64_t v_dim) const { return {m + row, l + row, o + row * v_dim}; }
};

// The union of two states over disjoint sets of entries, for up to 16 rows: new maxima and sums, and the factors for
// the sums of values of both. Lanes beyond the last row are undefined.
struct Union {
  float m[16], l[16], keep[16], take[16];

  // May read beyond the rows, within the states.
  Union(const State& into, const State& from) {
    const v16 m_into = load(into.m), m_from = load(from.m);
    const v16 top = vmax(m_into, m_from);
    const v16 base = vmax(top, splat(-3.0e38f));  // not minus infinity: both may be empty
    const v16 a = vexp2(m_into - base), b = vexp2(m_from - base);
    store(keep, a), store(take, b), store(m, top), store(l, fma(load(into.l), a, load(from.l) * b));
  }
};

// Merges `from` into `into`, for up to 16 rows.
static inline void merge_some(const State& into, const State& from, int32_t rows, int32_t v_dim) {
  const Union both(into, from);
  for (int32_t r = 0; r < rows; r++) {
    if (from.m[r] == empty) continue;
    float *o = into.o + (int64_t)r * v_dim, *more = from.o + (int64_t)r * v_dim;
    if (into.m[r] == empty) {
      into.m[r] = from.m[r], into.l[r] = from.l[r];
      std::memcpy(o, more, sizeof(float) * v_dim);
      continue;
    }
    into.m[r] = both.m[r], into.l[r] = both.l[r];
    for (int32_t d = 0; d < v_dim; d += 16)
      store(o + d, fma(load(o + d), splat(both.keep[r]), load(more + d) * splat(both.take[r])));
  }
}

static inline void merge_states(State into, State from, int32_t rows, int32_t v_dim) {
  for (int32_t r = 0; r < rows; r += 16)
    merge_some(into.from(r, v_dim), from.from(r, v_dim), rows - r < 16 ? rows - r : 16, v_dim);
}

static inline float exp_of(float x) {
  float lanes[16];
  store(lanes, vexp(splat(x)));
  return lanes[0];
}

// Divides the state of a row by its sum and writes the result, or merges it into the existing one. `lse` is a natural
// logarithm.
static inline void finish_row(float m, float l, const float* o, float* out, float* lse, int32_t v_dim, bool merge) {
  const bool nothing = m == empty;
  if (merge && nothing) return;
  float keep = 0.0f, take = nothing ? 0.0f : 1.0f / l, total = nothing ? empty : m * ln_2 + __builtin_logf(l);
  if (merge && *lse != empty) {
    const float top = *lse > total ? *lse : total;
    const float old_weight = exp_of(*lse - top), new_weight = exp_of(total - top);
    keep = old_weight / (old_weight + new_weight);
    take *= new_weight / (old_weight + new_weight);
    total = top + __builtin_logf(old_weight + new_weight);
    for (int32_t d = 0; d < v_dim; d += 16) store(out + d, load(out + d) * splat(keep) + load(o + d) * splat(take));
  } else if (nothing) {
    std::memset(out, 0, sizeof(float) * v_dim);
  } else {
    for (int32_t d = 0; d < v_dim; d += 16) store(out + d, load(o + d) * splat(take));
  }
  *lse = total;
}

}  // namespace KV_ISA
}  // namespace kvloom
