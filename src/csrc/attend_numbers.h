// Shared by the inner loops of attention: loading of stored numbers, sizes of register tiles, pages of keys, runs of
// values.
#pragma once

#include "attend.h"
#include "simd.h"

namespace kvloom {
namespace KV_ISA {

// How stored numbers are loaded into float lanes. `at` reads 16 values starting with index i. `soon` announces that the
// 32 values from i on are read soon; `later`, that they are read after about 50 KB of others. The pages of a list are
// scattered in memory, so hardware does not prefetch them, and the outstanding misses of the first-level cache alone
// cannot use the whole memory bandwidth.
struct Decoded {  // float32, decoded to working memory
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

// Scores per row, padded so that rows fall into different cache sets.
constexpr int s_stride = most_block_positions + 16;

// Number of v16 accumulators that fit into registers, and of rows processed together.
#if defined(__AVX512F__)
constexpr int accumulators = 24, max_rows = 12;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int accumulators = 6, max_rows = 6;
#else
constexpr int accumulators = 2, max_rows = 6;
#endif

// Columns of B processed together with R rows of A.
constexpr int columns_for(int rows) {
  return accumulators / rows >= 4 ? 4 : accumulators / rows >= 2 ? 2 : 1;
}

// Pages to score: keys[p] is a page's transposed K, whose scores go to s + slots[p] * page_tokens. The array has
// `ahead` more pages, which are read next and only fetched. `later`: pages to fetch in the meantime.
struct KeyPages {
  static constexpr int ahead = 4;
  const void *const *keys, *const *later;
  const int32_t* slots;
  int32_t count;
};

// Consecutive entries of a page: their values, as many values to fetch in the meantime, the index of the first weight,
// and the number of entries.
struct Run {
  const void *values, *later;
  int32_t weight, count;
};

// Runs to accumulate. `after` is read next.
struct Runs {
  const Run* runs;
  int32_t count;
  const void* after;
};

// Factors for what a row has already (`keep`) and for the new sum (`take`).
struct Blend {
  const float *keep, *take;
};

}  // namespace KV_ISA
}  // namespace kvloom
