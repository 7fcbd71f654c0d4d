#include "plan_layout.h"

#include <algorithm>
#include <climits>
#include <stdexcept>

#include "attend.h"

namespace kvloom {
namespace {

void check(const Spans& spans) {
  if (spans.empty()) throw std::invalid_argument("a sequence has no rows");
  int64_t reached = 0;
  for (const auto& [start, stop] : spans) {
    if (start < reached || stop <= start || stop > INT32_MAX) throw std::invalid_argument("spans must ascend");
    reached = stop;
  }
}

}  // namespace

LaidRows lay_rows(const std::vector<Spans>& sequences) {
  LaidRows laid;
  laid.seq_rows.push_back(0);
  for (const Spans& spans : sequences) {
    check(spans);
    for (const auto& [start, stop] : spans)
      for (int64_t position = start; position < stop; position++) {
        laid.positions.push_back((int32_t)position);
        laid.slots.push_back((int32_t)(position % page_tokens));
      }
    laid.seq_rows.push_back((int32_t)laid.positions.size());
  }
  return laid;
}

LaidPages lay_pages(const std::vector<Spans>& sequences, const std::vector<TableView>& tables,
                    std::optional<int64_t> window) {
  if (sequences.size() != tables.size()) throw std::invalid_argument("there must be one table per sequence");
  LaidPages laid;
  laid.seq_pages.push_back(0);
  for (size_t b = 0; b < sequences.size(); b++) {
    const Spans& spans = sequences[b];
    check(spans);
    const TableView& table = tables[b];
    const int64_t low = window ? std::max<int64_t>(0, spans.front().first - *window + 1) / page_tokens : 0;
    const int64_t high = (spans.back().second - 1) / page_tokens + 1;
    if (high > table.pages) throw std::invalid_argument("a row lies beyond its page table");
    for (int64_t page = low; page < high; page++) {
      if (table.ids[page] == no_page) continue;
      laid.page_ids.push_back(table.ids[page]);
      laid.page_starts.push_back((int32_t)(page * page_tokens));
    }
    laid.seq_pages.push_back((int32_t)laid.page_ids.size());
    for (const auto& [start, stop] : spans)
      for (int64_t position = start; position < stop; position++) {
        const int64_t page = position / page_tokens;
        laid.row_pages.push_back(table.writable[page] ? table.ids[page] : no_page);
      }
  }
  return laid;
}

}  // namespace kvloom
