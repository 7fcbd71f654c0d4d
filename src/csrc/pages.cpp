// The checks that make kernels safe to trust: the same for every instruction set.
#include "attend.h"

namespace kvloom {
namespace {

bool page_fits(int32_t page, int64_t page_bytes, int64_t memory_bytes) {
  return page >= 0 && page * grain_bytes + page_bytes <= memory_bytes;
}

bool ascends(const int32_t* bounds, int64_t count, int64_t total) {
  if (bounds[0] != 0 || bounds[count] != total) return false;
  for (int64_t i = 0; i < count; i++)
    if (bounds[i] > bounds[i + 1]) return false;
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
  if (!ascends(part.page_lists, num_lists, num_pages)) return "page lists must ascend from 0 to the number of pages";
  for (int64_t i = 0; i < num_lists; i++)
    for (int32_t p = part.page_lists[i]; p < part.page_lists[i + 1]; p++) {
      if (!page_fits(part.page_ids[p], page_bytes, memory_bytes)) return "a page lies outside of the memory";
      const int32_t mark = part.page_marks[p];
      if (part.ragged && (mark < 0 || mark > page_tokens)) return "a ragged page counts more entries than it can hold";
      if (!part.ragged && (mark < 0 || (p > part.page_lists[i] && mark - part.page_marks[p - 1] < page_tokens)))
        return "page starts of a sequence must ascend without overlap";
    }
  return nullptr;
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

}  // namespace kvloom
