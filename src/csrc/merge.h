// What merging of entries needs, by KV head: which key is most alike, what keys weigh, and weighted sums of rows.
//
// Keys (and values) are rows of one array, `dim` floats each; heads name theirs by index. Every result is one chain of
// operations in a fixed order, whatever the threads, the instruction set and the other rows are.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace kvloom {

constexpr int32_t panel_rows = 16;

// Up to panel_rows adjacent ones of the rows that a head names, with indices first .. first + count.
struct Panel {
  int32_t head, count;
  int64_t first;
};

// For each row of a head, the one of the head's `others` whose cosine with it is largest, the first one of several.
// Rows of zeros have cosines of 0.
struct NearestArgs {
  const float* x;  // [.., dim]
  int64_t dim;
  const int64_t *rows, *others;  // indices into x
  const Panel *row_panels, *other_panels;
  int64_t num_row_panels, num_other_panels;
  const int64_t* other_bounds;  // [heads + 1], of other_panels
  float* units;                 // working memory, [other panels][dim][panel_rows]
  int64_t* nearest;             // [rows], index among the head's others
  float* cosines;               // [rows]
  int threads;
};

// weights[i] = log(sum over n of exp(q[head][n] . x[rows[i]] + logs[n])).
struct WeighArgs {
  const float* x;  // [.., dim]
  int64_t dim;
  const int64_t* rows;
  const Panel* panels;
  int64_t num_panels;
  const float* q;  // [heads][queries][dim]
  const float* logs;
  int64_t num_queries;
  float* weights;  // [rows]
  int threads;
};

// out[g] = sum of shares[i] x x[rows[i]] for i in bounds[g] .. bounds[g + 1], in this order.
struct SumArgs {
  const float* x;  // [.., dim]
  int64_t dim;
  const int64_t *rows, *bounds;
  const float* shares;
  int64_t num_sums;
  float* out;  // [sums][dim]
  int threads;
};

struct MergeKernels {
  void (*nearest)(const NearestArgs&);
  void (*weigh)(const WeighArgs&);
  void (*sum)(const SumArgs&);
};
KV_DECLARE_VARIANTS(MergeKernels, merge_kernels)

}  // namespace kvloom
