// int8: keys and values as 8-bit integers, with a step of their own for each key and each value: a 127th of its largest
// component.
//
//     keys     per pair of components a line of 32 bytes, two per entry; then the entries' steps
//     values   a row of bytes per entry; then the entries' steps
//
// Bytes of keys are widened to words on the way: what meets them is the query of 16 bits that meets int16 keys, so that
// only keys are rounded coarsely, and sums of products stay exact: dim x 127 x 2^15 is less than 2^31. The steps of
// values are multiplied into the weights of their entries.
#pragma once

#include "columns.h"
#include "integer_keys.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {

// Two bytes per lane, signed, to the halves of the lane.
template <class V = ints>
static inline V widen_pairs(const uint8_t* p) {
  if constexpr (is_pair<V>) {
    typedef decltype(V::lo) Half;
    return {widen_pairs<Half>(p), widen_pairs<Half>(p + sizeof(Half) / 2)};
  } else {
#if defined(__AVX512F__)
    return (native_i)_mm512_maskz_cvtepi8_epi16(0xffffffff, _mm256_loadu_si256((const __m256i*)p));  // as in load_bf16
#elif defined(__AVX2__)
    return (native_i)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
#elif defined(__aarch64__)
    return (native_i)vmovl_s8(vld1_s8((const int8_t*)p));
#else
    int16_t halves[8];
    for (int i = 0; i < 8; i++) halves[i] = (int8_t)p[i];
    V v;
    std::memcpy(&v, halves, sizeof v);
    return v;
#endif
  }
}

struct Int8Words {
  static constexpr int words_per_line = 2;
  static inline ints words(const void* base, int64_t i) { return widen_pairs((const uint8_t*)base + i * 32); }
  static inline v16 steps(const void* base, int64_t num_words) {
    return load((const float*)((const uint8_t*)base + num_words * 32));
  }
  static inline void soon(const void* base, int64_t line) { fetch_soon(base, 64 * line); }
  static inline void later(const void* base, int64_t line) { fetch_later(base, 64 * line); }
};

struct Int8Values {
  static constexpr int64_t size = 1;
  static inline v16 at(const void* base, int64_t i) { return load_i8((const uint8_t*)base + i); }
  static inline void soon(const void* base, int64_t i) {
    if (!(i & 32)) fetch_soon(base, i);
  }
  static inline void later(const void* base, int64_t i) {
    if (!(i & 32)) fetch_later(base, i);
  }
};

struct Int8 {
  typedef IntegerKeys<Int8Words> Keys;
  typedef IntegerKeys<NearWords> NearKeys;
  typedef Int8Values Values;
  typedef Decoded NearValues;

  static constexpr const char* name = "int8";
  static constexpr int in_place_groups = few_groups;
  static constexpr auto prepare = prepare_integers;

  static int64_t key_bytes(int32_t dim) { return page_tokens * ((int64_t)dim + 4); }
  static int64_t value_bytes(int32_t dim) { return page_tokens * ((int64_t)dim + 4); }
  static int64_t value_scales(int32_t dim) { return page_tokens * (int64_t)dim; }

  static void encode_keys(const Vectors& x, int32_t slot, uint8_t* keys) {
    const int32_t num_pairs = x.dim / 2;
    int8_t* rows = (int8_t*)scratch(Scratch::tile, page_tokens * x.dim);
    float* steps = (float*)(keys + page_tokens * x.dim) + slot;
    for (int32_t t = 0; t < x.count; t++) steps[t] = round_to_bytes(x[t], x.dim, rows + t * x.dim);
    write_columns(num_pairs, x.count, (uint16_t*)keys + slot, [&](int32_t row, int32_t first, int32_t n, uint16_t* to) {
      std::memcpy(to, rows + row * x.dim + 2 * first, (size_t)n * 2);
    });
  }
  static void encode_values(const Vectors& x, int32_t slot, uint8_t* values) {
    float* steps = (float*)(values + page_tokens * x.dim) + slot;
    for (int32_t t = 0; t < x.count; t++)
      steps[t] = round_to_bytes(x[t], x.dim, (int8_t*)values + (int64_t)(slot + t) * x.dim);
  }

  // To the words and steps that int16 keys are made of.
  static void decode_keys(const uint8_t* keys, int32_t dim, float* near) {
    const int32_t num_words = dim / 2;
    for (int32_t i = 0; i < num_words; i++) {
      const ints words = Int8Words::words(keys, i);
      std::memcpy(near + i * page_tokens, &words, sizeof words);
    }
    store(near + num_words * page_tokens, Int8Words::steps(keys, num_words));
  }
  // Without their steps, as the weights have them.
  static void decode_values(const uint8_t* values, int32_t dim, float* near) {
    for (int64_t i = 0; i < page_tokens * (int64_t)dim; i += 16) store(near + i, Int8Values::at(values, i));
  }

 private:
  // dim floats (a multiple of 16) to as many integers from -127 to 127. Returns the step; NaN, and zeros, when a
  // component is not finite.
  static float round_to_bytes(const float* x, int32_t dim, int8_t* bytes) {
    v16 top = splat(0.0f), faults = splat(0.0f);  // 0 x a number is 0, and NaN of what is none
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

  // Of components up to `largest`. Those that are so small that their step would lose bits share one.
  static Step byte_step(float largest, bool finite) {
    if (!finite) return {__builtin_nanf(""), 0.0f};
    if (largest < 0x1p-100f) return {0x1p-106f, 0x1p106f};
    return {largest / 127.0f, 127.0f / largest};
  }
};

}  // namespace KV_ISA
}  // namespace kvloom
