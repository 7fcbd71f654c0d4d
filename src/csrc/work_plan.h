// The partition into work of attention over one part of a plan, and what continues it. Made once per step and used by
// all layers.
//
// Where rows of several sequences read the same pages (a common prefix), they share a tile, so that these are read
// once.
#pragma once

#include <vector>

#include "attend.h"

namespace kvloom {

// The first of pages begin .. end, with contiguous entries, that starts at position `start` or later.
int32_t first_page_from(const Part& part, int32_t begin, int32_t end, int64_t start);

class WorkPlan {
 public:
  // For one layer slot, or for all of them: see work_plan_slot.
  WorkPlan(const Rows& rows, const Part& part, const Continuation& after, int32_t layer_slot, int32_t q_heads,
           int32_t threads);

  Work work() const;
  // Bytes of KV that a layer reads with this plan. What several items read is counted several times.
  int64_t kv_bytes() const { return kv_bytes_; }
  int32_t q_heads() const { return q_heads_; }
  // Whether it was made from these arrays.
  bool fits(const Rows& rows, const Part& part) const {
    return rows.positions == positions_ && part.page_ids == page_ids_;
  }

 private:
  friend class Cutter;

  std::vector<Item> items_;
  std::vector<int32_t> shares_, row_ids_;
  std::vector<KvBlock> blocks_;
  std::vector<Source> sources_;
  std::vector<int32_t> join_sources_, join_items_;
  int64_t state_rows_ = 0, kv_bytes_ = 0;
  int32_t q_heads_;
  const int32_t *positions_, *page_ids_;
};

// The layer slot whose work plan is used for `layer_slot`: the first one, unless lists differ in length between layers.
inline int32_t work_plan_slot(const Part& part, int32_t layer_slot) {
  return part.even ? 0 : layer_slot;
}

}  // namespace kvloom
