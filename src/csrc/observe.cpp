#include "observe.h"

#include <algorithm>
#include <cstring>

#include "scratch.h"
#include "work_plan.h"

namespace kvloom {
namespace {

// The pages of one part that chosen rows may see in wanted columns, block by block.
class Blocks {
 public:
  Blocks(const Attended& attended, const Part& part, const Tally& tally) : part_(part), tally_(tally) {
    const int32_t *positions = attended.rows.positions, *rows = tally.chosen.rows;
    oldest_ = positions[rows[0]] - part.window + 1, newest_ = positions[rows[tally.chosen.num_rows - 1]];
    for (int32_t head = 0; head < part.heads; head++)
      cut(part.list_of(tally.chosen.sequence, attended.slot, head), head);
  }

  int64_t count() const { return (int64_t)heads_.size(); }
  const int32_t* heads() const { return heads_.data(); }
  const KvBlock* blocks() const { return blocks_.data(); }

 private:
  void cut(int64_t list, int32_t head) {
    int32_t begin = part_.list_bounds[list], end = part_.list_bounds[list + 1];
    if (part_.entries == Entries::contiguous) {
      const int64_t last_column = tally_.first_column + tally_.num_columns - 1, shift = part_.shift_of(list);
      const int64_t first = std::max(oldest_, tally_.first_column), last = std::min(newest_, last_column);
      begin = first_page_from(part_, begin, end, first - shift - page_tokens + 1);
      end = first_page_from(part_, begin, end, last - shift + 1);
    }
    for (; begin < end; begin += kv_block_pages) {
      heads_.push_back(head);
      blocks_.push_back({begin, std::min(begin + kv_block_pages, end), 0});
    }
  }

  const Part& part_;
  const Tally& tally_;
  int64_t oldest_, newest_;
  std::vector<int32_t> heads_;
  std::vector<KvBlock> blocks_;
};

void take_in(Reduce reduce, double x, double& to) {
  if (reduce == Reduce::sum)
    to += x;
  else
    to = to >= x || to != to ? to : x;  // NaN stays
}

// Takes in count entries of one page, which stand side by side.
void take_in(Reduce reduce, const double* x, int64_t count, double* to) {
  if (reduce == Reduce::sum)
    for (int64_t i = 0; i < count; i++) to[i] += x[i];
  else
    for (int64_t i = 0; i < count; i++) take_in(reduce, x[i], to[i]);
}

class OnePart {
 public:
  OnePart(const Attended& attended, const Part& part, const Tally& tally, double* running)
      : attended_(attended),
        part_(part),
        tally_(tally),
        running_(running),
        results_(tally.heads == part.heads ? 1 : tally.heads / part.heads),
        blocks_(attended, part, tally) {}

  void run(const AttendKernels& kernels) {
    if (blocks_.count() == 0) return;
    const int64_t count = blocks_.count() * results_ * kv_block_positions;
    reduced_ = (double*)scratch(Scratch::observed, (size_t)count * sizeof(double));
    Work work = {};
    work.row_ids = tally_.chosen.rows, work.blocks = blocks_.blocks();
    const AttendCall asked{attended_.rows,    part_,           nullptr,     work,    attended_.slot, attended_.q_heads,
                           attended_.threads, attended_.scale, attended_.q, nullptr, nullptr,        false};
    kernels.observe({asked, blocks_.count(), tally_.chosen.sequence, tally_.chosen.num_rows, blocks_.heads(),
                     attended_.lse, tally_.reduce, results_, reduced_});
    for (int64_t n = 0; n < blocks_.count(); n++) hand_over(n);
  }

 private:
  void hand_over(int64_t n) {
    const KvBlock& block = blocks_.blocks()[n];
    const int32_t head = blocks_.heads()[n];
    const int64_t list = part_.list_of(tally_.chosen.sequence, attended_.slot, head);
    const int64_t moved = part_.shift_of(list) - tally_.first_column;  // from stored positions to columns
    for (int32_t result = 0; result < results_; result++) {
      const double* from = reduced_ + (n * results_ + result) * kv_block_positions;
      double* to = running_ + ((int64_t)head * results_ + result) * tally_.num_columns;
      for (int32_t page = block.page_begin; page < block.page_end; page++, from += page_tokens)
        part_.entries == Entries::contiguous ? add_page(from, part_.page_starts[page] + moved, to)
                                             : add_labelled(from, labels(page, head), moved, to);
    }
  }

