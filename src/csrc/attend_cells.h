// A chunk's pages in memory, and which of their entries a row sees.
#pragma once

#include <cstring>

#include "attend.h"

namespace kvloom {
namespace KV_ISA {

constexpr uint32_t all_entries = (1u << page_tokens) - 1;

// What one position sees of a chunk: a bit per page of which it sees some or all entries, and a bit per entry.
struct Sight {
  uint32_t any, full;
  uint16_t entries[chunk_pages];
};

// A chunk's pages in memory. `later` are those that the same thread reads next, to be fetched meanwhile: each while the
// page in its place is read. Where there are none, the chunk's own.
struct Cells {
  const uint8_t *cells[chunk_pages], *later[chunk_pages];
  const int32_t* starts;  // of contiguous entries
  int32_t count;
  Sight there;          // what is there to be seen
  int64_t first, last;  // positions of all that: everything lies between them
  bool biased;          // some label has a bias
};

static inline uint32_t bits_below(int n) {
  return (1u << n) - 1;
}

// Where the pages of a chunk begin in Part::page_ids for the item's layer slot and head.
static inline int64_t first_page(const AttendCall& call, const Item& item, const Chunk& chunk) {
  return chunk.page_begin + (int64_t)chunk.list_step * (call.layer_slot * call.part.heads + item.head);
}

static inline const uint8_t* cell_of(const AttendCall& call, const Item& item, int64_t page) {
  return call.part.cell(call.part.page_ids[page], call.layer_slot, item.head);
}

static inline const int32_t* stored_positions(const Part& part, const uint8_t* cell) {
  return (const int32_t*)(cell + part.k_bytes() + part.v_bytes());
}
static inline const float* stored_biases(const Part& part, const uint8_t* cell) {
  return (const float*)(stored_positions(part, cell) + page_tokens);
}

static inline void note_page(Sight& sight, int32_t page, uint32_t entries) {
  sight.entries[page] = (uint16_t)entries;
  sight.any |= (uint32_t)(entries != 0) << page;
  sight.full |= (uint32_t)(entries == all_entries) << page;
}

// Where the labelled entries of a chunk stand, and whether any has a bias. Lane by lane, so that it costs little.
static inline void read_labels(const Part& part, Cells& chunk) {
  int32_t low[page_tokens], high[page_tokens], bias_bits[page_tokens];
  for (int j = 0; j < page_tokens; j++) low[j] = INT32_MAX, high[j] = INT32_MIN, bias_bits[j] = 0;
  for (int32_t i = 0; i < chunk.count; i++) {
    __builtin_prefetch(stored_positions(part, chunk.later[i]), 0, 2);
    __builtin_prefetch(stored_biases(part, chunk.later[i]), 0, 2);
    const int32_t* positions = stored_positions(part, chunk.cells[i]);
    const int32_t* biases = positions + page_tokens;  // as bits: all are 0 of a 0
    const uint32_t there = chunk.there.entries[i];
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
  chunk.first = low[0], chunk.last = high[0], chunk.biased = bias_bits[0] != 0;
}

// Chunk number c of an item's, which is followed by its next one, or by the first of the item `next` (or null).
static inline void gather(const AttendCall& call, const Item& item, int32_t c, const Item* next, Cells& chunk) {
  const Part& part = call.part;
  const int64_t page = first_page(call, item, call.work.chunks[c]);
  chunk.count = call.work.chunks[c].count();
  for (int32_t i = 0; i < chunk.count; i++) chunk.cells[i] = cell_of(call, item, page + i);
  const bool goes_on = c + 1 < item.chunk_end;
  const Item* later_item = goes_on ? &item : next && next->chunk_begin < next->chunk_end ? next : nullptr;
  const Chunk later = !later_item ? Chunk{0, 0, 0} : call.work.chunks[goes_on ? c + 1 : later_item->chunk_begin];
  const int64_t later_page = later_item ? first_page(call, *later_item, later) : 0;
  for (int32_t i = 0; i < chunk.count; i++)
    chunk.later[i] = i < later.count() ? cell_of(call, *later_item, later_page + i) : chunk.cells[i];
  if (part.page_masks) {
    chunk.there.any = chunk.there.full = 0;
    for (int32_t i = 0; i < chunk.count; i++) note_page(chunk.there, i, part.page_masks[page + i]);
  } else {
    chunk.there.any = chunk.there.full = bits_below(chunk.count);
    std::memset(chunk.there.entries, 0xff, sizeof chunk.there.entries);
  }
  if (part.entries == Entries::labelled) return read_labels(part, chunk);
  chunk.starts = part.page_starts + page;
  chunk.first = chunk.starts[0], chunk.last = (int64_t)chunk.starts[chunk.count - 1] + page_tokens - 1;
}

template <class Number>
static inline Number between(int64_t least, int64_t x, int64_t most) {
  return (Number)(x < least ? least : x > most ? most : x);
}

// Entries of page i that stand from position `oldest` to `newest`.
static inline uint32_t entries_between(const Part& part, const Cells& chunk, int32_t i, int64_t oldest,
                                       int64_t newest) {
  if (part.entries == Entries::contiguous) {
    const int64_t start = chunk.starts[i];
    const int begin = between<int>(0, oldest - start, page_tokens),
              end = between<int>(0, newest + 1 - start, page_tokens);
    return bits_below(end) & ~bits_below(begin);
  }
  const int32_t* positions = stored_positions(part, chunk.cells[i]);
  const int32_t low = between<int32_t>(0, oldest, INT32_MAX), high = between<int32_t>(-1, newest, INT32_MAX);
  uint32_t entries = 0;
  for (int j = 0; j < page_tokens; j++) entries |= (uint32_t)(positions[j] >= low && positions[j] <= high) << j;
  return entries;
}

static inline void see(const Part& part, const Cells& chunk, int64_t position, Sight& sight) {
  const int64_t oldest = position - part.window + 1;
  if (oldest <= chunk.first && chunk.last <= position) {
    sight = chunk.there;
    return;
  }
  std::memset(&sight, 0, sizeof sight);
  if (chunk.last < oldest || position < chunk.first) return;
  for (int32_t i = 0; i < chunk.count; i++)
    note_page(sight, i, chunk.there.entries[i] & entries_between(part, chunk, i, oldest, position));
}

}  // namespace KV_ISA
}  // namespace kvloom
