// Where the intermediate values of a step lie: one block, cut for the widest layer. What attention needs and what the
// MLP needs share their place.
#pragma once

#include <algorithm>

#include "decoder.h"

namespace kvloom {

struct DecoderBuffers {
  float *x, *normed, *delta;                // [rows, width]
  float *qkv, *q, *k, *v, *attended, *lse;  // attention
  float *gate_up, *gated;                   // MLP

  DecoderBuffers(const DecoderModel& model, int64_t rows, Workspace& workspace) {
    int64_t q_width = 0, kv_width = 0, heads = 0, gate_width = 0;
    for (const DecoderLayer& layer : model.layers) {
      q_width = std::max<int64_t>(q_width, (int64_t)layer.heads * layer.head_dim);
      kv_width = std::max<int64_t>(kv_width, (int64_t)layer.kv_heads * layer.head_dim);
      heads = std::max<int64_t>(heads, layer.heads);
      gate_width = std::max(gate_width, layer.down.cols);
    }
    const int64_t residual = 3 * room(rows * model.width());
    const int64_t qkv_floats = room(rows * (q_width + 2 * kv_width));
    const int64_t attention = qkv_floats + 2 * room(rows * q_width) + 2 * room(rows * kv_width) + room(rows * heads);
    const int64_t mlp = room(rows * 2 * gate_width) + room(rows * gate_width);
    next_ = workspace.reserve((size_t)(residual + std::max(attention, mlp)));
    x = take(rows * model.width()), normed = take(rows * model.width()), delta = take(rows * model.width());
    float* const shared = next_;
    qkv = take(rows * (q_width + 2 * kv_width)), q = take(rows * q_width), attended = take(rows * q_width);
    k = take(rows * kv_width), v = take(rows * kv_width), lse = take(rows * heads);
    next_ = shared;
    gate_up = take(rows * 2 * gate_width), gated = take(rows * gate_width);
  }

 private:
  // Whole cache lines.
  static int64_t room(int64_t floats) { return (floats + 15) / 16 * 16; }

  float* take(int64_t floats) {
    float* taken = next_;
    next_ += room(floats);
    return taken;
  }

  float* next_ = nullptr;
};

}  // namespace kvloom
