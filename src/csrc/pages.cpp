// The checks of a plan's arrays, which kernels then trust: the same for every instruction set.
#include "attend.h"

namespace kvloom {
namespace {

bool page_fits(int32_t page, int64_t page_bytes, int64_t memory_bytes) {
  return page >= 0 && page * grain_bytes + page_bytes <= memory_bytes;
}

const char* find_cell_fault(const PageLayout& from, int64_t cell, int32_t slot, int64_t memory_bytes) {
  if (cell < 0 || cell > memory_bytes - from.k_bytes() - from.v_bytes()) return "a cell lies outside of the memory";
  if (slot < 0 || slot >= page_tokens) return "an entry lies outside of its cell";
  return nullptr;
}

bool ascends(const int32_t* bounds, int64_t count, int64_t total) {
  if (bounds[0] != 0 || bounds[count] != total) return false;
  for (int64_t i = 0; i < count; i++)
    if (bounds[i] > bounds[i + 1]) return false;
  return true;
}

bool starts_ascend(const Part& part, int64_t num_lists) {
  for (int64_t i = 0; i < num_lists; i++)
    for (int32_t p = part.list_bounds[i]; p < part.list_bounds[i + 1]; p++) {
      const int32_t start = part.page_starts[p];
      if (start < 0 || (p > part.list_bounds[i] && start - part.page_starts[p - 1] < page_tokens)) return false;
    }
  return true;
}

}  // namespace

const char* find_fault(const Rows& rows) {
  if (!ascends(rows.seq_rows, rows.seqs, rows.rows)) return "seq_rows must ascend from 0 to the number of rows";
  for (int32_t b = 0; b < rows.seqs; b++)
    for (int32_t t = rows.seq_rows[b]; t < rows.seq_rows[b + 1]; t++) {
      if (rows.positions[t] < 0) return "positions must not be negative";
      if (t > rows.seq_rows[b] && rows.positions[t] < rows.positions[t - 1])
        return "positions of a sequence must ascend";
    }
  return nullptr;
}

const char* find_fault(const Part& part, int64_t num_pages, int64_t num_lists, int64_t page_bytes,
                       int64_t memory_bytes) {
  if (!ascends(part.list_bounds, num_lists, num_pages)) return "page lists must ascend from 0 to the number of pages";
  for (int64_t p = 0; p < num_pages; p++)
    if (!page_fits(part.page_ids[p], page_bytes, memory_bytes)) return "a page lies outside of the memory";
  if (part.entries == Entries::contiguous && !starts_ascend(part, num_lists))
    return "page starts of a list must ascend without overlap";
  if (!part.list_turns) return nullptr;
  if (2 * part.rotations.half > part.k_dim) return "a rotation is wider than a key";
  for (int64_t i = 0; i < num_lists; i++)
    if (part.list_turns[i] < 0 || part.list_turns[i] >= part.rotations.count) return "a list's rotation is missing";
  return nullptr;
}

const char* find_fault(const Part& lists, const Continuation& after, int64_t num_seqs) {
  const Part& table = *after.table;
  if (lists.lists != Lists::by_head || lists.entries != Entries::labelled || lists.list_turns)
    return "a table continues labelled lists by head that are not turned";
  if (table.lists != Lists::by_sequence || table.entries != Entries::contiguous || table.list_turns)
    return "lists are continued by a table that is not turned";
  if (lists.codec != table.codec || lists.heads != table.heads || lists.slots != table.slots ||
      lists.k_dim != table.k_dim || lists.v_dim != table.v_dim || lists.window != table.window)
    return "a table has the codec, heads and dims of the lists that it continues";
  for (int64_t i = 0; i < num_seqs; i++)
    if (after.stops[i] < 0) return "lists stop at a negative position";
  return nullptr;
}

bool are_even(const Part& part, int64_t num_lists) {
  const int64_t per_sequence = (int64_t)part.slots * part.heads;
  if (part.lists == Lists::by_sequence) return true;
  for (int64_t i = 0; i < num_lists; i++) {
    const int64_t first = i / per_sequence * per_sequence;
    if (part.list_bounds[i + 1] - part.list_bounds[i] != part.list_bounds[first + 1] - part.list_bounds[first])
      return false;
  }
  return true;
}

const char* find_write_fault(const int32_t* row_pages, const int32_t* row_slots, int64_t rows, int64_t page_bytes,
                             int64_t memory_bytes) {
  for (int64_t t = 0; t < rows; t++) {
    if (row_pages[t] == no_page) continue;
    if (!page_fits(row_pages[t], page_bytes, memory_bytes)) return "a row's page lies outside of the memory";
    if (row_slots[t] < 0 || row_slots[t] >= page_tokens) return "a row's slot lies outside of its page";
  }
  return nullptr;
}

const char* find_gather_fault(const GatherCall& call, int64_t rows, int64_t memory_bytes) {
  for (int64_t i = 0; i < call.firsts[call.num_pages]; i++) {
    if (call.made[i] == not_made) {
      if (const char* fault = find_cell_fault(call.from, call.cells[i], call.slots[i], memory_bytes)) return fault;
    } else if (call.made[i] < 0 || call.made[i] >= rows) {
      return "a new entry is missing";
    }
  }
  return nullptr;
}

const char* find_read_fault(const ReadCall& call, int64_t memory_bytes) {
  for (int64_t i = 0; i < call.heads * call.entries; i++)
    if (const char* fault = find_cell_fault(call.from, call.cells[i], call.slots[i], memory_bytes)) return fault;
  return nullptr;
}

}  // namespace kvloom
