// int8: keys and values as 8-bit integers, with a step per key and per value, which is 1/127 of the largest component.
//
//     keys     groups of four components (quads.h), each a 64-byte line for all entries; bytes are offset by 128; then
//              the steps of the entries
//     values   groups of four entries, each with 4 bytes per component; bytes are signed; then the steps of the entries
//
// Queries are rounded to 16 bits as they are for int16 keys, so that only keys are rounded coarsely, and sums of
// products remain exact: the norm of a query, 2^15, times that of 256 bytes is less than 2^31. Products of weights and
// steps of values are rounded to 15 bits of the largest of a block, so that sums over a block are exact as well, no
// matter how many rows are processed together.
#pragma once

#include "columns.h"
#include "quads.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {

// Whether blocks are read once, so that fetching them early pays off, or again and again.
enum class Reading { once, again };

template <Reading kReading>
struct Fetch {
  static inline void soon(const void* base, int64_t line) {
    if (kReading == Reading::once) fetch_soon(base, 64 * line);
  }
  static inline void later(const void* base, int64_t line) {
    if (kReading == Reading::once) fetch_later(base, 64 * line);
  }
};

// q holds the words of quads, two per quad, then step x scale, then the initial values of the sums.
template <Reading kReading>
struct Int8Keys : Fetch<kReading> {
  static constexpr int sums = quad_sums;

  template <int R, int P>
  static inline void score(const float* q, int32_t k_dim, const KeyPages& pages, int32_t first, float* s) {
    const void* const* keys = pages.keys + first;
    const int32_t num_quads = k_dim / 4;
    const float *steps = q + 2 * num_quads * R, *starts = steps + R;
    QuadSum sum[R][P];
    KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int p = 0; p < P; p++) sum[r][p] =
        quad_sum(splat_word(starts + r));
    for (int32_t i = 0; i < num_quads; i++) {
      KV_UNROLL for (int p = 0; p < P; p++) Int8Keys::soon(keys[P + p], i);
      KV_UNROLL for (int p = 0; p < P; p++) Int8Keys::later(pages.later[first + p], i);
      Quads k[P];
      KV_UNROLL for (int p = 0; p < P; p++) k[p] = load_quads<Sign::of_numbers>((const uint8_t*)keys[p] + 64 * i);
      KV_UNROLL for (int r = 0; r < R; r++) {
        const ints a = splat_word(q + 2 * i * R + r), b = splat_word(q + (2 * i + 1) * R + r);
        KV_UNROLL for (int p = 0; p < P; p++) add_quads<Sign::of_numbers>(sum[r][p], k[p], a, b);
      }
    }
    KV_UNROLL for (int p = 0; p < P; p++) Int8Keys::later(pages.later[first + p], num_quads);
    KV_UNROLL for (int p = 0; p < P; p++) {
      const v16 key_steps = load((const float*)keys[p] + num_quads * page_tokens);
      KV_UNROLL for (int r = 0; r < R; r++) store(s + r * s_stride + pages.slots[first + p] * page_tokens,
                                                  to_floats(total(sum[r][p])) * key_steps * splat(steps[r]));
    }
  }
};

// Weights are words of quads, as made by lane_words; each row is followed by its step. Runs are whole pages.
template <Reading kReading>
struct Int8Values : Fetch<kReading> {
  static constexpr int sums = quad_sums;
  static constexpr int64_t size = 1;

