// What chosen rows give to the entries of pages: their final probabilities, reduced over the rows. Never a matrix of
// them: a reduction per entry is all that is kept.
//
// A probability is exp2(score - log-sum-exp), with the row's log-sum-exp over everything that it reads, and the very
// score that attention has seen.
#pragma once

#include "attend_block.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {

constexpr int32_t observe_tile_rows = 240;  // query rows that share a block's decoded keys

static inline double reduced(Reduce reduce, double x, double y) {
  if (reduce == Reduce::sum) return x + y;
  return x >= y || x != x ? x : y;  // NaN stays
}

// The scores of one row on the pages of a block, all in their places in `to`, which holds a number per entry.
template <Reduce kReduce>
static inline void take_in(uint32_t pages, const float* scores, float lse, double* to) {
  for (; pages; pages &= pages - 1) {
    const int at = __builtin_ctz(pages) * page_tokens;
    float p[page_tokens];
    store(p, vexp2(load(scores + at) - splat(lse)));
    for (int j = 0; j < page_tokens; j++) to[at + j] = reduced(kReduce, to[at + j], p[j]);
  }
}

// Rows of a tile over one block. Rows are taken in one by one and in ascending order, so the cut does not show.
template <Reduce kReduce>
static void observe_tile(const ObserveCall& call, const Item& tile, const Cells& block, double* to) {
  const AttendCall& asked = call.asked;
  const int32_t group = asked.q_heads / asked.part.heads;
  const Desk desk = Desk::at(scratch(Scratch::tile, Desk::bytes(tile.row_count * group, tile.row_count, asked.part)),
                             tile.row_count * group, asked.part);
  BlockPass pass(asked, tile, desk);
  pass.each_scored(block, [&](int32_t r, uint32_t pages, const float* scores) {
    const int64_t row = asked.work.row_ids[tile.row_begin + r / group];
    const float lse = call.lse[row * asked.q_heads + tile.head * group + r % group];
    if (lse == empty) return;
    const int32_t result = call.results > 1 ? r % group : 0;
    take_in<kReduce>(pages, scores, (float)((double)lse * log2_e), to + result * (int64_t)kv_block_positions);
  });
}

// Whether some row of the tile may see something of the block.
static inline bool meets(const ObserveCall& call, const Item& tile, const Cells& block) {
  const AttendCall& asked = call.asked;
  const int32_t* rows = asked.work.row_ids + tile.row_begin;
  const int64_t shift = asked.part.shift_of(asked.part.list_of(call.sequence, asked.layer_slot, tile.head));
  const int64_t oldest = asked.rows.positions[rows[0]] - asked.part.window + 1;
  const int64_t newest = asked.rows.positions[rows[tile.row_count - 1]];
  return block.first + shift <= newest && block.last + shift >= oldest;
}

// Item number n: all rows over block number n.
static inline void observe_item(const ObserveCall& call, int64_t n) {
  const AttendCall& asked = call.asked;
  const int64_t count = (int64_t)call.results * kv_block_positions;
  double* to = call.reduced + n * count;
  for (int64_t i = 0; i < count; i++) to[i] = 0.0;  // less than any probability, and nothing to a sum
  const int32_t rows = std::max(1, observe_tile_rows * asked.part.heads / asked.q_heads);
  Item tile{Outcome::finish, call.heads[n], 0, 0, (int32_t)n, (int32_t)n + 1, 0};
  Cells block;
  gather(asked, tile, (int32_t)n, nullptr, block);
  for (; tile.row_begin < call.num_rows; tile.row_begin += rows) {
    tile.row_count = std::min(rows, call.num_rows - tile.row_begin);
    if (!meets(call, tile, block)) continue;
    call.reduce == Reduce::sum ? observe_tile<Reduce::sum>(call, tile, block, to)
                               : observe_tile<Reduce::max>(call, tile, block, to);
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
