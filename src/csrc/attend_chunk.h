// One tile of query rows against one chunk of KV: visibility, scores, softmax, weighted values.
//
// A chunk is what one softmax partial covers: 512 positions counted from 0 (dense), or 32 pages of a list
// (ragged). Its borders never depend on the rows, so a row always adds the same numbers in the same order.
// Entries that a row does not see take part in nothing: their scores are overwritten and their values are not
// multiplied, not even by 0.
#pragma once

#include "attend_micro.h"

namespace kvloom {
namespace KV_ISA {

constexpr int chunk_pages = 32;
constexpr int chunk_positions = chunk_pages * page_tokens;
constexpr int block_pages = 4;                   // decoded together
constexpr int s_stride = chunk_positions + 16;   // scores of a row; padded so that rows fall in different cache sets
constexpr float empty = -__builtin_huge_valf();  // the maximum over nothing

// Query rows of one sequence that share a KV head: for each position all heads of the group, one after the
// other.
struct Tile {
  int32_t seq, head, first_row, num_positions;
  int32_t page_begin, page_end;    // into page_ids
  int32_t chunk_begin, chunk_end;  // absolute chunk numbers (dense), or from the list's start (ragged)
};

// What a set of rows has gathered: maximum score, sum of weights, weighted sum of values. Not yet divided.
struct State {
  float *m, *l, *o;