  template <int R, int C, bool kBlends>
  static inline void add(const float* weights, const Runs& runs, const Blend& blend, float* out, int32_t v_dim,
                         int32_t column) {
    QuadSum sum[R][C];
    KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int c = 0; c < C; c++) sum[r][c] = quad_sum(ints{});
    for (int32_t i = 0; i < runs.count; i++) {
      const Run& run = runs.runs[i];
      const float* w = weights + run.weight;
      const void* next = i + 1 < runs.count ? runs.runs[i + 1].values : runs.after;
      for (int32_t j = 0; j < page_tokens; j += 4) {
        const int32_t line = (j / 4 * v_dim + column) / 16;
        Quads v[C];
        KV_UNROLL for (int c = 0; c < C; c++) v[c] =
            load_quads<Sign::of_bytes>((const uint8_t*)run.values + 64 * (line + c));
        KV_UNROLL for (int c = 0; c < C; c++) Int8Values::soon(next, line + c);
        KV_UNROLL for (int c = 0; c < C; c++) Int8Values::later(run.later, line + c);
        KV_UNROLL for (int r = 0; r < R; r++) {
          const ints a = splat_word(w + r * s_stride + j), b = splat_word(w + r * s_stride + j + 1);
          KV_UNROLL for (int c = 0; c < C; c++) add_quads<Sign::of_bytes>(sum[r][c], v[c], a, b);
        }
      }
    }
    KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int c = 0; c < C; c++) {
      float* to = out + r * v_dim + column + 16 * c;
      const v16 x = to_floats(total(sum[r][c])) * splat(weights[r * s_stride + most_block_positions]);
      store(to, kBlends ? fma(load(to), splat(blend.keep[r]), x * splat(blend.take[r])) : x);
    }
  }
};

struct Int8 {
  typedef Int8Keys<Reading::once> Keys;
  typedef Int8Keys<Reading::again> NearKeys;
  typedef Int8Values<Reading::once> Values;
  typedef Int8Values<Reading::again> NearValues;

  static constexpr const char* name = "int8";
  static constexpr int in_place_groups = few_groups;
  static constexpr void (*decode_keys)(const uint8_t*, int32_t, float*) = nullptr;
  static constexpr void (*decode_values)(const uint8_t*, int32_t, float*) = nullptr;

  static int64_t key_bytes(int32_t dim) { return page_tokens * ((int64_t)dim + 4); }
  static int64_t value_bytes(int32_t dim) { return page_tokens * ((int64_t)dim + 4); }
  static int64_t value_steps(int32_t dim) { return page_tokens * (int64_t)dim; }

  // At most one component can be too large for the words. If so, the query is negated, and its step as well.
  static int32_t prepare(const float* q, int32_t dim, float scale, float* to) {
    float step = round_vector(q, dim, (int32_t*)to) * scale;
    int32_t sum = 0, top = 0;
    for (int32_t d = 0; d < dim; d += 16) {
      int16_t numbers[16];
      std::memcpy(numbers, to + d / 2, sizeof numbers);
      for (int i = 0; i < 16; i++) sum += numbers[i], top = std::max(top, (int32_t)numbers[i]);
    }
    const uint16_t turn = top > highest_number ? 0xffff : 0;
    if (turn) step = -step, sum = -sum;
    for (int32_t d = 0; d < dim; d += 8) {
      h8 numbers;
      std::memcpy(&numbers, to + d / 2, sizeof numbers);
      const b16 words = number_words((numbers ^ turn) - turn);
      std::memcpy(to + d / 2, &words, sizeof words);
    }
    const int32_t start = -128 * sum;
    to[dim / 2] = step;
    std::memcpy(to + dim / 2 + 1, &start, sizeof start);
    return dim / 2 + 2;
  }

  static void encode_keys(const Vectors& x, int32_t slot, uint8_t* keys) {
    const int32_t num_quads = x.dim / 4;
    uint8_t* rows = (uint8_t*)scratch(Scratch::tile, page_tokens * x.dim);
    float *column = (float*)keys + slot, *steps = column + num_quads * page_tokens;
    for (int32_t t = 0; t < x.count; t++) {
      uint8_t* row = rows + t * x.dim;
      steps[t] = round_to_bytes(x[t], x.dim, (int8_t*)row);
      for (int32_t d = 0; d < x.dim; d++) row[d] ^= 128;
    }
    write_columns(num_quads, x.count, column, [&](int32_t row, int32_t first, int32_t n, float* to) {
      std::memcpy(to, rows + row * x.dim + 4 * first, (size_t)n * sizeof(float));
    });
  }

