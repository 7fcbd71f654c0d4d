// A chunk's pages in memory, and which of their entries a row sees.
#pragma once

#include <cstring>

#include "attend.h"

namespace kvloom {
namespace KV_ISA {

// What one position sees of a chunk, a bit per page; `lo` and `hi` bound the entries of pages that it sees in
// part.
struct Sight {
  uint32_t any, full;
  uint8_t lo[chunk_pages], hi[chunk_pages];
};

// A chunk's pages in memory. `later` are those that the same thread reads next, to be fetched meanwhile: each while the
// page in its place is read. Where there are none, the chunk's own.
struct Cells {
  const uint8_t *cells[chunk_pages], *later[chunk_pages];
  int32_t marks[chunk_pages];
  int32_t count;
};

static inline uint32_t bits_below(int n) {
  return (1u << n) - 1;
}

static inline const uint8_t* cell_of(const AttendCall& call, const Item& item, int32_t page) {
  return call.part.cell(call.part.page_ids[page], call.layer_slot, item.head);
}

// Chunk number c of an item's, which is followed by its next one, or by the first of the item `next` (or null).
static inline void gather(const AttendCall& call, const Item& item, int32_t c, const Item* next, Cells& chunk) {
  const Chunk& pages = call.work.chunks[c];
  chunk.count = pages.page_end - pages.page_begin;
  for (int32_t i = 0; i < chunk.count; i++) {
    chunk.cells[i] = cell_of(call, item, pages.page_begin + i);
    chunk.marks[i] = call.part.page_marks[pages.page_begin + i];
  }
  const bool goes_on = c + 1 < item.chunk_end;
  const Item* later_item = goes_on ? &item : next && next->chunk_begin < next->chunk_end ? next : nullptr;
  const Chunk later = !later_item ? Chunk{0, 0} : call.work.chunks[goes_on ? c + 1 : later_item->chunk_begin];
  for (int32_t i = 0; i < chunk.count; i++)
    chunk.later[i] =
        later.page_begin + i < later.page_end ? cell_of(call, *later_item, later.page_begin + i) : chunk.cells[i];
}

static inline const int32_t* stored_positions(const Part& part, const uint8_t* cell) {
  return (const int32_t*)(cell + part.k_bytes() + part.v_bytes());
}
static inline const float* stored_biases(const Part& part, const uint8_t* cell) {
  return (const float*)(stored_positions(part, cell) + page_tokens);
}

static inline int clamp_slot(int64_t x) {
  return x < 0 ? 0 : x > page_tokens ? page_tokens : (int)x;
}

static inline void see(const Part& part, const Cells& chunk, int32_t position, Sight& sight) {
  const int64_t oldest = position - part.window + 1;
  if (!part.ragged && oldest <= chunk.marks[0] && chunk.marks[chunk.count - 1] + page_tokens - 1 <= position) {
    sight.any = sight.full = bits_below(chunk.count);
    std::memset(sight.lo, 0, sizeof sight.lo);
    std::memset(sight.hi, page_tokens, sizeof sight.hi);
    return;
  }
  sight.any = sight.full = 0;
  for (int32_t i = 0; i < chunk.count; i++) {
    int lo = 0, hi = 0;
    if (part.ragged) {
      const int32_t* positions = stored_positions(part, chunk.cells[i]);
      while (hi < chunk.marks[i] && positions[hi] <= position) hi++;
      while (lo < hi && positions[lo] < oldest) lo++;
    } else {
      lo = clamp_slot(oldest - chunk.marks[i]);
      hi = clamp_slot((int64_t)position + 1 - chunk.marks[i]);
    }
    if (lo >= hi) continue;
    sight.any |= 1u << i;
    if (hi - lo == page_tokens) sight.full |= 1u << i;
    sight.lo[i] = (uint8_t)lo, sight.hi[i] = (uint8_t)hi;
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
