// What the inner loops of attention have in common: stored numbers, register tiles, pages of keys, runs of values.
#pragma once

#include "attend.h"
#include "simd.h"

namespace kvloom {
namespace KV_ISA {

// How stored numbers become float lanes. `at` reads 16 values from index i on; `soon` says that the 32 values from i on
// are about to be read, `later` that they come after some 50 KB of others. The pages of a list lie far apart, where no
// hardware looks ahead, and the first level of cache alone cannot wait for as many lines as memory could deliver.
struct Decoded {  // float32, already near
  static constexpr int64_t size = 4;
  static inline v16 at(const void* base, int64_t i) { return load((const float*)base + i); }
  static inline void soon(const void*, int64_t) {}
  static inline void later(const void*, int64_t) {}
};

static inline void fetch_soon(const void* base, int64_t bytes) {
  __builtin_prefetch((const uint8_t*)base + bytes);
}
static inline void fetch_later(const void* base, int64_t bytes) {
  __builtin_prefetch((const uint8_t*)base + bytes, 0, 2);
}

// Scores of a row; padded so that rows fall in different cache sets.
constexpr int s_stride = most_block_positions + 16;

// Accumulators that fit in registers, in v16, and the rows that go together.
#if defined(__AVX512F__)
constexpr int accumulators = 24, max_rows = 12;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int accumulators = 6, max_rows = 6;
#else
constexpr int accumulators = 2, max_rows = 6;
#endif

// Columns of B that go with R rows of A.
constexpr int columns_for(int rows) {
  return accumulators / rows >= 4 ? 4 : accumulators / rows >= 2 ? 2 : 1;
}

// Pages to score: keys[p] is a page's transposed K, whose scores go to s + slots[p] * page_tokens. Behind the last one
// come `ahead` pages that are wanted next, whatever they hold. `later` are pages to fetch meanwhile.
struct KeyPages {
  static constexpr int ahead = 4;
  const void *const *keys, *const *later;
  const int32_t* slots;
  int32_t count;
};

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

}  // namespace KV_ISA
}  // namespace kvloom
