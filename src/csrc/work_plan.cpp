#include "work_plan.h"

#include <algorithm>
#include <numeric>

namespace kvloom {
namespace {

constexpr int tile_rows = 240;   // at most: fewer means that pages are decoded more often
constexpr int shared_rows = 64;  // sequences with more rows in the step gain nothing from sharing a tile
constexpr int fineness = 4;      // an item above 1 / (fineness * threads) of the work is split into its blocks

// A sequence's list, and how far that of the next head or layer slot lies behind it: see KvBlock.
struct List {
  int32_t sequence;
  int64_t index;
  int32_t step;
};

// Pages of a list, as places in Part::page_ids.
struct Pages {
  int32_t begin, end;
};

// Rows row_begin .. row_end of the row ids, over blocks block_begin .. block_end.
struct Tile {
  int32_t row_begin, row_end, block_begin, block_end;
  int32_t blocks() const { return block_end - block_begin; }
};

// A tile together with the heads it stands for, and whether its blocks are its rows' first, or even all.
struct Unit {
  Tile tile;
  int32_t head_begin, head_end;
  bool first, all;
};

}  // namespace

int32_t first_page_from(const Part& part, int32_t begin, int32_t end, int64_t start) {
  return (int32_t)(std::lower_bound(part.page_starts + begin, part.page_starts + end, start,
                                    [](int32_t first, int64_t wanted) { return first < wanted; }) -
                   part.page_starts);
}

class Cutter {
 public:
  Cutter(WorkPlan& out, const Rows& rows, const Part& part, const Continuation& after, int32_t group, int32_t threads)
      : out_(out),
        rows_(rows),
        part_(part),
        after_(after),
        group_(group),
        tile_positions_(std::max(1, tile_rows / group)),
        threads_(threads) {}

  // Cuts what heads head_begin .. head_end ask of the lists `list_of(sequence)`.
  template <class ListOf>
  void cut(int32_t head_begin, int32_t head_end, const ListOf& list_of) {
    head_begin_ = head_begin, head_end_ = head_end;
    std::vector<Tile> few;
    for (int32_t b = 0; b < rows_.seqs; b++) {
      const int32_t begin = rows_.seq_rows[b], end = rows_.seq_rows[b + 1];
      if (begin == end) continue;
      if (end - begin <= shared_rows)
        few.push_back(place(list_of(b), begin, end));
      else
        each_tile(begin, end, [&](int32_t first, int32_t last) { add(place(list_of(b), first, last), true, true); });
    }
    spread(few.data(), few.data() + few.size(), 0);
  }

  // Turns the units into items, the largest first, and notes where their partials go.
  void settle() {
    int64_t total = 0;
    for (const Unit& unit : units_) total += cost(unit.tile) * (unit.head_end - unit.head_begin);
    for (const Unit& unit : units_) {
      const bool split = threads_ > 1 && unit.tile.blocks() > 1 && cost(unit.tile) * fineness * threads_ > total;
      for (int32_t c = unit.tile.block_begin; c < unit.tile.block_end; c += split ? 1 : unit.tile.blocks())
        for (int32_t head = unit.head_begin; head < unit.head_end; head++)
          add_item(unit, head, c, split ? c + 1 : unit.tile.block_end, split);
      if (unit.tile.blocks() == 0)
        for (int32_t head = unit.head_begin; head < unit.head_end; head++) add_item(unit, head, 0, 0, false);
    }
    std::stable_sort(out_.items_.begin(), out_.items_.end(),
                     [&](const Item& a, const Item& b) { return cost(tile_of(a)) > cost(tile_of(b)); });
    share_out();
    join();
  }

 private:
  // A tile over all pages of a list that some of the rows may see.
  Tile place(const List& list, int32_t row_begin, int32_t row_end) {
    const int32_t first_id = (int32_t)out_.row_ids_.size(), first_block = (int32_t)out_.blocks_.size();
    for (int32_t row = row_begin; row < row_end; row++) out_.row_ids_.push_back(row);
    const bool aligned = part_.lists == Lists::by_sequence && part_.entries == Entries::contiguous;
    if (aligned) {
      const Pages seen = seen_pages(part_, list.index, row_begin, row_end);
      each_aligned(part_, seen, [&](int32_t begin, int32_t end) { out_.blocks_.push_back({begin, end, list.step}); });
    } else {
      cut_list(list, row_begin, row_end);
    }
    return {first_id, (int32_t)out_.row_ids_.size(), first_block, (int32_t)out_.blocks_.size()};
  }

