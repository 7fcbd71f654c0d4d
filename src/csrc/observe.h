// Statistics of attention, on their way out of the kernels: what somebody wants to know of a step's rows.
//
// Between attend and the output projection, when the log-sum-exp of every row is final. See kvloom/attend/observe.py.
#pragma once

#include <cstdint>
#include <vector>

#include "attend.h"

namespace kvloom {

// Rows of one sequence, ascending, in chosen layers of the model.
struct Chosen {
  int32_t sequence, num_rows;
  const int32_t* rows;
  std::vector<int64_t> layers;  // place n of what is asked for is that of layer number layers[n]

  // -1: nobody asks about this layer.
  int64_t place(int64_t layer) const {
    for (size_t n = 0; n < layers.size(); n++)
      if (layers[n] == layer) return (int64_t)n;
    return -1;
  }
};

// What the entries at positions first_column .. get from chosen rows. Steps add to it.
struct Tally {
  Chosen chosen;
  Reduce reduce;
  int32_t heads;  // results per layer: as many as KV heads, or as query heads
  int64_t first_column, num_columns;
  double* running;   // [layers][heads][num_columns]
  int64_t* counted;  // [layers]: rows that are in it
};

// The queries of chosen rows, as attention gets them.
struct QueryRecord {
  Chosen chosen;
  const int64_t* places;  // [num_rows], below num_places
  int64_t num_places, heads, dim;
  float* queries;  // [layers][num_places][heads][dim]
};

// All that is asked in a step.
struct Observer {
  std::vector<Tally> tallies;
  std::vector<QueryRecord> records;

  // Whether somebody asks about this layer.
  bool asks(int64_t layer) const;
};

// Attention of one layer, which is over.
struct Attended {
  const Rows& rows;
  const std::vector<Part>& parts;
  int64_t layer;
  int32_t slot, q_heads, k_dim, threads;
  float scale;
  const float *q, *lse;  // as in AttendCall, with all parts merged
};

// What does not fit, or null. observe trusts what passed here.
const char* find_fault(const Chosen& chosen, const Rows& rows);
const char* find_fault(const Observer& observer, const Attended& attended);

void observe(const AttendKernels& kernels, const Attended& attended, const Observer& observer);

}  // namespace kvloom
