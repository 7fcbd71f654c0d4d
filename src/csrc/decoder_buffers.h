// Buffers for the intermediate values of a step, in one block sized for the widest layer. Values that are never needed
// at the same time share memory, so that a step touches as little of it as possible.
#pragma once

#include <algorithm>

#include "decoder.h"

namespace kvloom {

struct DecoderBuffers {
  float* x;                  // [rows, width]
  float *normed, *attended;  // shared: [rows, width] into attention and MLP, [rows, q_width] out of attention
  float *delta, *q;          // shared: what is to be added to x; queries during attention
  float *qkv, *k, *v, *lse;  // attention
  float* gated;              // [rows, gate_width], shares memory with the line above

  DecoderBuffers(const DecoderModel& model, int64_t rows, Workspace& workspace) {
    int64_t q_width = 0, kv_width = 0, heads = 0, gate_width = 0;
    for (const DecoderLayer& layer : model.layers) {
      q_width = std::max<int64_t>(q_width, (int64_t)layer.heads * layer.head_dim);
      kv_width = std::max<int64_t>(kv_width, (int64_t)layer.kv_heads * layer.head_dim);
      heads = std::max<int64_t>(heads, layer.heads);
      gate_width = std::max(gate_width, layer.down.cols);
    }
    const int64_t widest = std::max(model.width(), q_width), qkv_width = q_width + 2 * kv_width;
    const int64_t attention = room(rows * qkv_width) + 2 * room(rows * kv_width) + room(rows * heads);
    next_ = workspace.reserve(
        (size_t)(room(rows * model.width()) + 2 * room(rows * widest) + std::max(attention, room(rows * gate_width))));
    x = take(rows * model.width());
    normed = attended = take(rows * widest);
    delta = q = take(rows * widest);
    gated = next_;
    qkv = take(rows * qkv_width), k = take(rows * kv_width), v = take(rows * kv_width), lse = take(rows * heads);
  }

 private:
  // Rounds up to whole cache lines.
  static int64_t room(int64_t floats) { return (floats + 15) / 16 * 16; }

  float* take(int64_t floats) {
    float* taken = next_;
    next_ += room(floats);
    return taken;
  }

  float* next_ = nullptr;
};

}  // namespace kvloom
