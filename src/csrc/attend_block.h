// One tile of query rows against one block of KV: visibility, scores, softmax, weighted sum of values.
//
// The bounds of a block never depend on the rows, so a row always adds the same numbers in the same order. Entries that
// a row does not see have no effect on it: their scores are overwritten, and their values are not multiplied, not even
// by 0 (unless they are integers).
#pragma once

#include <algorithm>

#include "attend_cells.h"
#include "attend_state.h"
#include "codecs.h"

namespace kvloom {
namespace KV_ISA {

constexpr int max_runs = 2 * most_block_pages;
constexpr int fetching_rows = 4;  // the first rows of a group fetch memory during their softmax

// Working memory of one tile, allocated as one block.
struct Desk {
  float *q, *s, *keys, *values, *state, *partial;
  Visible* visible;

  static int64_t bytes(int64_t rows, int64_t positions, const Part& part) {
    const int64_t decoded = most_block_positions * (int64_t)(part.k_dim + part.v_dim);
    const int64_t floats = rows * part.k_dim + max_rows * s_stride + decoded + 2 * state_floats(rows, part);
    return floats * 4 + positions * (int64_t)sizeof(Visible);
  }
  static Desk at(void* base, int64_t rows, const Part& part) {
    Desk desk;
    desk.s = (float*)base;
    desk.q = desk.s + max_rows * s_stride;
    desk.keys = desk.q + rows * part.k_dim;
    desk.values = desk.keys + most_block_positions * part.k_dim;
    desk.state = desk.values + most_block_positions * part.v_dim;
    desk.partial = desk.state + state_floats(rows, part);
    desk.visible = (Visible*)(desk.partial + state_floats(rows, part));
    return desk;
  }

