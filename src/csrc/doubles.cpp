#include "doubles.h"

#include <algorithm>
#include <cmath>

#include "parallel.h"
#include "simd.h"

namespace kvloom {
namespace KV_ISA {
namespace {

// Doubles of a register, and the tile of a product that fits into registers, in rows and vectors.
#if defined(__AVX512F__)
constexpr int kLanes = 8, kTileRows = 6, kTileVectors = 4;
#elif defined(__AVX2__)
constexpr int kLanes = 4, kTileRows = 4, kTileVectors = 2;
#else
constexpr int kLanes = 2, kTileRows = 4, kTileVectors = 2;
#endif
constexpr int kTileColumns = kLanes * kTileVectors;
typedef double Vector __attribute__((vector_size(8 * kLanes)));

template <int R>
void multiply_tile(const ProductArgs& p, int64_t row, int64_t column) {
  Vector sum[R][kTileVectors];
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int c = 0; c < kTileVectors; c++) sum[r][c] = Vector{};
  const double *a = p.a + row * p.inner, *b = p.b + column;
  for (int64_t k = 0; k < p.inner; k++, b += p.columns) {
    Vector y[kTileVectors];
    KV_UNROLL for (int c = 0; c < kTileVectors; c++) std::memcpy(&y[c], b + c * kLanes, sizeof(Vector));
    KV_UNROLL for (int r = 0; r < R; r++) {
      const double x = a[r * p.inner + k];
      KV_UNROLL for (int c = 0; c < kTileVectors; c++) sum[r][c] += x * y[c];
    }
  }
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int c = 0; c < kTileVectors; c++)
      std::memcpy(p.out + (row + r) * p.columns + column + c * kLanes, &sum[r][c], sizeof(Vector));
}

// The columns that fill no tile, of one row.
void multiply_rest(const ProductArgs& p, int64_t row, int64_t column) {
  double* out = p.out + row * p.columns;
  for (int64_t c = column; c < p.columns; c++) out[c] = 0.0;
  for (int64_t k = 0; k < p.inner; k++)
    for (int64_t c = column; c < p.columns; c++) out[c] += p.a[row * p.inner + k] * p.b[k * p.columns + c];
}

// Some rows of the only pair.
void multiply_rows(const ProductArgs& p, int64_t begin, int64_t end) {
  int64_t column = 0;
  for (; column + kTileColumns <= p.columns; column += kTileColumns) {
    int64_t row = begin;
    for (; row + kTileRows <= end; row += kTileRows) multiply_tile<kTileRows>(p, row, column);
    for (; row < end; row++) multiply_tile<1>(p, row, column);
  }
  if (column < p.columns)
    for (int64_t row = begin; row < end; row++) multiply_rest(p, row, column);
}

void multiply(const ProductArgs& p) {
  constexpr int64_t step = 8 * kTileRows;  // rows of a task
  const int64_t tasks = (p.rows + step - 1) / step;
  parallel_for(p.pairs * tasks, p.threads, [&](int64_t task) {
    const int64_t n = task / tasks, begin = task % tasks * step;
    const ProductArgs pair{p.a + n * p.rows * p.inner,
                           p.b + n * p.inner * p.columns,
                           p.out + n * p.rows * p.columns,
                           1,
                           p.rows,
                           p.inner,
                           p.columns,
                           1};
    multiply_rows(pair, begin, std::min(begin + step, p.rows));
  });
}

void add_row(double factor, const double* row, double* to, int64_t count) {
  for (int64_t i = 0; i < count; i++) to[i] += factor * row[i];
}

// a = L L^T. L replaces the lower half of a; its columns are also written to the upper half, as rows.
void factor(double* a, int64_t size) {
  double largest = 0;
  for (int64_t i = 0; i < size; i++) largest = std::max(largest, a[i * size + i]);
  const double least = std::max(largest * 1e-14, 1e-300);
  for (int64_t j = 0; j < size; j++) {
    double* column = a + j * size;
    const double root = std::sqrt(std::max(column[j], least));
    column[j] = root;
    for (int64_t i = j + 1; i < size; i++) column[i] = a[i * size + j] /= root;
    for (int64_t i = j + 1; i < size; i++) add_row(-column[i], column + j + 1, a + i * size + j + 1, i - j);
  }
}

void solve_one(const SolveArgs& s, int64_t index) {
  const int64_t size = s.size, columns = s.columns;
  double *a = s.a + index * size * size, *y = s.y + index * size * columns;
  factor(a, size);
  for (int64_t i = 0; i < size; i++) {
    for (int64_t k = 0; k < i; k++) add_row(-a[i * size + k], y + k * columns, y + i * columns, columns);
    for (int64_t c = 0; c < columns; c++) y[i * columns + c] /= a[i * size + i];
  }
  for (int64_t i = size - 1; i >= 0; i--) {
    for (int64_t k = i + 1; k < size; k++) add_row(-a[i * size + k], y + k * columns, y + i * columns, columns);
    for (int64_t c = 0; c < columns; c++) y[i * columns + c] /= a[i * size + i];
  }
}

void solve(const SolveArgs& s) {
  parallel_for(s.systems, s.threads, [&](int64_t index) { solve_one(s, index); });
}

}  // namespace

const DoubleKernels double_kernels = {multiply, solve};

}  // namespace KV_ISA
}  // namespace kvloom
