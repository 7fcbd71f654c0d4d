// int16: keys as 16-bit integers with a step per key, rounded in the same way as queries (integer_keys.h); values in
// float16.
//
// A float16 component that is at least 1/16 of the norm of its key is represented exactly.
#pragma once

#include "codec_float16.h"
#include "integer_keys.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {

struct Int16Words : NearWords {
  static inline void soon(const void* base, int64_t line) { fetch_soon(base, 64 * line); }
  static inline void later(const void* base, int64_t line) { fetch_later(base, 64 * line); }
};

struct Int16 {
  typedef IntegerKeys<Int16Words> Keys;
  typedef IntegerKeys<NearWords> NearKeys;
  typedef FloatValues<Float16Numbers> Values;
  typedef FloatValues<Decoded> NearValues;

  static constexpr const char* name = "int16";
  static constexpr int in_place_groups = few_groups;
  static constexpr auto prepare = prepare_integers;
  static constexpr void (*decode_keys)(const uint8_t*, int32_t, float*) = nullptr;  // used as they are stored
  static constexpr auto decode_values = decode_floats<Float16Numbers>;
  static constexpr int64_t (*value_steps)(int32_t) = nullptr;

  static int64_t key_bytes(int32_t dim) { return page_tokens * (2 * (int64_t)dim + 4); }
  static int64_t value_bytes(int32_t dim) { return page_tokens * 2 * (int64_t)dim; }

  static void encode_keys(const Vectors& x, int32_t slot, uint8_t* keys) {
    const int32_t num_words = x.dim / 2;
    float *words = (float*)scratch(Scratch::tile, page_tokens * num_words * sizeof(float)),
          *column = (float*)keys + slot;
    for (int32_t t = 0; t < x.count; t++)
      column[num_words * page_tokens + t] = round_vector(x[t], x.dim, (int32_t*)words + t * num_words);
    write_columns(num_words, x.count, column, [&](int32_t row, int32_t first, int32_t n, float* to) {
      std::memcpy(to, words + row * num_words + first, (size_t)n * sizeof(float));
    });
  }
  static constexpr auto encode_values = encode_rows<Float16Numbers>;

  static void copy_key(const Copy& copy) { copy_columns<uint32_t>(copy, copy.dim / 2 + 1); }  // words, and the step
  static constexpr auto copy_value = copy_row<Float16Numbers>;

  static void read_keys(const uint8_t* keys, int32_t dim, float* columns) {
    const v16 steps = load((const float*)keys + dim / 2 * page_tokens);
    for (int32_t i = 0; i < dim / 2; i++, columns += 2 * page_tokens) {
      const ints words = load_ints(keys + i * page_tokens * 4);
      const v16 low = to_floats(flip(bits_of(words, 0, 0xffff), 0x8000)) - splat(32768.0f);  // exact
      store(columns, low * steps);
      store(columns + page_tokens, to_floats(bits_of(words, 16, -1)) * steps);
    }
  }
  static constexpr auto read_values = decode_floats<Float16Numbers>;
};

}  // namespace KV_ISA
}  // namespace kvloom
