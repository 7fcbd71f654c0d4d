// Packed weights times float activations.
#pragma once

#include "panels.h"

namespace kvloom {
namespace KV_ISA {

// Size of a register tile with many rows, rows x outputs, and the maximum number of rows that are kept in registers
// with few rows.
#if defined(__AVX512F__)
constexpr int kTileRows = 12, kTileOutputs = 32, kFewRows = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kTileRows = 6, kTileOutputs = 16, kFewRows = 2;
#else
constexpr int kTileRows = 2, kTileOutputs = 16, kFewRows = 1;
#endif

// Columns of a panel that are unpacked at a time.
constexpr int kBlockCols = 256;

// Few rows: weights are loaded into registers once and used for all rows. y has room for whole panels and contains the
// initial values.
template <Kind K, int R>
void few_rows(const float* x, int64_t cols, const uint8_t* panel, float* y, int64_t y_stride) {
  Column sum[R];
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 2; j++) sum[r].v[j] = load(y + r * y_stride + 16 * j);
  each_column<K>(panel, cols, [&](int64_t c, const Column& w) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const v16 xs = splat(x[r * cols + c]);
      for (int j = 0; j < 2; j++) sum[r].v[j] = fma(xs, w.v[j], sum[r].v[j]);
    }
  });
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 2; j++) store(y + r * y_stride + 16 * j, sum[r].v[j]);
}

template <Kind K, int R = 1>
void few_rows_of(int rows, const float* x, int64_t cols, const uint8_t* panel, float* y, int64_t y_stride) {
  if (rows == R) return few_rows<K, R>(x, cols, panel, y, y_stride);
  if constexpr (R < kFewRows) few_rows_of<K, R + 1>(rows, x, cols, panel, y, y_stride);
}

// Many rows: tile of y += rows of x times `n` columns of a panel's float weights w [n, 32]. Continues the sums in y.
template <int R>
void tile(const float* x, int64_t x_stride, const float* w, int64_t n, float* y, int64_t y_stride) {
  constexpr int kVecs = kTileOutputs / 16;
  v16 sum[R][kVecs];
  for (int r = 0; r < R; r++)
    for (int j = 0; j < kVecs; j++) sum[r][j] = load(y + r * y_stride + 16 * j);
  for (int64_t c = 0; c < n; c++, w += kPanel) {
    v16 ws[kVecs];
    for (int j = 0; j < kVecs; j++) ws[j] = load(w + 16 * j);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const v16 xs = splat(x[r * x_stride + c]);
      for (int j = 0; j < kVecs; j++) sum[r][j] = fma(xs, ws[j], sum[r][j]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < kVecs; j++) store(y + r * y_stride + 16 * j, sum[r][j]);
}

template <int R = kTileRows>
void tile_of(int64_t rows, const float* x, int64_t x_stride, const float* w, int64_t n, float* y, int64_t y_stride) {
  if (rows >= R) {
    for (int at = 0; at < kPanel; at += kTileOutputs) tile<R>(x, x_stride, w + at, n, y + at, y_stride);
  } else if constexpr (R > 1) {
    tile_of<R - 1>(rows, x, x_stride, w, n, y, y_stride);
  }
}

void unpack(const Matrix& part, int64_t panel, int64_t first, int64_t n, int64_t cols, float* w) {
  with_kind((Kind)part.kind, [&](auto tag) {
    constexpr Kind K = decltype(tag)::kind;
    constexpr Layout L = layout(K);
    each_column<K>(panel_at(part, panel, cols) + first / L.columns * L.bytes, n, [&](int64_t c, const Column& column) {
      for (int j = 0; j < 2; j++) store(w + c * kPanel + 16 * j, column.v[j]);
    });
  });
}

}  // namespace KV_ISA
}  // namespace kvloom