 private:
  static int64_t state_floats(int64_t rows, const Part& part) {
    return (State::floats(rows, part.v_dim) + 15) / 16 * 16;
  }
};

static inline void rotate(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

// Rows that the inner loops process together, and the pages that some of them (`any`) or all of them (`full`) see.
struct Group {
  int32_t first, count;
  uint32_t any, full;
};

class BlockPass {
 public:
  BlockPass(const AttendCall& call, const Item& item, const Desk& desk)
      : call_(call),
        item_(item),
        part_(call.part),
        desk_(desk),
        codec_(codecs[call.part.codec]),
        heads_(call.q_heads / call.part.heads),
        rows_(item.row_count * heads_) {
    const int32_t num_groups = (rows_ + codec_.rows - 1) / codec_.rows;
    group_rows_ = (rows_ + num_groups - 1) / num_groups;
    in_place_ = num_groups <= codec_.in_place_groups;
    near_keys_ = !in_place_ && codec_.decode_keys;
    near_values_ = !in_place_ && codec_.decode_values;
    micro_ = in_place_ ? &codec_.stored : &codec_.near;
    steps_at_ = codec_.value_steps ? part_.k_bytes() + codec_.value_steps(part_.v_dim) : 0;
    for (int32_t first = 0; first < rows_; first += group_rows_) pack_queries(first);
  }

  int32_t rows() const { return rows_; }

  // Fills `out` with the partial result of the item's rows over `block`. Rows that see nothing get m = empty.
  void run(const Cells& block, const State& out) {
    find_all_visible(block);
    decode_values();
    for (int32_t first = 0; first < rows_; first += group_rows_) {
      const Group group = group_at(first);
      softmax(group, out);
      accumulate(group, out);
    }
  }

  // Merges that partial result into `sum`, using `partial` as working memory.
  void add(const Cells& block, const State& sum, const State& partial) {
    find_all_visible(block);
    if (!seen_) return;
    decode_values();
    for (int32_t first = 0; first < rows_; first += group_rows_) {
      const Group group = group_at(first);
      softmax(group, partial);
      const State into = sum.from(first, part_.v_dim), from = partial.from(first, part_.v_dim);
      if (group.any == group.full && all_gathered(into, group.count) && all_gathered(from, group.count)) {
        blend(group, into, from);
      } else {
        accumulate(group, partial);
        merge_states(into, from, group.count, part_.v_dim);
      }
    }
  }

  // Calls body(group, scores) for every group of rows that sees something of `block`. A row has s_stride scores, in
  // units of log 2. They are valid on pages of which the row sees something, where entries that it does not see have
  // the score `empty`.
  template <class Body>
  void each_scored(const Cells& block, const Body& body) {
    find_all_visible(block);
    if (!seen_) return;
    for (int32_t first = 0; first < rows_; first += group_rows_) {
      const Group group = group_at(first);
      if (!group.any) continue;
      score(group);
      for (int32_t r = 0; r < group.count; r++) hide(visible_to(first + r), desk_.s + r * s_stride);
      body(group, desk_.s);
    }
  }

  const Visible& visible_to(int32_t row) const { return desk_.visible[row / heads_]; }

 private:
  int32_t row_of(int32_t i) const { return call_.work.row_ids[item_.row_begin + i]; }

  // The list that a row reads. Only needed if there are rotations.
  int64_t list_of(int32_t row) const {
    const int32_t *begin = call_.rows.seq_rows, *end = begin + call_.rows.seqs + 1;
    return part_.list_of((int32_t)(std::upper_bound(begin, end, row) - begin) - 1, call_.layer_slot, item_.head);
  }

  // The position of row number i, relative to its list.
  int64_t position_of(int32_t i) const {
    const int64_t position = call_.rows.positions[row_of(i)];
    return part_.list_turns ? position - part_.shift_of(list_of(row_of(i))) : position;
  }

  // The k_dim components of query number r. If its list needs a rotation, the rotated query is written to `to`.
  const float* query_of(int32_t r, float* to) const {
    const int32_t row = row_of(r / heads_);
    const float* q = call_.q + ((int64_t)row * call_.q_heads + item_.head * heads_ + r % heads_) * part_.k_dim;
    if (!part_.list_turns) return q;
    const int64_t list = list_of(row);
    if (part_.shift_of(list) == 0) return q;
    std::memcpy(to, q, sizeof(float) * part_.k_dim);
    const Rotations& rotations = part_.rotations;
    const int64_t angle = (int64_t)part_.list_turns[list] * rotations.half;
    rotate(to, rotations.cos + angle, rotations.sin + angle, rotations.half);
    return to;
  }

  // Packs the queries of a group for the inner loop: one component of all rows after the other.
  void pack_queries(int32_t first) {
    const int32_t count = rows_ - first < group_rows_ ? rows_ - first : group_rows_, dim = part_.k_dim;
    float *to = desk_.q + first * dim, *rows = desk_.keys;  // not in use yet
    int32_t width = 0;
    for (int32_t r = 0; r < count; r++)
      width = codec_.prepare(query_of(first + r, rows + r * dim), dim, call_.scale * log2_e, rows + r * dim);
    int32_t d = 0;
    for (; d + 4 <= width; d += 4) {
      int32_t r = 0;
      for (; r + 4 <= count; r += 4) {
        v4 square[4];
        for (int32_t i = 0; i < 4; i++) square[i] = load<v4>(rows + (r + i) * dim + d);
        transpose(square);
        for (int32_t i = 0; i < 4; i++) store(to + (d + i) * count + r, square[i]);
      }
      for (; r < count; r++)
        for (int32_t i = 0; i < 4; i++) std::memcpy(to + (d + i) * count + r, rows + r * dim + d + i, sizeof(float));
    }
    for (; d < width; d++)
      for (int32_t r = 0; r < count; r++) std::memcpy(to + d * count + r, rows + r * dim + d, sizeof(float));
  }

  void find_all_visible(const Cells& block) {
    block_ = &block;
    seen_ = 0;
    for (int32_t i = 0; i < rows_ / heads_; i++) {
      find_visible(part_, block, position_of(i), desk_.visible[i]);
      seen_ |= desk_.visible[i].any;
    }
    if (!near_keys_) return;
    each_seen([&](int64_t i) {
      codec_.decode_keys(block_->cells[i], part_.k_dim, desk_.keys + i * page_tokens * part_.k_dim);
    });
  }

  void decode_values() {
    if (!near_values_) return;
    each_seen([&](int64_t i) {
      codec_.decode_values(block_->cells[i] + part_.k_bytes(), part_.v_dim,
                           desk_.values + i * page_tokens * part_.v_dim);
    });
  }

  static bool all_gathered(const State& state, int32_t rows) {
    bool all = true;
    for (int32_t r = 0; r < rows; r++) all &= state.m[r] != empty;
    return all;
  }

  Group group_at(int32_t first) const {
    Group g{first, rows_ - first < group_rows_ ? rows_ - first : group_rows_, 0, ~0u};
    for (int32_t i = first / heads_; i <= (first + g.count - 1) / heads_; i++)
      g.any |= desk_.visible[i].any, g.full &= desk_.visible[i].full;
    return g;
  }

  // Calls body(i) for every page that any row sees, so that a page is decoded once for all groups.
  template <class Body>
  void each_seen(const Body& body) const {
    for (int64_t i = 0; i < block_->count; i++)
      if (seen_ >> i & 1) body(i);
  }

  void score(const Group& group) const {
    const void *keys[most_block_pages + KeyPages::ahead], *later[most_block_pages];
    int32_t slots[most_block_pages], count = 0;
    for (uint32_t left = group.any; left; left &= left - 1) {
      const int i = __builtin_ctz(left);
      keys[count] = near_keys_ ? (const void*)(desk_.keys + i * page_tokens * part_.k_dim) : block_->cells[i];
      later[count] = block_->later[i];
      if (steps_at_) fetch_later(block_->later[i], steps_at_);
      slots[count++] = i;
    }
    for (int i = 0; i < KeyPages::ahead; i++)
      keys[count + i] = block_->cells[i < block_->count ? i : 0] + part_.k_bytes();
    micro_->score[group.count - 1](desk_.q + group.first * part_.k_dim, part_.k_dim, {keys, later, slots, count},
                                   desk_.s);
  }

  // Turns the scores of a group into weights, and finds their maxima and sums. All maxima are computed first, so that
  // no row has to wait for the reduction of its own.
  void softmax(const Group& group, const State& out) const {
    score(group);
    float* m = out.m + group.first;
    float* l = out.l + group.first;
    for (int32_t r = 0; r < group.count; r++) {
      const Visible& visible = visible_to(group.first + r);
      hide(visible, desk_.s + r * s_stride);
      m[r] = highest(visible.any, desk_.s + r * s_stride);
    }
    v16 top[max_rows];
    for (int32_t r = 0; r < group.count; r++) {
      const float base = m[r] == empty ? 0.0f : m[r];  // nothing is visible, or only NaN, which the sum will show
      const Visible& visible = visible_to(group.first + r);
      float* s = desk_.s + r * s_stride;
      l[r] = steps_at_ ? weigh_steps(r, visible, s, base, top[r]) : weigh(visible.any, s, base);
      if (l[r] != 0.0f) m[r] = base;
    }
    if (steps_at_)
      for (int32_t r = 0; r < group.count; r++)
        round_weights(group.any, visible_to(group.first + r).any, fold_top(top[r]), desk_.s + r * s_stride);
  }

  // Adds biases, and hides the entries that a row does not see on pages that it sees in part.
  void hide(const Visible& visible, float* s) const {
    if (block_->biased) add_biases(visible.any & bits_below(block_->labelled), s);
    for (uint32_t left = visible.any & ~visible.full; left; left &= left - 1) {
      const int i = __builtin_ctz(left);
      for (uint32_t unseen = ~visible.entries[i] & all_entries; unseen; unseen &= unseen - 1)
        s[i * page_tokens + __builtin_ctz(unseen)] = empty;
    }
  }

  // The maximum of a row's scores.
  static float highest(uint32_t pages, const float* s) {
    v16 top[2] = {splat(empty), splat(empty)};
    each_stretch(pages, [&](int begin, int end) {
      int i = begin;
      for (; i + 2 <= end; i += 2)
        top[0] = vmax(top[0], load(s + i * page_tokens)), top[1] = vmax(top[1], load(s + (i + 1) * page_tokens));
      if (i < end) top[0] = vmax(top[0], load(s + i * page_tokens));
    });
    return fold_max(vmax(top[0], top[1]));
  }

  // Replaces the scores of a row by its weights; returns their sum.
  static float weigh(uint32_t pages, float* s, float m) {
    v16 sum = splat(0.0f);
    each_stretch(pages, [&](int begin, int end) {
      for (int i = begin; i < end; i++) {
        const v16 p = vexp2(load(s + i * page_tokens) - splat(m));
        store(s + i * page_tokens, p);
        sum = sum + p;
      }
    });
    return fold_sum(sum);
  }

  // Replaces the scores of row number `row` of a group by its weights times the steps of their values. `top` receives
  // the largest of these per lane; returns the sum of the weights alone.
  float weigh_steps(int32_t row, const Visible& visible, float* s, float m, v16& top) const {
    v16 sum = splat(0.0f);
    top = splat(0.0f);
    each_stretch(visible.any, [&](int begin, int end) {
      for (int i = begin; i < end; i++) {
        const v16 p = vexp2(load(s + i * page_tokens) - splat(m)), weight = p * steps_of(visible, i);
        if (row < fetching_rows) fetch_values(i, row);
        store(s + i * page_tokens, weight);
        top = vtop(top, weight);
        sum = sum + p;
      }
    });
    return fold_sum(sum);
  }

  // The steps of the values of page i; 0 for entries that are not visible, whose memory may hold anything.
  v16 steps_of(const Visible& visible, int i) const {
    const float* steps = (const float*)(block_->cells[i] + steps_at_);
    if (visible.full >> i & 1) return load(steps);
    float seen[page_tokens];
    for (int j = 0; j < page_tokens; j++) seen[j] = visible.entries[i] >> j & 1 ? steps[j] : 0.0f;
    return load(seen);
  }

  // Rounds the weights of a row, the largest of which is `top`, to integers: 0 on those of `pages` that the row has not
  // `seen`. Their step is stored behind them.
  static void round_weights(uint32_t pages, uint32_t seen, float top, float* s) {
    const Step step = step_of_weights(top);
    for (; pages; pages &= pages - 1) {
      const int i = __builtin_ctz(pages);
      float* page = s + i * page_tokens;
      const ints words = lane_words(seen >> i & 1 ? in_steps(load(page), splat(step.inverse)) : ints{});
      std::memcpy(page, &words, sizeof words);
    }
    s[most_block_positions] = step.size;
  }

  // Fetches two lines of the values that are read some time after page i, so that memory is busy while weights are
  // computed. With small blocks, the loops over keys and values alone would have to wait for memory.
  void fetch_values(int i, int32_t row) const {
    const int64_t at = part_.k_bytes() + row * 128;
    fetch_later(block_->later[i], at), fetch_later(block_->later[i], at + 64);
  }

  void add_biases(uint32_t pages, float* s) const {
    for (; pages; pages &= pages - 1) {
      float* page = s + __builtin_ctz(pages) * page_tokens;
      store(page, fma(load(stored_biases(part_, block_->cells[__builtin_ctz(pages)])), splat(log2_e), load(page)));
    }
  }

  // Calls body(begin, end) for every run of set bits.
  template <class Body>
  static void each_stretch(uint32_t bits, const Body& body) {
    while (bits) {
      const int begin = __builtin_ctz(bits), end = begin + __builtin_ctz(~(bits >> begin));
      body(begin, end);
      bits &= ~bits_below(end);
    }
  }

  int64_t entry_bytes() const { return part_.v_dim * micro_->value_size; }

  const uint8_t* values_of(int page) const {
    return near_values_ ? (const uint8_t*)desk_.values + page * page_tokens * entry_bytes()
                        : block_->cells[page] + part_.k_bytes();
  }

  Run whole_page(int i) const {
    return {values_of(i), block_->later[i] + part_.k_bytes(), i * page_tokens, page_tokens};
  }
  Run part_of_page(int i, int lo, int hi) const {
    const uint8_t* values = values_of(i) + lo * entry_bytes();
    return {values, values, i * page_tokens + lo, hi - lo};
  }

  // Calls body(runs) with all pages that some row of the group sees, each as a whole.
  template <class Body>
  void with_pages(const Group& group, const Body& body) const {
    Run runs[most_block_pages];
    int32_t count = 0;
    for (uint32_t left = group.any; left; left &= left - 1) runs[count++] = whole_page(__builtin_ctz(left));
    body(Runs{runs, count, block_->later[0]});
  }

  // Adds the result of a group whose rows see every entry of the pages that they see. `from` has its maxima and sums.
  void blend(const Group& group, const State& into, const State& from) const {
    const Union both(into, from);
    with_pages(group, [&](const Runs& runs) {
      micro_->blend[group.count - 1](desk_.s, runs, {both.keep, both.take}, into.o, part_.v_dim);
    });
    std::memcpy(into.m, both.m, sizeof(float) * group.count);
    std::memcpy(into.l, both.l, sizeof(float) * group.count);
  }

  // Computes the sums of weight x value. Entries that not all rows of the group see are added row by row, unless
  // weights are integers: then a weight of 0 excludes an entry. Those that no row sees, such as masks hide, are left
  // out; the sum goes on behind them as if they were not there.
  void accumulate(const Group& group, const State& state) const {
    float* out = state.o + (int64_t)group.first * part_.v_dim;
    if (steps_at_) {
      with_pages(group,
                 [&](const Runs& runs) { micro_->accumulate[group.count - 1](desk_.s, runs, out, part_.v_dim); });
      return;
    }
    Run runs[max_runs];
    int32_t count = 0;
    std::memset(out, 0, sizeof(float) * group.count * part_.v_dim);
    const auto flush = [&] {
      if (count) micro_->accumulate[group.count - 1](desk_.s, {runs, count, block_->later[0]}, out, part_.v_dim);
      count = 0;
    };
    for (uint32_t left = group.any; left; left &= left - 1) {
      const int i = __builtin_ctz(left);
      if (count + page_tokens / 2 > max_runs) flush();
      if (group.full >> i & 1) {
        runs[count++] = whole_page(i);
        continue;
      }
      const uint32_t common = seen_by_all(group, i), some = seen_by_some(group, i);
      for (int begin = 0, end; begin < page_tokens; begin = end) {
        end = stretch_end(common, begin);
        if (common >> begin & 1) {
          runs[count++] = part_of_page(i, begin, end);
        } else if (some & bits_below(end) & ~bits_below(begin)) {
          flush();
          accumulate_alone(group, i, begin, end, out);
        }
      }
    }
    flush();
  }

  uint32_t seen_by_all(const Group& group, int i) const {
    uint32_t entries = all_entries;
    for (int32_t n = group.first / heads_; n <= (group.first + group.count - 1) / heads_; n++)
      entries &= desk_.visible[n].entries[i];
    return entries;
  }

  uint32_t seen_by_some(const Group& group, int i) const {
    uint32_t entries = 0;
    for (int32_t n = group.first / heads_; n <= (group.first + group.count - 1) / heads_; n++)
      entries |= desk_.visible[n].entries[i];
    return entries;
  }

  // The end of the run that starts at `begin`, of entries that are all in `entries` or all not.
  static int stretch_end(uint32_t entries, int begin) {
    const uint32_t others = (entries >> begin & 1 ? ~entries : entries) >> begin | 1u << (page_tokens - begin);
    return begin + __builtin_ctz(others);
  }

  // Adds entries begin .. end of page i row by row, as far as a row sees them.
  void accumulate_alone(const Group& group, int i, int begin, int end, float* out) const {
    for (int32_t r = group.first; r < group.first + group.count; r++) {
      const uint32_t entries = visible_to(r).entries[i] & bits_below(end);
      const int64_t at = r - group.first;
      for (int first = begin, last; first < end; first = last) {
        last = stretch_end(entries, first);
        if (!(entries >> first & 1)) continue;
        const Run run = part_of_page(i, first, last);
        micro_->accumulate[0](desk_.s + at * s_stride, {&run, 1, run.values}, out + at * part_.v_dim, part_.v_dim);
      }
    }
  }

  const AttendCall& call_;
  const Item& item_;
  const Part& part_;
  const Desk& desk_;
  const Codec& codec_;
  const int32_t heads_, rows_;
  int32_t group_rows_;
  uint32_t seen_ = 0;
  bool in_place_, near_keys_, near_values_;
  int64_t steps_at_;  // offset of the values' steps in a cell; 0: there are none
  const Micro* micro_;
  const Cells* block_ = nullptr;
};

}  // namespace KV_ISA
}  // namespace kvloom
