// A decoder as data, and a pass through a range of its layers in one call. It computes what kvloom/model/decoder.py and
// layers.py define operator by operator, with the same kernels in the same order, and therefore with the same bits.
//
//     x = embed(tokens)
//     each layer   x += post_attn_norm(o(attend(heads(qkv(attn_norm(x))))))
//                  x += post_mlp_norm(down(act(gate) * up)),  [gate | up] = gate_up(mlp_norm(x))
//     logits = head(norm(x))
//
// A pass starts with tokens or with x, and ends with x or with logits. Norms whose weight is null are skipped. An
// addition to x is carried out by the norm that reads the sum, or at the end of the pass.
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
  const float* weight;  // null: no norm
  float eps;
};

struct DecoderLayer {
  NormWeight attn_norm, q_norm, k_norm, post_attn_norm, mlp_norm, post_mlp_norm;
  LinearMap qkv, o, gate_up, down;
  Gate gate;
  int32_t rope;  // index of a rope table of the step
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

// cos and sin: [positions, half] each.
struct RopeTable {
  const float *cos, *sin;
  int64_t positions, half;
};

// Location of a layer's KV: a group of the step, and a layer slot of its pages.
struct LayerKv {
  int32_t group, slot;
  bool owns;  // whether it writes this KV, rather than reading that of another layer
  float scale;
};

// Where the KV of rows is written, in pages of one format.
struct BoundWrites {
  PageLayout layout;
  int32_t slots;
  const int32_t *row_pages, *row_slots;
};

// Parts of a layer group that are read together: one part, and possibly a table that continues it.
struct Read {
  int32_t part, table;   // table: -1 if there is none
  const int32_t* stops;  // as in Continuation
};

// A layer group: its parts, the order in which they are read (each is in `reads` once), and where its layers write.
struct BoundGroup {
  std::vector<Part> parts;  // never empty
  std::vector<BoundWrites> writes;
  std::vector<Read> reads;

  Continuation after(const Read& read) const {
    return read.table < 0 ? Continuation{} : Continuation{&parts[read.table], read.stops};
  }
};

// One pass, over the rows of a step.
struct DecoderStep {
  const int64_t* tokens = nullptr;  // [rows], or null: starts with x_in
  const float* x_in = nullptr;      // [rows, width]: input of layer `first`
  Rows rows = {};
  std::vector<const BoundGroup*> groups;
  const std::vector<LayerKv>* kv = nullptr;  // one per layer of the model
  std::vector<RopeTable> ropes;
  const Observer* observer = nullptr;  // null: none
  int64_t first = 0, last = 0;         // layers [first, last)
  const int64_t* wanted = nullptr;     // rows to continue with, ascending; null: all, or none (KV is written for all)
  int64_t num_wanted = 0;
  float* x_out = nullptr;     // [num_wanted, width]: output of layer `last - 1`, or null
  float* logits = nullptr;    // [num_wanted, vocabulary], or null
  int64_t* argmax = nullptr;  // [num_wanted]: index of each row's largest logit, or null
};

// Mutable state of a decoder, which can run one step at a time.
struct DecoderState {
  Workspace workspace;
  OperatorClock clock;
  int64_t kv_bytes_read = 0;  // by attention, in all steps
};

// Returns what is wrong with a step, or null. run_decoder relies on this check.
const char* find_fault(const DecoderModel& model, const DecoderStep& step);

// Writes the KV of the layers for all rows, and the requested results for the wanted rows.
void run_decoder(const DecoderModel& model, const DecoderStep& step, DecoderState& state);

}  // namespace kvloom
