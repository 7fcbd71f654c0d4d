// New keys and values into their pages: rows that follow each other in a page are turned around together, so that the
// lines of a page's transposed keys are written once instead of once per row.
#pragma once

#include <algorithm>

#include "attend_int16.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {

// A stored number, and a native vector of them.
template <Number N>
struct StoredAs {
  typedef uint16_t type;
  typedef h8 vector;
};
template <>
struct StoredAs<Number::float32> {
  typedef float type;
  typedef v4 vector;
};

// n <= 16 values as a page stores them.
template <Number N>
static inline void encode(const float* x, int32_t n, typename StoredAs<N>::type* out) {
  if constexpr (N == Number::float32) {
    std::memcpy(out, x, (size_t)n * 4);
  } else if constexpr (N == Number::float16) {
#if defined(__AVX512F__)
    if (n == 16) {
      _mm256_storeu_si256((__m256i*)out, _mm512_maskz_cvtps_ph(0xffff, _mm512_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT));
      return;
    }
#endif
    for (int32_t i = 0; i < n; i++) out[i] = float_to_half(x[i]);
  } else {
    for (int32_t i = 0; i < n; i++) out[i] = float_to_bf16(x[i]);
  }
}

// columns[j * page_tokens + i] = square[i][j], in squares that fit into registers.
template <Number N>
static void turn(const typename StoredAs<N>::type (&square)[page_tokens][16], typename StoredAs<N>::type* columns) {
  typedef typename StoredAs<N>::vector V;
  constexpr int side = sizeof(V) / sizeof(square[0][0]);
  for (int i = 0; i < page_tokens; i += side)
    for (int j = 0; j < 16; j += side) {
      V rows[side];
      KV_UNROLL for (int k = 0; k < side; k++) std::memcpy(&rows[k], &square[i + k][j], sizeof(V));
      transpose(rows);
      KV_UNROLL for (int k = 0; k < side; k++) std::memcpy(columns + (j + k) * page_tokens + i, &rows[k], sizeof(V));
    }
}

// Rows row .. row + count go to slots slot .. slot + count of one page.
struct Stretch {
  int64_t row;
  int32_t count;
};

// `count` rows of `width` numbers become columns from `columns` on, which lie page_tokens apart.
template <Number N>
static void write_columns(const float* rows, int64_t stride, int32_t width, int32_t count,
                          typename StoredAs<N>::type* columns) {
  for (int32_t d = 0; d < width; d += 16) {
    const int32_t n = std::min(16, width - d);
    typename StoredAs<N>::type square[page_tokens][16];
    for (int32_t t = 0; t < count; t++) encode<N>(rows + t * stride + d, n, square[t]);
    if (count == page_tokens && n == 16) {
      turn<N>(square, columns + d * page_tokens);
      continue;
    }
    for (int32_t i = 0; i < n; i++)
      for (int32_t t = 0; t < count; t++) columns[(d + i) * page_tokens + t] = square[t][i];
  }
}

template <Number N>
static void write_keys(const WriteCall& call, const Stretch& stretch, int32_t head) {
  typedef typename StoredAs<N>::type Value;
  const PageLayout& part = call.part;
  const int32_t slot = call.row_slots[stretch.row];
  uint8_t* cell = part.cell(call.row_pages[stretch.row], call.layer_slot, head);
  const float* k = call.k + (stretch.row * part.heads + head) * part.k_dim;
  const int64_t stride = (int64_t)part.heads * part.k_dim;
  if constexpr (N == Number::int16) {
    const int32_t num_words = part.k_dim / 2;
    float *words = (float*)scratch(Scratch::tile, page_tokens * num_words * sizeof(float)),
          *column = (float*)cell + slot;
    for (int32_t t = 0; t < stretch.count; t++)
      column[num_words * page_tokens + t] = round_vector(k + t * stride, part.k_dim, (int32_t*)words + t * num_words);
    write_columns<Number::float32>(words, num_words, num_words, stretch.count, column);
  } else {
    write_columns<N>(k, stride, part.k_dim, stretch.count, (Value*)cell + slot);
  }
}

template <Number N>
static void write_values(const WriteCall& call, const Stretch& stretch, int32_t head) {
  typedef typename StoredAs<N>::type Value;
  const PageLayout& part = call.part;
  Value* values = (Value*)(part.cell(call.row_pages[stretch.row], call.layer_slot, head) + part.k_bytes()) +
                  (int64_t)call.row_slots[stretch.row] * part.v_dim;
  const float* v = call.v + (stretch.row * part.heads + head) * part.v_dim;
  for (int32_t t = 0; t < stretch.count; t++, values += part.v_dim, v += (int64_t)part.heads * part.v_dim)
    for (int32_t d = 0; d < part.v_dim; d += 16) encode<N>(v + d, std::min(16, part.v_dim - d), values + d);
}

template <Number N>
static void write_stretch(const WriteCall& call, const Stretch& stretch) {
  if (call.row_pages[stretch.row] == no_page) return;
  for (int32_t head = 0; head < call.part.heads; head++) {
    write_keys<N>(call, stretch, head);
    write_values<N == Number::int16 ? Number::float16 : N>(call, stretch, head);
  }
}

// How many of the rows row .. end go side by side into one page.
static inline int32_t stretch_length(const WriteCall& call, int64_t row, int64_t end) {
  int32_t count = 1;
  while (row + count < end && call.row_pages[row + count] == call.row_pages[row] &&
         call.row_slots[row + count] == call.row_slots[row] + count)
    count++;
  return count;
}

template <Number N>
static void write_rows(const WriteCall& call, int64_t row, int64_t end) {
  while (row < end) {
    const Stretch stretch{row, stretch_length(call, row, end)};
    write_stretch<N>(call, stretch);
    row += stretch.count;
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