  static void encode_values(const Vectors& x, int32_t slot, uint8_t* values) {
    int8_t* rows = (int8_t*)scratch(Scratch::tile, page_tokens * x.dim);
    float* steps = (float*)(values + page_tokens * x.dim) + slot;
    for (int32_t t = 0; t < x.count; t++) steps[t] = round_to_bytes(x[t], x.dim, rows + t * x.dim);
    for (int32_t t = 0; t < x.count;) {
      const int32_t entry = slot + t;
      int8_t* quad = (int8_t*)values + entry / 4 * 4 * x.dim;
      const int8_t* row = rows + t * x.dim;
      if (entry % 4 || t + 4 > x.count) {
        for (int32_t d = 0; d < x.dim; d++) quad[4 * d + entry % 4] = row[d];
        t++;
      } else {
        for (int32_t d = 0; d < x.dim; d++)
          for (int i = 0; i < 4; i++) quad[4 * d + i] = row[i * x.dim + d];
        t += 4;
      }
    }
  }

  static void copy_key(const Copy& copy) { copy_columns<uint32_t>(copy, copy.dim / 4 + 1); }  // words, and the step

  static void copy_value(const Copy& copy) {
    const uint8_t* from = copy.from + copy.entry / 4 * 4 * copy.dim + copy.entry % 4;
    uint8_t* to = copy.to + copy.place / 4 * 4 * copy.dim + copy.place % 4;
    for (int32_t d = 0; d < copy.dim; d++) to[4 * d] = from[4 * d];
    const int64_t steps = value_steps(copy.dim);
    std::memcpy(copy.to + steps + 4 * copy.place, copy.from + steps + 4 * copy.entry, 4);
  }

  static void read_keys(const uint8_t* keys, int32_t dim, float* columns) {
    const v16 steps = load((const float*)keys + dim / 4 * page_tokens);
    for (int32_t i = 0; i < dim / 4; i++) {
      const ints quad = flip(load_ints(keys + i * page_tokens * 4), (int32_t)0x80808080u);
      for (int e = 0; e < 4; e++, columns += page_tokens) store(columns, to_floats(signed_byte(quad, e)) * steps);
    }
  }

  static void read_values(const uint8_t* values, int32_t dim, float* rows) {
    const float* steps = (const float*)(values + value_steps(dim));
    for (int32_t t = 0; t < page_tokens; t += 4)
      for (int32_t d = 0; d < dim; d += 16) {
        const ints quad = load_ints(values + t * dim + 4 * d);
        for (int e = 0; e < 4; e++)
          store(rows + (t + e) * dim + d, to_floats(signed_byte(quad, e)) * splat(steps[t + e]));
      }
  }

 private:
  // Rounds dim floats (a multiple of 16) to integers from -127 to 127 and returns the step. If a component is not
  // finite, the step is NaN and the integers are 0.
  static float round_to_bytes(const float* x, int32_t dim, int8_t* bytes) {
    v16 top = splat(0.0f), faults = splat(0.0f);  // 0 times a finite number is 0, otherwise NaN
    for (int32_t d = 0; d < dim; d += 16) {
      const v16 v = load(x + d);
      top = vmax(vmax(v, splat(0.0f) - v), top);
      faults = fma(v, splat(0.0f), faults);
    }
    const Step step = byte_step(fold_max(top), fold_sum(faults) == 0.0f);
    for (int32_t d = 0; d < dim; d += 16) {
      const ints rounded = in_steps(load(x + d), splat(step.inverse));
      int32_t lanes[16];
      std::memcpy(lanes, &rounded, sizeof lanes);
      for (int i = 0; i < 16; i++) bytes[d + i] = (int8_t)lanes[i];
    }
    return step.size;
  }

  // The step of components up to `largest`. If they are so small that their step would be inexact, a fixed step is
  // used.
  static Step byte_step(float largest, bool finite) {
    if (!finite) return {__builtin_nanf(""), 0.0f};
    if (largest < 0x1p-100f) return {0x1p-106f, 0x1p106f};
    return {largest / 127.0f, 127.0f / largest};
  }
};

}  // namespace KV_ISA
}  // namespace kvloom
