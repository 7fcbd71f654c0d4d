// Statistics of attention, computed in the kernels, for selected rows of a step.
//
// They are computed between attention and the output projection, when the log-sum-exp of every row is final. See
// kvloom/attend/observe.py.
#pragma once

#include <cstdint>
#include <vector>

#include "attend.h"

namespace kvloom {

// Selected rows of one sequence, ascending, in selected layers of the model.
struct Chosen {
  int32_t sequence, num_rows;
  const int32_t* rows;
  std::vector<int64_t> layers;  // index n of the results is layer layers[n]

  // Index of a layer in `layers`; -1 if it is not selected.
  int64_t place(int64_t layer) const {
    for (size_t n = 0; n < layers.size(); n++)
      if (layers[n] == layer) return (int64_t)n;
    return -1;
  }
};

// What entries at positions first_column and up receive from the selected rows, accumulated over steps.
struct Tally {
  Chosen chosen;
  Reduce reduce;
  int32_t heads;  // results per layer: the number of KV heads or of query heads
  int64_t first_column, num_columns;
  double* running;   // [layers][heads][num_columns]
  int64_t* counted;  // [layers]: rows accumulated so far
};

// The queries of the selected rows, as attention receives them.
struct QueryRecord {
  Chosen chosen;
  const int64_t* places;  // [num_rows], below num_places
  int64_t num_places, heads, dim;
  float* queries;  // [layers][num_places][heads][dim]
};

// All requests for statistics in a step.
struct Observer {
  std::vector<Tally> tallies;
  std::vector<QueryRecord> records;

  // Whether any request concerns this layer.
  bool asks(int64_t layer) const;
};

// The attention of one layer, after it has been computed.
struct Attended {
  const Rows& rows;
  const std::vector<Part>& parts;
  int64_t layer;
  int32_t slot, q_heads, k_dim, threads;
  float scale;
  const float *q, *lse;  // as in AttendCall, with all parts merged
};

// Returns what is wrong, or null. `observe` relies on this check.
const char* find_fault(const Chosen& chosen, const Rows& rows);
const char* find_fault(const Observer& observer, const Attended& attended);

void observe(const AttendKernels& kernels, const Attended& attended, const Observer& observer);

}  // namespace kvloom
