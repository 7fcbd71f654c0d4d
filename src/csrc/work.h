// The cut of attention into work, as kernels read it: plain arrays. WorkPlan (work_plan.h) makes and owns them.
//
//     block    (kv_block) what one softmax partial covers: 256 positions counted from 0 where a sequence has one list
//              of contiguous pages, else 16 pages of a list counted from its first; where a table continues a list, 16
//              pages counted back from the block in which they meet, which has pages of both
//     tile     query rows that go over the same blocks together
//     item     (KV head, tile, some blocks)
//     share    items that one thread takes at once: it knows early what comes next, and fetches it
//     source   a stored partial of one row; a row that several items serve is put together from its sources
//
// A row's blocks are merged from the left, one by one, whoever computed them, so the cut does not show in the result.
#pragma once

#include <cstdint>

namespace kvloom {

constexpr int page_tokens = 16;
constexpr int kv_block_pages = 16;
constexpr int kv_block_positions = kv_block_pages * page_tokens;
constexpr int most_block_pages = kv_block_pages + 1;  // a list and its table may each have some entries of one page
constexpr int most_block_positions = most_block_pages * page_tokens;

// Pages page_begin .. page_end of Part::page_ids, for the first layer slot and head. Those of the following ones lie
// `list_step` further each, where they have lists of their own. Then pages table_begin .. table_end of the table that
// continues the list, the same for all.
struct KvBlock {
  int32_t page_begin, page_end, list_step;
  int32_t table_begin = 0, table_end = 0;
  int32_t own() const { return page_end - page_begin; }
  int32_t count() const { return own() + table_end - table_begin; }
};

// What becomes of the partials of an item's blocks.
enum class Outcome : int32_t {
  finish,  // these are all blocks of the rows: the results are written
  fold,    // the rows' first blocks: merged, and stored as one state
  apart,   // later blocks: stored one by one
};

struct Item {
  Outcome outcome;
  int32_t head;
  int32_t row_begin, row_count;    // into Work::row_ids
  int32_t block_begin, block_end;  // into Work::blocks
  int64_t state;                   // where states are stored, counted in rows of states
};

// Rows first_row .. (one per query head of the group) of a stored state of `rows` rows.
struct Source {
  int64_t state;
  int32_t rows, first_row;
};

// The cut, as kernels read it. Row t, head h has join t * heads + h; unless its item finishes it, it is put together
// from sources[join_sources[j]] .. in order, by whoever delivers the last of its join_items[j] items.
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
