// Shared by codecs of plain floating-point numbers, which differ only in how a number is loaded and stored.
#pragma once

#include "attend_numbers.h"
#include "columns.h"

namespace kvloom {
namespace KV_ISA {

template <class Numbers, int R, int P>
static inline void score_floats(const float* q, int32_t k_dim, const KeyPages& pages, int32_t first, float* s) {
  const void* const* keys = pages.keys + first;
  v16 acc[R][P];
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int p = 0; p < P; p++) acc[r][p] = splat(0.0f);
  for (int32_t d = 0; d < k_dim; d += 2) {
    KV_UNROLL for (int p = 0; p < P; p++) Numbers::soon(keys[P + p], d * page_tokens);
    KV_UNROLL for (int p = 0; p < P; p++) Numbers::later(pages.later[first + p], d * page_tokens);
    KV_UNROLL for (int e = 0; e < 2; e++) {
      v16 k[P];
      KV_UNROLL for (int p = 0; p < P; p++) k[p] = Numbers::at(keys[p], (d + e) * page_tokens);
      KV_UNROLL for (int r = 0; r < R; r++) {
        const v16 x = splat(q[(d + e) * R + r]);
        KV_UNROLL for (int p = 0; p < P; p++) acc[r][p] = fma(x, k[p], acc[r][p]);
      }
    }
  }
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int p = 0; p < P; p++)
      store(s + r * s_stride + pages.slots[first + p] * page_tokens, acc[r][p]);
}

template <class Numbers>
struct FloatKeys {
  static constexpr int sums = 1;
  template <int R, int P>
  static inline void score(const float* q, int32_t k_dim, const KeyPages& pages, int32_t first, float* s) {
    score_floats<Numbers, R, P>(q, k_dim, pages, first, s);
  }
};

template <class Numbers, int R, int C, bool kBlends>
static inline void add_floats(const float* weights, const Runs& runs, const Blend& blend, float* out, int32_t v_dim,
                              int32_t column) {
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

template <class Numbers>
struct FloatValues {
  static constexpr int sums = 1;
  static constexpr int64_t size = Numbers::size;
  template <int R, int C, bool kBlends>
  static inline void add(const float* weights, const Runs& runs, const Blend& blend, float* out, int32_t v_dim,
                         int32_t column) {
    add_floats<Numbers, R, C, kBlends>(weights, runs, blend, out, v_dim, column);
  }
};

// A query is only scaled.
static inline int32_t prepare_floats(const float* q, int32_t dim, float scale, float* to) {
  for (int32_t d = 0; d < dim; d += 16) store(to + d, load(q + d) * splat(scale));
  return dim;
}

template <class Numbers>
static inline void decode_floats(const uint8_t* stored, int32_t dim, float* out) {
  for (int64_t i = 0; i < page_tokens * (int64_t)dim; i += 16) store(out + i, Numbers::at(stored, i));
}

template <class Numbers>
static inline void encode_rows(const Vectors& x, int32_t slot, uint8_t* values) {
  typename Numbers::type* to = (typename Numbers::type*)values + (int64_t)slot * x.dim;
  for (int32_t t = 0; t < x.count; t++, to += x.dim)
    for (int32_t d = 0; d < x.dim; d += 16) Numbers::encode(x[t] + d, std::min(16, x.dim - d), to + d);
}

template <class Numbers>
static inline void copy_row(const Copy& copy) {
  const int64_t bytes = Numbers::size * copy.dim;
  std::memcpy(copy.to + copy.place * bytes, copy.from + copy.entry * bytes, (size_t)bytes);
}

// `Numbers` defines a `type`, and how to load and encode its values.
template <class Numbers>
struct FloatCodec {
  typedef FloatKeys<Numbers> Keys;
  typedef FloatKeys<Decoded> NearKeys;
  typedef FloatValues<Numbers> Values;
  typedef FloatValues<Decoded> NearValues;

  static constexpr int in_place_groups = few_groups;
  static constexpr auto prepare = prepare_floats;
  static constexpr auto decode_keys = decode_floats<Numbers>, decode_values = decode_floats<Numbers>;
  static constexpr int64_t (*value_steps)(int32_t) = nullptr;

  static int64_t key_bytes(int32_t dim) { return page_tokens * Numbers::size * dim; }
  static int64_t value_bytes(int32_t dim) { return page_tokens * Numbers::size * dim; }

  static void encode_keys(const Vectors& x, int32_t slot, uint8_t* keys) {
    typedef typename Numbers::type Number;
    write_columns(x.dim, x.count, (Number*)keys + slot,
                  [&](int32_t row, int32_t first, int32_t n, Number* to) { Numbers::encode(x[row] + first, n, to); });
  }
  static constexpr auto encode_values = encode_rows<Numbers>;

  static void copy_key(const Copy& copy) { copy_columns<typename Numbers::type>(copy, copy.dim); }
  static constexpr auto copy_value = copy_row<Numbers>;
  static constexpr auto read_keys = decode_floats<Numbers>, read_values = decode_floats<Numbers>;
};

}  // namespace KV_ISA
}  // namespace kvloom
