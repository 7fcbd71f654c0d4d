// A decoder as data, and one pass through a range of its layers in one call: what kvloom/model/decoder.py and layers.py
// say operator by operator, with the same kernels in the same order, and therefore with the same bits.
//
//     x = embed(tokens)
//     each layer   x += post_attn_norm(o(attend(heads(qkv(attn_norm(x))))))
//                  x += post_mlp_norm(down(act(gate) * up)),  [gate | up] = gate_up(mlp_norm(x))
//     logits = head(norm(x))
//
// A pass comes in with tokens or with x, and leaves with x or with logits. A norm whose weight is null is left out. An
// addition waits for the norm that reads its sum, which makes it; or for the end of the pass.
#pragma once

#include <cstdint>
#include <vector>

#include "attend.h"
#include "dispatch.h"
#include "linear.h"
#include "observe.h"
#include "operator_clock.h"
#include "weights.h"
#include "workspace.h"

namespace kvloom {

struct LinearMap {
  const Matrix* parts;
  int64_t num_parts;
  const float* bias;  // [outputs] or null
  int64_t cols, outputs;
  Activations activations;
};

struct NormWeight {
  const float* weight;  // null: no norm here
  float eps;
};

struct DecoderLayer {
  NormWeight attn_norm, q_norm, k_norm, post_attn_norm, mlp_norm, post_mlp_norm;
  LinearMap qkv, o, gate_up, down;
  Gate gate;
  int32_t rope;  // which of the step's tables
  int32_t heads, kv_heads, head_dim;
};

struct DecoderModel {
  LinearMap embed, head;
  float embed_scale;
  NormWeight norm;
  std::vector<DecoderLayer> layers;
  int threads;
  Isa isa;

  int64_t width() const { return embed.cols; }
};

// cos and sin, [positions, half] each.
struct RopeTable {
  const float *cos, *sin;
  int64_t positions, half;
};

// Where a layer's KV is: which of the step's groups, and which layer slot of its pages.
struct LayerKv {
  int32_t group, slot;
  bool owns;  // it writes there
  float scale;
};

// Where rows write in pages of one format.
struct BoundWrites {
  PageLayout layout;
  int32_t slots;
  const int32_t *row_pages, *row_slots;
};

// Parts of a layer group that are read together: one, and perhaps a table that continues it.
struct Read {
  int32_t part, table;   // table: -1 where there is none
  const int32_t* stops;  // as in Continuation
};

// A layer group: parts, read in the order of `reads`, which has each of them once, and where its layers write.
struct BoundGroup {
  std::vector<Part> parts;  // never empty
  std::vector<BoundWrites> writes;
  std::vector<Read> reads;

  Continuation after(const Read& read) const {
    return read.table < 0 ? Continuation{} : Continuation{&parts[read.table], read.stops};
  }
};

// One pass, for the rows of a step.
struct DecoderStep {
  const int64_t* tokens = nullptr;  // [rows], or null: x comes in
  const float* x_in = nullptr;      // [rows, width]: what goes into layer `first`
  Rows rows = {};
  std::vector<const BoundGroup*> groups;
  const std::vector<LayerKv>* kv = nullptr;  // one per layer of the model
  std::vector<RopeTable> ropes;
  const Observer* observer = nullptr;  // null: nobody asks
  int64_t first = 0, last = 0;         // layers [first, last)
  const int64_t* wanted = nullptr;     // rows that go on, ascending; null: all, or none. KV is written for every row.
  int64_t num_wanted = 0;
  float* x_out = nullptr;     // [num_wanted, width]: what comes out of layer `last - 1`; or null
  float* logits = nullptr;    // [num_wanted, vocabulary], or null
  int64_t* argmax = nullptr;  // [num_wanted], where each row's largest logit is; or null
};

// Running memory of a decoder: one step at a time.
struct DecoderState {
  Workspace workspace;
  OperatorClock clock;
  int64_t kv_bytes_read = 0;  // by attention, all steps together
};

// What does not fit in a step, or null. run_decoder trusts what passed here, and writes nothing before.
const char* find_fault(const DecoderModel& model, const DecoderStep& step);

// The KV of those layers is written for all rows; what is asked for is there for the wanted ones.
void run_decoder(const DecoderModel& model, const DecoderStep& step, DecoderState& state);

}  // namespace kvloom
