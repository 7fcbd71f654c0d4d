// Transposition of rows to columns: a block stores keys transposed. Adjacent rows are transposed together, so that
// every cache line of a block is written once instead of once per row.
#pragma once

#include <algorithm>

#include "codec.h"

namespace kvloom {
namespace KV_ISA {

template <int kBytes>
struct Stored;
template <>
struct Stored<2> {
  typedef uint16_t type;
  typedef h8 vector;
};
template <>
struct Stored<4> {
  typedef float type;
  typedef v4 vector;
};

// columns[j * page_tokens + i] = square[i][j], in smaller squares that fit into registers.
template <class Number>
static void turn(const Number (&square)[page_tokens][16], Number* columns) {
  typedef typename Stored<sizeof(Number)>::vector V;
  constexpr int side = sizeof(V) / sizeof(Number);
  for (int i = 0; i < page_tokens; i += side)
    for (int j = 0; j < 16; j += side) {
      V rows[side];
      KV_UNROLL for (int k = 0; k < side; k++) std::memcpy(&rows[k], &square[i + k][j], sizeof(V));
      transpose(rows);
      KV_UNROLL for (int k = 0; k < side; k++) std::memcpy(columns + (j + k) * page_tokens + i, &rows[k], sizeof(V));
    }
}

// Writes `count` rows of `width` numbers as columns, which are page_tokens apart. `encode(row, first, n, to)` writes n
// <= 16 numbers of a row, starting with number `first`, to `to`.
template <class Number, class Encode>
static void write_columns(int32_t width, int32_t count, Number* columns, const Encode& encode) {
  for (int32_t d = 0; d < width; d += 16) {
    const int32_t n = std::min(16, width - d);
    Number square[page_tokens][16];
    for (int32_t t = 0; t < count; t++) encode(t, d, n, square[t]);
    if (count == page_tokens && n == 16) {
      turn(square, columns + d * page_tokens);
      continue;
    }
    for (int32_t i = 0; i < n; i++)
      for (int32_t t = 0; t < count; t++) columns[(d + i) * page_tokens + t] = square[t][i];
  }
}

// Copies the numbers of one entry, one in each of `width` columns of entries.
template <class Number>
static inline void copy_columns(const Copy& copy, int32_t width) {
  const Number* from = (const Number*)copy.from + copy.entry;
  Number* to = (Number*)copy.to + copy.place;
  for (int32_t i = 0; i < width; i++) to[i * page_tokens] = from[i * page_tokens];
}

}  // namespace KV_ISA
}  // namespace kvloom
