// The pages of a block in memory, and the entries that a row sees of them.
#pragma once

#include <cstring>

#include "attend.h"

namespace kvloom {
namespace KV_ISA {

constexpr uint32_t all_entries = (1u << page_tokens) - 1;

// What a position sees of a block: one bit per page of which it sees some entries (`any`) or all (`full`), and one bit
// per entry.
struct Visible {
  uint32_t any, full;
  uint16_t entries[most_block_pages];
};

// The pages of a block in memory. `later` are the pages that the same thread reads next: each of them is fetched while
// the page with the same index is read. If there are none, they are the block's own.
struct Cells {
  const uint8_t *cells[most_block_pages], *later[most_block_pages];
  int32_t count, labelled;  // number of pages; the first `labelled` of them have labels
  const int32_t* starts;    // of the pages without labels
  Visible there;            // entries that exist
  int64_t first, last;      // lowest and highest position
  bool biased;              // whether any label has a bias
};

static inline uint32_t bits_below(int n) {
  return (1u << n) - 1;
}

// Index in Part::page_ids of the first page of a block, for the item's layer slot and head.
static inline int64_t first_page(const AttendCall& call, const Item& item, const KvBlock& block) {
  return block.page_begin + (int64_t)block.list_step * (call.layer_slot * call.part.heads + item.head);
}

// Addresses of the pages of a block.
static inline void find_cells(const AttendCall& call, const Item& item, const KvBlock& block, const uint8_t** cells) {
  const auto find = [&](const Part& part, int64_t page, int32_t count) {
    for (int32_t i = 0; i < count; i++) *cells++ = part.cell(part.page_ids[page + i], call.layer_slot, item.head);
  };
  find(call.part, first_page(call, item, block), block.own());
  if (call.table) find(*call.table, block.table_begin, block.table_end - block.table_begin);
}

static inline const int32_t* stored_positions(const Part& part, const uint8_t* cell) {
  return (const int32_t*)(cell + part.k_bytes() + part.v_bytes());
}
static inline const float* stored_biases(const Part& part, const uint8_t* cell) {
  return (const float*)(stored_positions(part, cell) + page_tokens);
}

static inline void note_page(Visible& visible, int32_t page, uint32_t entries) {
  visible.entries[page] = (uint16_t)entries;
  visible.any |= (uint32_t)(entries != 0) << page;
  visible.full |= (uint32_t)(entries == all_entries) << page;
}

// Finds the entries of a block that exist.
static inline void find_there(const AttendCall& call, const KvBlock& block, int64_t page, Visible& there) {
  const uint16_t *own = call.part.page_masks, *others = call.table ? call.table->page_masks : nullptr;
  if (!own && !others) {
    there.any = there.full = bits_below(block.count());
    std::memset(there.entries, 0xff, sizeof there.entries);
    return;
  }
  there.any = there.full = 0;
  int32_t i = 0;
  for (; i < block.own(); i++) note_page(there, i, own ? own[page + i] : all_entries);
  for (int32_t of_table = block.table_begin; i < block.count(); i++, of_table++)
    note_page(there, i, others ? others[of_table] : all_entries);
}

// Finds the range of positions of the labelled entries, and whether any has a bias. Works lane by lane, which is cheap.
static inline void read_labels(const Part& part, Cells& block) {
  int32_t low[page_tokens], high[page_tokens], bias_bits[page_tokens];
  for (int j = 0; j < page_tokens; j++) low[j] = INT32_MAX, high[j] = INT32_MIN, bias_bits[j] = 0;
  for (int32_t i = 0; i < block.labelled; i++) {
    __builtin_prefetch(stored_positions(part, block.later[i]), 0, 2);
    __builtin_prefetch(stored_biases(part, block.later[i]), 0, 2);
    const int32_t* positions = stored_positions(part, block.cells[i]);
    const int32_t* biases = positions + page_tokens;  // as bits, which are 0 for a bias of 0
    const uint32_t there = block.there.entries[i];
    if (there == all_entries) {
      for (int j = 0; j < page_tokens; j++) {
        low[j] = positions[j] < low[j] ? positions[j] : low[j];
        high[j] = positions[j] > high[j] ? positions[j] : high[j];
        bias_bits[j] |= biases[j];
      }
    } else {
      for (uint32_t left = there; left; left &= left - 1) {
        const int j = __builtin_ctz(left);
        low[0] = positions[j] < low[0] ? positions[j] : low[0];
        high[0] = positions[j] > high[0] ? positions[j] : high[0];
        bias_bits[0] |= biases[j];
      }
    }
  }
  for (int j = 1; j < page_tokens; j++) {
    low[0] = low[j] < low[0] ? low[j] : low[0];
    high[0] = high[j] > high[0] ? high[j] : high[0];
    bias_bits[0] |= bias_bits[j];
  }
  block.first = low[0], block.last = high[0], block.biased = bias_bits[0] != 0;
}

// Collects block number c of an item. It is followed by the item's next block, or by the first block of `next` (which
// may be null).
static inline void gather(const AttendCall& call, const Item& item, int32_t c, const Item* next, Cells& block) {
  const Part& part = call.part;
  const KvBlock& here = call.work.blocks[c];
  const int64_t page = first_page(call, item, here);
  block.count = here.count();
  find_cells(call, item, here, block.cells);
  const bool goes_on = c + 1 < item.block_end;
  const Item* later_item = goes_on ? &item : next && next->block_begin < next->block_end ? next : nullptr;
  const KvBlock later = !later_item ? KvBlock{0, 0, 0} : call.work.blocks[goes_on ? c + 1 : later_item->block_begin];
  if (later_item) find_cells(call, *later_item, later, block.later);
  for (int32_t i = later.count(); i < block.count; i++) block.later[i] = block.cells[i];
  find_there(call, here, page, block.there);
  block.labelled = part.entries == Entries::labelled ? here.own() : 0;
  block.first = INT64_MAX, block.last = INT64_MIN, block.biased = false;
  if (block.labelled) read_labels(part, block);
  if (block.labelled == block.count) return;
  block.starts = call.table ? call.table->page_starts + here.table_begin : part.page_starts + page;
  const int64_t start = block.starts[0], end = (int64_t)block.starts[block.count - block.labelled - 1] + page_tokens;
  block.first = start < block.first ? start : block.first;
  block.last = end - 1 > block.last ? end - 1 : block.last;
}

template <class Number>
static inline Number between(int64_t least, int64_t x, int64_t most) {
  return (Number)(x < least ? least : x > most ? most : x);
}

// Entries of page i at positions `oldest` to `newest`.
static inline uint32_t entries_between(const Part& part, const Cells& block, int32_t i, int64_t oldest,
                                       int64_t newest) {
  if (i >= block.labelled) {
    const int64_t start = block.starts[i - block.labelled];
    const int begin = between<int>(0, oldest - start, page_tokens),
              end = between<int>(0, newest + 1 - start, page_tokens);
    return bits_below(end) & ~bits_below(begin);
  }
  const int32_t* positions = stored_positions(part, block.cells[i]);
  const int32_t low = between<int32_t>(0, oldest, INT32_MAX), high = between<int32_t>(-1, newest, INT32_MAX);
  uint32_t entries = 0;
  for (int j = 0; j < page_tokens; j++) entries |= (uint32_t)(positions[j] >= low && positions[j] <= high) << j;
  return entries;
}

static inline void find_visible(const Part& part, const Cells& block, int64_t position, Visible& visible) {
  const int64_t oldest = position - part.window + 1;
  if (oldest <= block.first && block.last <= position) {
    visible = block.there;
    return;
  }
  std::memset(&visible, 0, sizeof visible);
  if (block.last < oldest || position < block.first) return;
  for (int32_t i = 0; i < block.count; i++)
    note_page(visible, i, block.there.entries[i] & entries_between(part, block, i, oldest, position));
}

}  // namespace KV_ISA
}  // namespace kvloom