  static int64_t floats(int64_t rows, int64_t v_dim) { return rows * (2 + v_dim); }
  static State at(float* base, int64_t rows) { return {base, base + rows, base + 2 * rows}; }
};

// What one position sees of a chunk, a bit per page; `lo` and `hi` bound the entries of pages that it sees in
// part.
struct Sight {
  uint32_t any, full;
  uint8_t lo[chunk_pages], hi[chunk_pages];
};

struct Chunk {
  const uint8_t* cells[chunk_pages];
  int32_t marks[chunk_pages];
  int32_t count;
};

static inline uint32_t bits_below(int n) {
  return n >= 32 ? ~0u : (1u << n) - 1;
}

static inline int32_t first_page_from(const Part& part, int32_t begin, int32_t end, int64_t start) {
  while (begin < end) {
    const int32_t middle = begin + (end - begin) / 2;
    if (part.page_marks[middle] < start)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

static inline void gather(const AttendCall& call, const Tile& tile, int32_t number, Chunk& chunk) {
  const Part& part = call.part;
  int32_t begin, end;
  if (part.ragged) {
    begin = tile.page_begin + number * chunk_pages;
    end = begin + chunk_pages < tile.page_end ? begin + chunk_pages : tile.page_end;
  } else {
    begin = first_page_from(part, tile.page_begin, tile.page_end, (int64_t)number * chunk_positions);
    end = first_page_from(part, begin, tile.page_end, (int64_t)(number + 1) * chunk_positions);
  }
  chunk.count = end - begin;
  for (int32_t i = 0; i < chunk.count; i++) {
    chunk.cells[i] = part.cell(part.page_ids[begin + i], call.layer_slot, tile.head);
    chunk.marks[i] = part.page_marks[begin + i];
  }
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

static inline void see(const Part& part, const Chunk& chunk, int32_t position, Sight& sight) {
  sight.any = sight.full = 0;
  const int64_t oldest = position - part.window + 1;
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
    const int64_t widest = part.k_dim > part.v_dim ? part.k_dim : part.v_dim;
    const int64_t floats = rows * (part.k_dim + s_stride) + block_pages * page_tokens * widest +
                           2 * (State::floats(rows, part.v_dim) + 16);
    return floats * 4 + positions * (int64_t)sizeof(Sight);
  }
  static Desk at(void* base, int64_t rows, const Part& part) {
    const int64_t widest = part.k_dim > part.v_dim ? part.k_dim : part.v_dim;
    Desk desk;
    desk.q = (float*)base;
    desk.s = desk.q + rows * part.k_dim;
    desk.decoded = desk.s + rows * s_stride;
    desk.state = desk.decoded + block_pages * page_tokens * widest;
    desk.partial = desk.state + State::floats(rows, part.v_dim) + 16;
    desk.sights = (Sight*)(desk.partial + State::floats(rows, part.v_dim) + 16);
    return desk;
  }
};

// Rows that go through the micro-kernels together, and the pages that some or all of them see.
struct Group {
  int32_t first, count;
  uint32_t any, full;
};

class ChunkPass {
 public:
  ChunkPass(const AttendCall& call, const Tile& tile, const Desk& desk)
      : part_(call.part), desk_(desk), heads_(call.q_heads / call.part.heads), rows_(tile.num_positions * heads_) {
    const int32_t num_groups = (rows_ + max_rows - 1) / max_rows;
    group_rows_ = (rows_ + num_groups - 1) / num_groups;
    stored_ = &micro_for(part_.number);
    in_place_ = part_.number == Number::float32 || num_groups <= 2;
    micro_ = in_place_ ? stored_ : &micro_of<Decoded>;
  }

  int32_t rows() const { return rows_; }

  // Fills `out` with the partial over `chunk`; rows that see nothing get m = empty.
  void run(const Chunk& chunk, const int32_t* positions, State out) {
    chunk_ = &chunk;
    for (int32_t i = 0; i < rows_ / heads_; i++) see(part_, chunk, positions[i], desk_.sights[i]);
    each_block(0, part_.k_dim, [&](const Group& g, int b, int e, const void* decoded) { score(g, b, e, decoded); });
    for (int32_t r = 0; r < rows_; r++) soften(desk_.sights[r / heads_], r, out);
    std::memset(out.o, 0, sizeof(float) * rows_ * part_.v_dim);
    each_block(part_.k_bytes(), part_.v_dim,
               [&](const Group& g, int b, int e, const void* decoded) { mix(g, b, e, decoded, out.o); });
  }

 private:
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
      uint32_t seen = 0;
      for (int32_t i = 0; i < rows_ / heads_; i++) seen |= desk_.sights[i].any;
      if (!(seen & bits_below(end) & ~bits_below(begin))) continue;
      if (!in_place_)
        for (int i = begin; i < end; i++)
          if (seen >> i & 1)
            stored_->decode(chunk_->cells[i] + offset, page_tokens * dim,
                            desk_.decoded + (i - begin) * page_tokens * dim);
      for (int32_t first = 0; first < rows_; first += group_rows_) {
        const Group group = group_at(first);
        body(group, begin, end, in_place_ ? nullptr : desk_.decoded);
      }
    }
  }

  void score(const Group& group, int begin, int end, const void* decoded) const {
    const void* keys[chunk_pages];
    int32_t slots[chunk_pages], count = 0;
    for (int i = begin; i < end; i++) {
      if (!(group.any >> i & 1)) continue;
      keys[count] =
          decoded ? (const float*)decoded + (i - begin) * page_tokens * part_.k_dim : (const void*)chunk_->cells[i];
      slots[count++] = i;
    }
    micro_->score[group.count - 1](desk_.q + group.first * part_.k_dim, part_.k_dim, {keys, slots, count},
                                   desk_.s + group.first * s_stride, s_stride);
  }

  // Scores of one row -> weights, with their maximum and sum.
  void soften(const Sight& sight, int32_t row, State out) const {
    float* s = desk_.s + row * s_stride;
    v16 top = splat(empty);
    for (uint32_t left = sight.any; left; left &= left - 1) {
      const int i = __builtin_ctz(left);
      float* page = s + i * page_tokens;
      if (part_.ragged) store(page, load(page) + load(stored_biases(part_, chunk_->cells[i])));
      if (!(sight.full >> i & 1)) {
        for (int j = 0; j < sight.lo[i]; j++) page[j] = empty;
        for (int j = sight.hi[i]; j < page_tokens; j++) page[j] = empty;
      }
      top = vmax(top, load(page));
    }
    const float highest = fold_max(top);
    const float m = highest == empty ? 0.0f : highest;  // nothing visible, or only NaN: the sum tells
    v16 sum = splat(0.0f);
    for (uint32_t left = sight.any; left; left &= left - 1) {
      float* page = s + __builtin_ctz(left) * page_tokens;
      const v16 p = vexp(load(page) - splat(m));
      store(page, p);
      sum = sum + p;
    }
    out.l[row] = fold_sum(sum);
    out.m[row] = highest == empty && out.l[row] == 0.0f ? empty : m;
  }

  // Adds weight x value. A page that not all rows of the group see whole goes row by row, over what each row
  // sees.
  void mix(const Group& group, int begin, int end, const void* decoded, float* out) const {
    Run runs[chunk_pages];
    int32_t count = 0;
    const int64_t entry = part_.v_dim * (decoded ? 4 : value_bytes(part_.number));
    const auto flush = [&] {
      if (count)
        micro_->mix[group.count - 1](desk_.s + group.first * s_stride, s_stride, runs, count,
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
      flush();
      for (int32_t r = group.first; r < group.first + group.count; r++) {
        const Sight& sight = desk_.sights[r / heads_];
        if (!(sight.any >> i & 1)) continue;
        const Run run{values + sight.lo[i] * entry, i * page_tokens + sight.lo[i], sight.hi[i] - sight.lo[i]};
        micro_->mix[0](desk_.s + r * s_stride, s_stride, &run, 1, out + r * part_.v_dim, part_.v_dim);
      }
    }
    flush();
  }

  const Part& part_;
  const Desk& desk_;
  const int32_t heads_, rows_;
  int32_t group_rows_;
  bool in_place_;
  const Micro *stored_, *micro_;
  const Chunk* chunk_ = nullptr;
};

}  // namespace KV_ISA
}  // namespace kvloom
