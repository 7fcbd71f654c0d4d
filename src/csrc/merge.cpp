#include "merge.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "parallel.h"
#include "scratch.h"
#include "simd.h"

namespace kvloom {
namespace KV_ISA {
namespace {

// Rows, and panels of others, whose products are made together: as many as fit into registers.
#if defined(__AVX512F__)
constexpr int kRows = 4, kPanels = 4, kQueries = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kRows = 4, kPanels = 1, kQueries = 4;
#else
constexpr int kRows = 2, kPanels = 1, kQueries = 2;
#endif

// The rows of a panel as columns, [dim][panel_rows]. Columns without a row repeat the first one.
void turn(const float* x, int64_t dim, const int64_t* rows, int32_t count, float* columns) {
  for (int32_t i = 0; i < panel_rows; i++) {
    const float* row = x + rows[i < count ? i : 0] * dim;
    for (int64_t d = 0; d < dim; d++) columns[d * panel_rows + i] = row[d];
  }
}

// The norms of columns, but no less than a number whose inverse is finite.
void norms_of(const float* columns, int64_t dim, float* norms) {
  v16 sum = splat(0.0f);
  for (int64_t d = 0; d < dim; d++) {
    const v16 x = load(columns + d * panel_rows);
    sum = fma(x, x, sum);
  }
  store(norms, sum);
  for (int32_t i = 0; i < panel_rows; i++) norms[i] = std::max(std::sqrt(norms[i]), 1e-12f);
}

void make_units(const NearestArgs& a, int64_t index) {
  const Panel& panel = a.other_panels[index];
  float *columns = a.units + index * a.dim * panel_rows, norms[panel_rows];
  turn(a.x, a.dim, a.others + panel.first, panel.count, columns);
  norms_of(columns, a.dim, norms);
  for (int64_t d = 0; d < a.dim; d++) store(columns + d * panel_rows, load(columns + d * panel_rows) / load(norms));
}

// The best so far of the rows of a panel.
struct Best {
  float product[panel_rows];
  int64_t index[panel_rows];
};

// Compares R rows from `row` on, of columns, with C panels of units, of which the first has the index `panel`.
template <int R, int C>
void compare(const float* columns, const float* units, int64_t dim, int row, int64_t panel, Best& best) {
  v16 sum[R][C];
  KV_UNROLL for (int r = 0; r < R; r++) KV_UNROLL for (int c = 0; c < C; c++) sum[r][c] = splat(0.0f);
  for (int64_t d = 0; d < dim; d++) {
    v16 unit[C];
    KV_UNROLL for (int c = 0; c < C; c++) unit[c] = load(units + (c * dim + d) * panel_rows);
    KV_UNROLL for (int r = 0; r < R; r++) {
      const v16 x = splat(columns[d * panel_rows + row + r]);
      KV_UNROLL for (int c = 0; c < C; c++) sum[r][c] = fma(x, unit[c], sum[r][c]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) {
      if (!(fold_max(sum[r][c]) > best.product[row + r])) continue;
      float products[panel_rows];
      store(products, sum[r][c]);
      for (int i = 0; i < panel_rows; i++)
        if (products[i] > best.product[row + r])
          best.product[row + r] = products[i], best.index[row + r] = (panel + c) * panel_rows + i;
    }
}

void find_nearest(const NearestArgs& a, const Panel& panel) {
  float *columns = (float*)scratch(Scratch::tile, (size_t)(a.dim * panel_rows) * sizeof(float)), norms[panel_rows];
  turn(a.x, a.dim, a.rows + panel.first, panel.count, columns);
  norms_of(columns, a.dim, norms);
  Best best;
  for (int i = 0; i < panel_rows; i++) best.product[i] = -std::numeric_limits<float>::infinity(), best.index[i] = 0;
  const int64_t begin = a.other_bounds[panel.head], count = a.other_bounds[panel.head + 1] - begin;
  int64_t p = 0;
  const auto units = [&] { return a.units + (begin + p) * a.dim * panel_rows; };
  for (; p + kPanels <= count; p += kPanels)
    for (int row = 0; row < panel.count; row += kRows) compare<kRows, kPanels>(columns, units(), a.dim, row, p, best);
  for (; p < count; p++)
    for (int row = 0; row < panel.count; row += kRows) compare<kRows, 1>(columns, units(), a.dim, row, p, best);
  for (int i = 0; i < panel.count; i++) {
    a.nearest[panel.first + i] = best.index[i];
    a.cosines[panel.first + i] = best.product[i] / norms[i];
  }
}

void nearest(const NearestArgs& a) {
  parallel_for(a.num_other_panels, a.threads, [&](int64_t index) { make_units(a, index); });
  parallel_for(a.num_row_panels, a.threads, [&](int64_t index) { find_nearest(a, a.row_panels[index]); });
}

// Products of R queries with all columns, plus what the queries count, [R][panel_rows].
template <int R>
void multiply(const float* q, const float* logs, int64_t dim, const float* columns, float* products) {
  v16 sum[R];
  KV_UNROLL for (int r = 0; r < R; r++) sum[r] = splat(0.0f);
  for (int64_t d = 0; d < dim; d++) {
    const v16 x = load(columns + d * panel_rows);
    KV_UNROLL for (int r = 0; r < R; r++) sum[r] = fma(splat(q[r * dim + d]), x, sum[r]);
  }
  KV_UNROLL for (int r = 0; r < R; r++) store(products + r * panel_rows, sum[r] + splat(logs[r]));
}

void weigh_panel(const WeighArgs& a, const Panel& panel) {
  float* columns = (float*)scratch(Scratch::tile, (size_t)((a.dim + a.num_queries) * panel_rows) * sizeof(float));
  float* products = columns + a.dim * panel_rows;
  turn(a.x, a.dim, a.rows + panel.first, panel.count, columns);
  const float* q = a.q + panel.head * a.num_queries * a.dim;
  int64_t n = 0;
  for (; n + kQueries <= a.num_queries; n += kQueries)
    multiply<kQueries>(q + n * a.dim, a.logs + n, a.dim, columns, products + n * panel_rows);
  for (; n < a.num_queries; n++) multiply<1>(q + n * a.dim, a.logs + n, a.dim, columns, products + n * panel_rows);
  v16 top = load(products), sum = splat(0.0f);
  for (n = 1; n < a.num_queries; n++) top = vmax(top, load(products + n * panel_rows));
  for (n = 0; n < a.num_queries; n++) sum = sum + vexp(load(products + n * panel_rows) - top);
  float tops[panel_rows], sums[panel_rows];
  store(tops, top), store(sums, sum);
  for (int i = 0; i < panel.count; i++) a.weights[panel.first + i] = tops[i] + __builtin_logf(sums[i]);
}

void weigh(const WeighArgs& a) {
  parallel_for(a.num_panels, a.threads, [&](int64_t index) { weigh_panel(a, a.panels[index]); });
}

void sum_rows(const SumArgs& a, int64_t index) {
  float* out = a.out + index * a.dim;
  std::memset(out, 0, (size_t)a.dim * sizeof(float));
  for (int64_t i = a.bounds[index]; i < a.bounds[index + 1]; i++) {
    const float *row = a.x + a.rows[i] * a.dim, share = a.shares[i];
    for (int64_t d = 0; d < a.dim; d++) out[d] += share * row[d];
  }
}

void sum(const SumArgs& a) {
  constexpr int64_t step = 16;  // sums of a task
  parallel_for((a.num_sums + step - 1) / step, a.threads, [&](int64_t task) {
    for (int64_t index = task * step; index < std::min((task + 1) * step, a.num_sums); index++) sum_rows(a, index);
  });
}

}  // namespace

const MergeKernels merge_kernels = {nearest, weigh, sum};

}  // namespace KV_ISA
}  // namespace kvloom