  // Those of a list of contiguous pages that some of the rows may see.
  Pages seen_pages(const Part& part, int64_t list, int32_t row_begin, int32_t row_end) const {
    const int64_t shift = part.shift_of(list);
    const int64_t oldest = rows_.positions[row_begin] - shift - part.window + 1;
    Pages seen{part.list_bounds[list], part.list_bounds[list + 1]};
    seen.begin = first_page_from(part, seen.begin, seen.end, oldest + 1 - page_tokens);
    seen.end = first_page_from(part, seen.begin, seen.end, rows_.positions[row_end - 1] - shift + 1);
    return seen;
  }

  // Calls body(begin, end) for those that lie between the same multiples of kv_block_positions.
  template <class Body>
  static void each_aligned(const Part& part, Pages pages, const Body& body) {
    while (pages.begin < pages.end) {
      const int64_t next = (part.page_starts[pages.begin] / kv_block_positions + 1) * (int64_t)kv_block_positions;
      const int32_t stop = first_page_from(part, pages.begin, std::min(pages.begin + kv_block_pages, pages.end), next);
      body(pages.begin, stop);
      pages.begin = stop;
    }
  }

  // The blocks of a list, and of the table that continues it. Counted back from where the table begins, a list that
  // holds everything has the blocks that a table would have.
  void cut_list(const List& list, int32_t row_begin, int32_t row_end) {
    const Pages own{part_.list_bounds[list.index], part_.list_bounds[list.index + 1]};
    const int32_t stop = after_.stops ? after_.stops[list.sequence] : 0;
    const int32_t in_last = (stop % kv_block_positions + page_tokens - 1) / page_tokens;  // pages of the shared block
    int32_t begin = own.begin, end = own.end;
    if (stop) end -= std::min(in_last, end - begin);
    const int32_t first = stop ? (end - begin) % kv_block_pages : 0;
    if (first) out_.blocks_.push_back({begin, begin + first, list.step});
    for (begin += first; begin < end; begin += kv_block_pages)
      out_.blocks_.push_back({begin, std::min(begin + kv_block_pages, end), list.step});
    KvBlock shared{end, own.end, list.step};
    if (after_.table) {
      const Part& table = *after_.table;
      each_aligned(table, seen_pages(table, list.sequence, row_begin, row_end), [&](int32_t first, int32_t last) {
        if (meet(stop, table.page_starts[first])) {
          shared.table_begin = first, shared.table_end = last;
          return;
        }
        push(shared);
        shared = {own.end, own.end, list.step, first, last};
      });
    }
    push(shared);
  }

  // Whether lists up to `stop` end in the block of a table's pages from position `start` on, none of which comes
  // before.
  static bool meet(int64_t stop, int64_t start) {
    return start / page_tokens >= stop / page_tokens && start / kv_block_positions == (stop - 1) / kv_block_positions;
  }

  void push(const KvBlock& block) {
    if (block.count()) out_.blocks_.push_back(block);
  }

  // Calls body(first, last) for pieces of begin .. end of at most tile_positions_, all about equally long, and as many
  // for every thread.
  template <class Body>
  void each_tile(int32_t begin, int32_t end, const Body& body) const {
    int32_t pieces = (end - begin + tile_positions_ - 1) / tile_positions_;
    const int32_t fair = threads_ / std::gcd(threads_, head_end_ - head_begin_);  // heads make items too
    if (pieces > 1) pieces = (pieces + fair - 1) / fair * fair;
    const int32_t step = (end - begin + pieces - 1) / pieces;
    for (int32_t first = begin; first < end; first += step) body(first, std::min(first + step, end));
  }

  void add(const Tile& tile, bool first, bool all) { units_.push_back({tile, head_begin_, head_end_, first, all}); }