  void add_page(const double* from, int64_t column, double* to) const {
    const int64_t begin = std::max<int64_t>(0, -column);
    const int64_t end = std::min<int64_t>(page_tokens, tally_.num_columns - column);
    if (begin < end) take_in(tally_.reduce, from + begin, end - begin, to + column + begin);
  }

  // One by one: entries may share a position.
  void add_labelled(const double* from, const int32_t* positions, int64_t moved, double* to) const {
    for (int j = 0; j < page_tokens; j++) {
      const int64_t column = positions[j] + moved;
      if (column >= 0 && column < tally_.num_columns) take_in(tally_.reduce, from[j], to[column]);
    }
  }

  // The positions of a page's entries.
  const int32_t* labels(int32_t page, int32_t head) const {
    return (const int32_t*)(part_.cell(part_.page_ids[page], attended_.slot, head) + part_.k_bytes() + part_.v_bytes());
  }

  const Attended& attended_;
  const Part& part_;
  const Tally& tally_;
  double* running_;
  const int32_t results_;
  const Blocks blocks_;
  double* reduced_ = nullptr;
};

void tally_up(const AttendKernels& kernels, const Attended& attended, const Tally& tally) {
  const int64_t place = tally.chosen.place(attended.layer);
  if (place < 0 || tally.chosen.num_rows == 0) return;
  double* running = tally.running + place * tally.heads * tally.num_columns;
  for (const Part& part : attended.parts) OnePart(attended, part, tally, running).run(kernels);
  tally.counted[place] += tally.chosen.num_rows;
}

void record(const Attended& attended, const QueryRecord& record) {
  const int64_t place = record.chosen.place(attended.layer), width = record.heads * record.dim;
  if (place < 0) return;
  float* queries = record.queries + place * record.num_places * width;
  for (int32_t n = 0; n < record.chosen.num_rows; n++)
    std::memcpy(queries + record.places[n] * width, attended.q + record.chosen.rows[n] * width,
                (size_t)width * sizeof(float));
}

}  // namespace

bool Observer::asks(int64_t layer) const {
  const auto there = [layer](const auto& one) { return one.chosen.place(layer) >= 0; };
  return std::any_of(tallies.begin(), tallies.end(), there) || std::any_of(records.begin(), records.end(), there);
}

const char* find_fault(const Chosen& chosen, const Rows& rows) {
  if (chosen.sequence < 0 || chosen.sequence >= rows.seqs) return "a sequence is observed that is not there";
  int32_t next = rows.seq_rows[chosen.sequence];
  for (int32_t n = 0; n < chosen.num_rows; n++) {
    if (chosen.rows[n] < next || chosen.rows[n] >= rows.seq_rows[chosen.sequence + 1])
      return "observed rows are a sequence's own, in ascending order";
    next = chosen.rows[n] + 1;
  }
  return nullptr;
}

const char* find_fault(const Observer& observer, const Attended& attended) {
  for (const Tally& tally : observer.tallies) {
    if (tally.chosen.place(attended.layer) < 0) continue;
    for (const Part& part : attended.parts)
      if (tally.heads != part.heads && tally.heads != attended.q_heads)
        return "a tally has as many results as KV heads, or as query heads";
  }
  for (const QueryRecord& record : observer.records)
    if (record.chosen.place(attended.layer) >= 0 && (record.heads != attended.q_heads || record.dim != attended.k_dim))
      return "recorded queries have other heads";
  return nullptr;
}

void observe(const AttendKernels& kernels, const Attended& attended, const Observer& observer) {
  for (const QueryRecord& one : observer.records) record(attended, one);
  for (const Tally& tally : observer.tallies) tally_up(kernels, attended, tally);
}

}  // namespace kvloom
