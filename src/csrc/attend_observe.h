// The attention that entries receive from chosen rows: final probabilities, reduced over the rows. The matrix of
// probabilities is never stored, only one reduced value per entry.
//
// A probability is exp2(score - log-sum-exp), with the log-sum-exp over everything that the row reads, and with exactly
// the score that attention has used.
#pragma once

#include "attend_block.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {

constexpr int32_t observe_tile_rows = 240;  // query rows that share a block's decoded keys

// The doubles of a native vector, and as many floats.
#if defined(__AVX512F__)
constexpr int double_lanes = 8;
#else
constexpr int double_lanes = 4;
#endif
typedef double doubles __attribute__((vector_size(8 * double_lanes)));
typedef float few_floats __attribute__((vector_size(4 * double_lanes)));

// Adds p to `to`, or takes the maximum of both, for the entries of a page and every `step`th of `rows` rows. In double
// precision and in the order of the rows, so that the result does not depend on groups, tiles or steps.
template <Reduce kReduce>
static inline void reduce_page(const float* p, int32_t rows, int32_t step, double* to) {
  for (int j = 0; j < page_tokens; j += double_lanes) {
    doubles sum;
    std::memcpy(&sum, to + j, sizeof sum);
    for (int32_t r = 0; r < rows; r += step) {
      few_floats some;
      std::memcpy(&some, p + r * s_stride + j, sizeof some);
      const doubles x = __builtin_convertvector(some, doubles);
      if constexpr (kReduce == Reduce::sum)
        sum = sum + x;
      else
        sum = (sum >= x) | (sum != sum) ? sum : x;  // NaN stays
    }
    std::memcpy(to + j, &sum, sizeof sum);
  }
}

// Replaces the scores of a row by probabilities; 0 on those of `pages` that it has not `seen`.
static inline void weigh(uint32_t pages, uint32_t seen, float lse, float* s) {
  for (; pages; pages &= pages - 1) {
    const int i = __builtin_ctz(pages);
    float* page = s + i * page_tokens;
    store(page, seen >> i & 1 ? vexp2(load(page) - splat(lse)) : splat(0.0f));
  }
}

// Processes the rows of a tile over one block.
template <Reduce kReduce>
static void observe_tile(const ObserveCall& call, const Item& tile, const Cells& block, double* to) {
  const AttendCall& asked = call.asked;
  const int32_t heads = asked.q_heads / asked.part.heads;
  const Desk desk = Desk::at(scratch(Scratch::tile, Desk::bytes(tile.row_count * heads, tile.row_count, asked.part)),
                             tile.row_count * heads, asked.part);
  BlockPass pass(asked, tile, desk);
  pass.each_scored(block, [&](const Group& group, float* s) {
    for (int32_t r = 0; r < group.count; r++) {
      const int32_t query = group.first + r;
      const int64_t row = asked.work.row_ids[tile.row_begin + query / heads];
      const float lse = call.lse[row * asked.q_heads + tile.head * heads + query % heads];
      weigh(group.any, lse == empty ? 0 : pass.visible_to(query).any, (float)((double)lse * log2_e), s + r * s_stride);
    }
    for (int32_t n = 0; n < call.results; n++) {
      const int32_t first = (n + call.results - group.first % call.results) % call.results;  // first row of result n
      for (uint32_t left = group.any; left; left &= left - 1) {
        const int64_t at = __builtin_ctz(left) * page_tokens;
        reduce_page<kReduce>(s + first * s_stride + at, group.count - first, call.results,
                             to + n * (int64_t)kv_block_positions + at);
      }
    }
  });
}

// Whether any row of the tile may see an entry of the block.
static inline bool meets(const ObserveCall& call, const Item& tile, const Cells& block) {
  const AttendCall& asked = call.asked;
  const int32_t* rows = asked.work.row_ids + tile.row_begin;
  const int64_t shift = asked.part.shift_of(asked.part.list_of(call.sequence, asked.layer_slot, tile.head));
  const int64_t oldest = asked.rows.positions[rows[0]] - asked.part.window + 1;
  const int64_t newest = asked.rows.positions[rows[tile.row_count - 1]];
  return block.first + shift <= newest && block.last + shift >= oldest;
}

// Processes item number n: all rows over block number n.
static inline void observe_item(const ObserveCall& call, int64_t n) {
  const AttendCall& asked = call.asked;
  const int64_t count = (int64_t)call.results * kv_block_positions;
  double* to = call.reduced + n * count;
  for (int64_t i = 0; i < count; i++) to[i] = 0.0;  // neutral for both sum and max
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