  void add_pieces(const Tile& tile, bool first, bool all) {
    each_tile(tile.row_begin, tile.row_end,
              [&](int32_t begin, int32_t end) { add({begin, end, tile.block_begin, tile.block_end}, first, all); });
  }

  // -1, 0 or 1: an order of the blocks number `depth` of two tiles; equal when they are the same pages.
  int compare(const Tile& a, const Tile& b, int32_t depth) const {
    if (a.blocks() <= depth || b.blocks() <= depth) return (a.blocks() > depth) - (b.blocks() > depth);
    const KvBlock &x = out_.blocks_[a.block_begin + depth], &y = out_.blocks_[b.block_begin + depth];
    if (x.own() != y.own()) return x.own() < y.own() ? -1 : 1;
    if (x.count() != y.count()) return x.count() < y.count() ? -1 : 1;
    const int32_t lists = (x.list_step || y.list_step) && x.own() ? part_.slots * part_.heads : 1;
    for (int32_t n = 0; n < lists; n++)
      if (const int found =
              order(part_, x.page_begin + (int64_t)n * x.list_step, y.page_begin + (int64_t)n * y.list_step, x.own()))
        return found;
    return after_.table ? order(*after_.table, x.table_begin, y.table_begin, x.count() - x.own()) : 0;
  }

  // The same of `count` pages of a part from `a` and from `b` on.
  static int order(const Part& part, int64_t a, int64_t b, int32_t count) {
    if (const int found = order(part.page_ids + a, part.page_ids + b, count)) return found;
    if (part.page_starts)
      if (const int found = order(part.page_starts + a, part.page_starts + b, count)) return found;
    return part.page_masks ? order(part.page_masks + a, part.page_masks + b, count) : 0;
  }

  template <class Number>
  static int order(const Number* a, const Number* b, int32_t count) {
    const auto differ = std::mismatch(a, a + count, b);
    return differ.first == a + count ? 0 : *differ.first < *differ.second ? -1 : 1;
  }

  // Tiles begin .. end agree in their first `depth` blocks, which are dealt with. Those that agree further go on
  // together.
  void spread(Tile* begin, Tile* end, int32_t depth) {
    std::stable_sort(begin, end, [&](const Tile& a, const Tile& b) { return compare(a, b, depth) < 0; });
    while (begin < end) {
      Tile* stop = begin + 1;
      while (stop < end && compare(*begin, *stop, depth) == 0) stop++;
      if (begin->blocks() <= depth) {
        for (; begin < stop; begin++)
          if (depth == 0) add_pieces(*begin, true, true);
      } else if (stop == begin + 1) {
        const Tile rest{begin->row_begin, begin->row_end, begin->block_begin + depth, begin->block_end};
        add_pieces(rest, depth == 0, depth == 0);
      } else {
        go_together(begin, stop, depth);
      }
      begin = stop;
    }
  }

  void go_together(Tile* begin, Tile* end, int32_t depth) {
    int32_t until = depth + 1;
    const auto agrees = [&](const Tile& tile) { return compare(*begin, tile, until) == 0; };
    while (until < begin->blocks() && std::all_of(begin + 1, end, agrees)) until++;
    const int32_t first_id = (int32_t)out_.row_ids_.size();
    bool all = depth == 0;
    for (Tile* tile = begin; tile < end; tile++) {
      for (int32_t id = tile->row_begin; id < tile->row_end; id++) out_.row_ids_.push_back(out_.row_ids_[id]);
      all = all && tile->blocks() == until;
    }
    const Tile together{first_id, (int32_t)out_.row_ids_.size(), begin->block_begin + depth,
                        begin->block_begin + until};
    add_pieces(together, depth == 0, all);
    spread(begin, end, until);
  }

  int64_t pages(int32_t block_begin, int32_t block_end) const {
    int64_t count = 0;
    for (int32_t c = block_begin; c < block_end; c++) count += out_.blocks_[c].count();
    return count;
  }
  int64_t cost(const Tile& tile) const {
    return (pages(tile.block_begin, tile.block_end) + 1) * (tile.row_end - tile.row_begin);
  }
  static Tile tile_of(const Item& item) {
    return {item.row_begin, item.row_begin + item.row_count, item.block_begin, item.block_end};
  }

