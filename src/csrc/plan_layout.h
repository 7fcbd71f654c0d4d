// Conversion of page tables to the arrays of a plan (kvloom/attend/plan.py), called by attend/builder.py once per step.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace kvloom {

// The positions of a sequence's rows: half-open spans, ascending and disjoint.
typedef std::vector<std::pair<int64_t, int64_t>> Spans;

// The table of one sequence in one layer group: page n holds positions n * page_tokens onwards.
struct TableView {
  const int32_t* ids;       // no_page if there is none
  const uint8_t* writable;  // whether a row may write to page n
  int64_t pages;
};

struct LaidRows {
  std::vector<int32_t> positions, slots;  // [rows]
  std::vector<int32_t> seq_rows;          // [seqs + 1]
};

// The pages that some row of a sequence may see are a slice of its table. The slices of all sequences are concatenated.
//
//     table    . . [ low ............ high ) .      page numbers of one sequence
//     laid     [ sequence 0 )[ sequence 1 ) ...     without pages that do not exist
struct LaidPages {
  std::vector<int32_t> page_ids, page_starts;  // [pages]
  std::vector<int32_t> seq_pages;              // [seqs + 1]
  std::vector<int32_t> row_pages;              // [rows], no_page if the row must not write
};

// Both throw std::invalid_argument if a sequence has no rows, or rows outside of its table.
LaidRows lay_rows(const std::vector<Spans>& sequences);
LaidPages lay_pages(const std::vector<Spans>& sequences, const std::vector<TableView>& tables,
                    std::optional<int64_t> window);

}  // namespace kvloom
