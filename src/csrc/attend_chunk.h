// One tile of query rows against one chunk of KV: visibility, scores, softmax, weighted values.
//
// A chunk's borders never depend on the rows, so a row always adds the same numbers in the same order. Entries that a
// row does not see take part in nothing: their scores are overwritten and their values are not multiplied, not even
// by 0.
#pragma once

#include "attend_micro.h"
#include "attend_state.h"

namespace kvloom {
namespace KV_ISA {

constexpr int block_pages = 4;      // decoded together
constexpr int in_place_groups = 2;  // up to so many, pages are decoded by each group as it goes

// What one position sees of a chunk, a bit per page; `lo` and `hi` bound the entries of pages that it sees in
// part.
struct Sight {
  uint32_t any, full;
  uint8_t lo[chunk_pages], hi[chunk_pages];
};

// A chunk's pages in memory, and what is wanted after them.
struct Cells {
  const uint8_t* cells[chunk_pages];
  int32_t marks[chunk_pages];
  int32_t count;
  const uint8_t* after;
};

static inline uint32_t bits_below(int n) {
  return (1u << n) - 1;
}

static inline const uint8_t* cell_of(const AttendCall& call, const Item& item, int32_t page) {
  return call.part.cell(call.part.page_ids[page], call.layer_slot, item.head);
}

// Chunk number c of the work; `last`: nothing is known of what comes after.
static inline void gather(const AttendCall& call, const Item& item, int32_t c, Cells& chunk) {
  const Chunk& pages = call.work.chunks[c];
  chunk.count = pages.page_end - pages.page_begin;
  for (int32_t i = 0; i < chunk.count; i++) {
    chunk.cells[i] = cell_of(call, item, pages.page_begin + i);
    chunk.marks[i] = call.part.page_marks[pages.page_begin + i];
  }
  chunk.after = c + 1 < item.chunk_end ? cell_of(call, item, call.work.chunks[c + 1].page_begin) : chunk.cells[0];
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

// The working memory of one tile, laid out in one block.
struct Desk {
  float *q, *s, *decoded, *state, *partial;
  Sight* sights;

  static int64_t bytes(int64_t rows, int64_t positions, const Part& part) {
    const int64_t floats = rows * (part.k_dim + s_stride) + decoded_floats(part) + 2 * state_floats(rows, part);
    return floats * 4 + positions * (int64_t)sizeof(Sight);
  }
  static Desk at(void* base, int64_t rows, const Part& part) {
    Desk desk;
    desk.q = (float*)base;
    desk.s = desk.q + rows * part.k_dim;
    desk.decoded = desk.s + rows * s_stride;
    desk.state = desk.decoded + decoded_floats(part);
    desk.partial = desk.state + state_floats(rows, part);
    desk.sights = (Sight*)(desk.partial + state_floats(rows, part));
    return desk;
  }

 private:
  static int64_t decoded_floats(const Part& part) {
    return block_pages * page_tokens * (part.k_dim > part.v_dim ? part.k_dim : part.v_dim);
  }
  static int64_t state_floats(int64_t rows, const Part& part) {
    return (State::floats(rows, part.v_dim) + 15) / 16 * 16;
  }
};

// Rows that go through the micro-kernels together, and the pages that some or all of them see.
struct Group {
  int32_t first, count;
  uint32_t any, full;
};

class ChunkPass {
 public:
  ChunkPass(const AttendCall& call, const Item& item, const Desk& desk)
      : part_(call.part), desk_(desk), heads_(call.q_heads / call.part.heads), rows_(item.row_count * heads_) {
    const int32_t num_groups = (rows_ + max_rows - 1) / max_rows;
    group_rows_ = (rows_ + num_groups - 1) / num_groups;
    stored_ = &micro_for(part_.number);
    in_place_ = part_.number == Number::float32 || num_groups <= in_place_groups;
    micro_ = in_place_ ? stored_ : &micro_of<Decoded>;
    for (int32_t r = 0; r < rows_; r++) pack_query(call, item, r);
  }

  int32_t rows() const { return rows_; }

  // Fills `out` with the partial over `chunk` of rows at `positions[row_ids[...]]`; rows that see nothing get m =
  // empty.
  void run(const Cells& chunk, const int32_t* positions, const int32_t* row_ids, State out) {
    chunk_ = &chunk;
    seen_ = 0;
    for (int32_t i = 0; i < rows_ / heads_; i++) {
      see(part_, chunk, positions[row_ids[i]], desk_.sights[i]);
      seen_ |= desk_.sights[i].any;
    }
    each_block(0, part_.k_dim, [&](const Group& g, int b, int e, const float* decoded) { score(g, b, e, decoded); });
    for (int32_t r = 0; r < rows_; r++) soften(desk_.sights[r / heads_], r, out);
    std::memset(out.o, 0, sizeof(float) * rows_ * part_.v_dim);
    each_block(part_.k_bytes(), part_.v_dim,
               [&](const Group& g, int b, int e, const float* decoded) { mix(g, b, e, decoded, out.o); });
  }

 private:
  // Row r's query, scaled, goes to where its group's inner loop reads it: one component of all rows after the other.
  void pack_query(const AttendCall& call, const Item& item, int32_t r) {
    const int64_t row = call.work.row_ids[item.row_begin + r / heads_];
    const float* from = call.q + (row * call.q_heads + item.head * heads_ + r % heads_) * part_.k_dim;
    const int32_t first = r - r % group_rows_;
    const int32_t count = rows_ - first < group_rows_ ? rows_ - first : group_rows_;
    float* to = desk_.q + first * part_.k_dim + r - first;
    const float scale = call.scale * log2_e;
    for (int32_t d = 0; d < part_.k_dim; d++) to[d * count] = from[d] * scale;
  }

  Group group_at(int32_t first) const {
    Group g{first, rows_ - first < group_rows_ ? rows_ - first : group_rows_, 0, ~0u};
    for (int32_t i = first / heads_; i <= (first + g.count - 1) / heads_; i++)
      g.any |= desk_.sights[i].any, g.full &= desk_.sights[i].full;
    return g;
  }

  // Calls body(group, first page, past the last page, decoded pages or null) for every group. Pages are read
  // as they are stored when few rows need them; else a few at a time are decoded first, and all groups read
  // those.
  template <class Body>
  void each_block(int64_t offset, int32_t dim, const Body& body) {
    const int step = in_place_ ? chunk_pages : block_pages;
    for (int begin = 0; begin < chunk_->count; begin += step) {
      const int end = begin + step < chunk_->count ? begin + step : chunk_->count;
      if (!(seen_ & bits_below(end) & ~bits_below(begin))) continue;
      if (!in_place_) decode(offset, dim, begin, end);
      for (int32_t first = 0; first < rows_; first += group_rows_) {
        if (!in_place_) fetch_slice(offset, dim, end, first);
        body(group_at(first), begin, end, in_place_ ? nullptr : desk_.decoded);
      }
    }
  }

  void decode(int64_t offset, int32_t dim, int begin, int end) const {
    for (int i = begin; i < end; i++)
      if (seen_ >> i & 1)
        stored_->decode(chunk_->cells[i] + offset, page_tokens * dim, desk_.decoded + (i - begin) * page_tokens * dim);
  }

  // Asks for this group's share of the block that starts at page `begin`, so that it arrives while the groups compute.
  void fetch_slice(int64_t offset, int32_t dim, int begin, int32_t first) const {
    if (begin >= chunk_->count) {  // keys are followed by values
      if (offset) return;
      begin = 0, offset = part_.k_bytes(), dim = part_.v_dim;
    }
    const int64_t bytes = page_tokens * dim * value_bytes(part_.number);
    const int64_t from = bytes * first / rows_ / 64 * 64, to = bytes * (first + group_rows_) / rows_;
    for (int i = begin; i < begin + block_pages && i < chunk_->count; i++)
      for (int64_t b = from; b < to && b < bytes; b += 64) __builtin_prefetch(chunk_->cells[i] + offset + b);
  }

  void score(const Group& group, int begin, int end, const float* decoded) const {
    const void* keys[chunk_pages + KeyPages::ahead];
    int32_t slots[chunk_pages], count = 0;
    for (int i = begin; i < end; i++) {
      if (!(group.any >> i & 1)) continue;
      keys[count] = decoded ? decoded + (i - begin) * page_tokens * part_.k_dim : (const void*)chunk_->cells[i];
      slots[count++] = i;
    }
    for (int i = 0; i < KeyPages::ahead; i++)
      keys[count + i] = chunk_->cells[i < chunk_->count ? i : 0] + part_.k_bytes();
    micro_->score[group.count - 1](desk_.q + group.first * part_.k_dim, part_.k_dim, {keys, slots, count},
                                   desk_.s + group.first * s_stride);
  }

  // Scores of one row -> weights, with their maximum and sum.
  void soften(const Sight& sight, int32_t row, State out) const {
    float* s = desk_.s + row * s_stride;
    if (part_.ragged) add_biases(sight.any, s);
    for (uint32_t left = sight.any & ~sight.full; left; left &= left - 1) {
      const int i = __builtin_ctz(left);
      for (int j = 0; j < sight.lo[i]; j++) s[i * page_tokens + j] = empty;
      for (int j = sight.hi[i]; j < page_tokens; j++) s[i * page_tokens + j] = empty;
    }
    v16 top[2] = {splat(empty), splat(empty)};
    each_stretch(sight.any, [&](int begin, int end) {
      int i = begin;
      for (; i + 2 <= end; i += 2)
        top[0] = vmax(top[0], load(s + i * page_tokens)), top[1] = vmax(top[1], load(s + (i + 1) * page_tokens));
      if (i < end) top[0] = vmax(top[0], load(s + i * page_tokens));
    });
    const float highest = fold_max(vmax(top[0], top[1]));
    const float m = highest == empty ? 0.0f : highest;  // nothing visible, or only NaN: the sum tells
    v16 sum = splat(0.0f);
    each_stretch(sight.any, [&](int begin, int end) {
      for (int i = begin; i < end; i++) {
        const v16 p = vexp2(load(s + i * page_tokens) - splat(m));
        store(s + i * page_tokens, p);
        sum = sum + p;
      }
    });
    out.l[row] = fold_sum(sum);
    out.m[row] = highest == empty && out.l[row] == 0.0f ? empty : m;
  }

  void add_biases(uint32_t pages, float* s) const {
    for (; pages; pages &= pages - 1) {
      float* page = s + __builtin_ctz(pages) * page_tokens;
      store(page, fma(load(stored_biases(part_, chunk_->cells[__builtin_ctz(pages)])), splat(log2_e), load(page)));
    }
  }

  // Calls body(begin, end) for every stretch of set bits.
  template <class Body>
  static void each_stretch(uint32_t bits, const Body& body) {
    while (bits) {
      const int begin = __builtin_ctz(bits), end = begin + __builtin_ctz(~(bits >> begin));
      body(begin, end);
      bits &= ~bits_below(end);
    }
  }

  // Adds weight x value. Entries of a page that not all rows of the group see go row by row.
  void mix(const Group& group, int begin, int end, const float* decoded, float* out) const {
    Run runs[chunk_pages];
    int32_t count = 0;
    const int64_t entry = part_.v_dim * (decoded ? 4 : value_bytes(part_.number));
    const auto flush = [&] {
      if (count)
        micro_->mix[group.count - 1](desk_.s + group.first * s_stride, {runs, count, chunk_->after},
                                     out + group.first * part_.v_dim, part_.v_dim);
      count = 0;
    };
    for (int i = begin; i < end; i++) {
      if (!(group.any >> i & 1)) continue;
      const uint8_t* values =
          decoded ? (const uint8_t*)decoded + (i - begin) * page_tokens * entry : chunk_->cells[i] + part_.k_bytes();
      if (group.full >> i & 1) {
        runs[count++] = {values, i * page_tokens, page_tokens};
        continue;
      }
      int lo = 0, hi = page_tokens;  // what all rows see
      for (int32_t n = group.first / heads_; n <= (group.first + group.count - 1) / heads_; n++) {
        const bool any = desk_.sights[n].any >> i & 1;
        lo = any && desk_.sights[n].lo[i] > lo ? desk_.sights[n].lo[i] : lo;
        hi = any && desk_.sights[n].hi[i] < hi ? desk_.sights[n].hi[i] : any ? hi : 0;
      }
      if (lo >= hi) lo = hi = page_tokens;
      flush();
      mix_alone(group, i, values, entry, 0, lo, out);
      if (lo < hi) runs[count++] = {values + lo * entry, i * page_tokens + lo, hi - lo};
      flush();
      mix_alone(group, i, values, entry, hi, page_tokens, out);
    }
    flush();
  }

  // Entries begin .. end of page i, as far as each row sees them.
  void mix_alone(const Group& group, int i, const uint8_t* values, int64_t entry, int begin, int end,
                 float* out) const {
    for (int32_t r = group.first; r < group.first + group.count; r++) {
      const Sight& sight = desk_.sights[r / heads_];
      if (!(sight.any >> i & 1)) continue;
      const int lo = sight.lo[i] > begin ? sight.lo[i] : begin, hi = sight.hi[i] < end ? sight.hi[i] : end;
      if (lo >= hi) continue;
      const Run run{values + lo * entry, i * page_tokens + lo, hi - lo};
      micro_->mix[0](desk_.s + r * s_stride, {&run, 1, run.values}, out + r * part_.v_dim, part_.v_dim);
    }
  }

  const Part& part_;
  const Desk& desk_;
  const int32_t heads_, rows_;
  int32_t group_rows_;
  uint32_t seen_ = 0;
  bool in_place_;
  const Micro *stored_, *micro_;
  const Cells* chunk_ = nullptr;
};

}  // namespace KV_ISA
}  // namespace kvloom