  void add_item(const Unit& unit, int32_t head, int32_t block_begin, int32_t block_end, bool split) {
    const int32_t row_count = unit.tile.row_end - unit.tile.row_begin, state_rows = row_count * group_;
    const Outcome outcome = split        ? Outcome::apart
                            : unit.all   ? Outcome::finish
                            : unit.first ? Outcome::fold
                                         : Outcome::apart;
    out_.items_.push_back({outcome, head, unit.tile.row_begin, row_count, block_begin, block_end, out_.state_rows_});
    out_.kv_bytes_ += pages(block_begin, block_end) * (part_.k_bytes() + part_.v_bytes());
    if (outcome == Outcome::finish) return;
    const int32_t states = outcome == Outcome::fold ? 1 : block_end - block_begin;
    for (int32_t i = 0; i < row_count; i++) {
      const int32_t join = out_.row_ids_[unit.tile.row_begin + i] * part_.heads + head;
      out_.join_items_[join]++;
      for (int32_t s = 0; s < states; s++)
        deliveries_.push_back({join, {out_.state_rows_ + s * (int64_t)state_rows, state_rows, i * group_}});
    }
    out_.state_rows_ += states * (int64_t)state_rows;
  }

  // Shares get smaller towards the end of the work, so that all threads finish at about the same time.
  void share_out() {
    const std::vector<Item>& items = out_.items_;
    int64_t left = 0;
    for (const Item& item : items) left += cost(tile_of(item));
    out_.shares_.push_back(0);
    for (size_t i = 0; i < items.size();) {
      const int64_t most = threads_ > 1 ? left / (2 * threads_) : left;
      int64_t taken = 0;
      do taken += cost(tile_of(items[i++]));
      while (i < items.size() && taken + cost(tile_of(items[i])) <= most);
      left -= taken;
      out_.shares_.push_back((int32_t)i);
    }
  }

  // Sorts the sources by join; within one they are in the order of the blocks already.
  void join() {
    for (const Delivery& delivery : deliveries_) out_.join_sources_[delivery.join + 1]++;
    for (size_t j = 1; j < out_.join_sources_.size(); j++) out_.join_sources_[j] += out_.join_sources_[j - 1];
    std::vector<int32_t> next(out_.join_sources_.begin(), out_.join_sources_.end() - 1);
    out_.sources_.resize(deliveries_.size());
    for (const Delivery& delivery : deliveries_) out_.sources_[next[delivery.join]++] = delivery.source;
  }

  struct Delivery {
    int32_t join;
    Source source;
  };

  WorkPlan& out_;
  const Rows& rows_;
  const Part& part_;
  const Continuation& after_;
  const int32_t group_, tile_positions_, threads_;
  int32_t head_begin_ = 0, head_end_ = 0;
  std::vector<Unit> units_;
  std::vector<Delivery> deliveries_;
};

WorkPlan::WorkPlan(const Rows& rows, const Part& part, const Continuation& after, int32_t layer_slot, int32_t q_heads,
                   int32_t threads)
    : q_heads_(q_heads), positions_(rows.positions), page_ids_(part.page_ids) {
  join_sources_.resize((size_t)rows.rows * part.heads + 1);
  join_items_.resize((size_t)rows.rows * part.heads);
  Cutter cutter(*this, rows, part, after, q_heads / part.heads, threads);
  if (part.even) {
    cutter.cut(0, part.heads, [&](int32_t b) {
      const int64_t list = part.list_of(b, 0, 0);
      const bool one = part.lists == Lists::by_sequence;
      return List{b, list, one ? 0 : part.list_bounds[list + 1] - part.list_bounds[list]};
    });
  } else {
    for (int32_t head = 0; head < part.heads; head++)
      cutter.cut(head, head + 1, [&](int32_t b) { return List{b, part.list_of(b, layer_slot, head), 0}; });
  }
  cutter.settle();
}

Work WorkPlan::work() const {
  return {items_.data(),
          shares_.data(),
          row_ids_.data(),
          blocks_.data(),
          sources_.data(),
          join_sources_.data(),
          join_items_.data(),
          (int64_t)shares_.size() - 1,
          (int64_t)join_items_.size(),
          state_rows_};
}

}  // namespace kvloom
