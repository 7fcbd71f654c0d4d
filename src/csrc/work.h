// The partition of attention into work, as kernels read it: plain arrays, which WorkPlan (work_plan.h) creates and
// owns.
//
//     block    (kv_block) the pages that one partial softmax covers. If a sequence has one list of contiguous pages:
//              256 positions, counted from 0. Otherwise: 16 pages of a list, counted from its first page. If a table
//              continues the list: 16 pages, counted back from the block in which they meet, which has pages of both
//     tile     query rows that are processed together over the same blocks
//     item     (KV head, tile, some blocks)
//     share    items that one thread takes at once, so that it knows early what comes next and can fetch it
//     source   a stored partial result of one row; the result of a row with several items is combined from its sources
//
// The blocks of a row are merged one by one from the left, whichever thread computed them, so that the result does not
// depend on the partition.
#pragma once

#include <cstdint>

namespace kvloom {

constexpr int page_tokens = 16;
constexpr int kv_block_pages = 16;
constexpr int kv_block_positions = kv_block_pages * page_tokens;
constexpr int most_block_pages = kv_block_pages + 1;  // a list and its table may both have entries of a page
constexpr int most_block_positions = most_block_pages * page_tokens;

// Pages page_begin .. page_end of Part::page_ids, for the first layer slot and head. For each further one, they are
// `list_step` further on, if lists are by head. These are followed by pages table_begin .. table_end of the table that
// continues the list, which are the same for all.
struct KvBlock {
  int32_t page_begin, page_end, list_step;
  int32_t table_begin = 0, table_end = 0;
  int32_t own() const { return page_end - page_begin; }
  int32_t count() const { return own() + table_end - table_begin; }
};

// What is done with the partial results of an item's blocks.
enum class Outcome : int32_t {
  finish,  // the item has all blocks of its rows: write results
  fold,    // the first blocks of its rows: merge, and store one state
  apart,   // later blocks: store each one's state
};

struct Item {
  Outcome outcome;
  int32_t head;
  int32_t row_begin, row_count;    // indices into Work::row_ids
  int32_t block_begin, block_end;  // indices into Work::blocks
  int64_t state;                   // where states are stored, in rows
};

// Rows first_row onwards (one per query head of the group) of a stored state with `rows` rows.
struct Source {
  int64_t state;
  int32_t rows, first_row;
};

// The partition. Row t, head h has join t * heads + h. Unless its item finishes it, it is combined from
// sources[join_sources[j]] onwards, in order, by the thread that delivers the last of its join_items[j] items.
struct Work {
  const Item* items;
  const int32_t* shares;  // share s is items shares[s] .. shares[s + 1]
  const int32_t* row_ids;
  const KvBlock* blocks;
  const Source* sources;
  const int32_t* join_sources;
  const int32_t* join_items;
  int64_t num_shares, num_joins, state_rows;
};

}  // namespace kvloom
