// The attend kernels: how a call is cut into work, and how partial results are put together.
//
//     item = (tile of query rows, all of its chunks)      when there are many tiles
//     item = (tile of query rows, one chunk)              when a tile is a large share of the call (long
//     decodes)
//
// Either way a row's chunks are merged from the left, one by one, so the cut does not show in the result.
#include "attend.h"

#include "attend_chunk.h"
#include "parallel.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {
namespace {

constexpr int tile_rows = 60;  // a multiple of max_rows; scores of a tile then take 125 KB
constexpr int share = 4;       // a tile above 1 / (share * threads) of the call's work is split

struct Item {
  Tile tile;
  int64_t partials;  // offset of the tile's partials in floats, when it is split
  bool split;
  int32_t chunk_begin, chunk_end;
};

int32_t tile_positions(const AttendCall& call) {
  const int32_t positions = tile_rows / (call.q_heads / call.part.heads);
  return positions > 0 ? positions : 1;
}

// The pages that some row of the tile may see, and the chunks they fall into.
Tile place_tile(const AttendCall& call, int32_t seq, int32_t head, int32_t first_row, int32_t count) {
  const Part& part = call.part;
  const int64_t list = part.ragged ? ((int64_t)call.layer_slot * call.rows.seqs + seq) * part.heads + head : seq;
  Tile tile{seq, head, first_row, count, part.page_lists[list], part.page_lists[list + 1], 0, 0};
  if (part.ragged) {
    tile.chunk_end = (tile.page_end - tile.page_begin + chunk_pages - 1) / chunk_pages;
    return tile;
  }
  const int64_t oldest = call.rows.positions[first_row] - part.window + 1;
  const int64_t newest = call.rows.positions[first_row + count - 1];
  tile.page_begin = first_page_from(part, tile.page_begin, tile.page_end, oldest - page_tokens + 1);
  tile.page_end = first_page_from(part, tile.page_begin, tile.page_end, newest + 1);
  if (tile.page_begin < tile.page_end) {
    tile.chunk_begin = part.page_marks[tile.page_begin] / chunk_positions;
    tile.chunk_end = part.page_marks[tile.page_end - 1] / chunk_positions + 1;
  }
  return tile;
}

int64_t work(const Tile& tile) {
  return (int64_t)tile.num_positions * (tile.page_end - tile.page_begin + 1);
}

// Calls body(tile) for every tile of the call, those that see most first.
template <class Body>
void each_tile(const AttendCall& call, const Body& body) {
  const int32_t step = tile_positions(call);
  for (int32_t b = 0; b < call.rows.seqs; b++) {
    const int32_t begin = call.rows.seq_rows[b], end = call.rows.seq_rows[b + 1];
    for (int32_t i = (end - begin + step - 1) / step - 1; i >= 0; i--) {
      const int32_t first = begin + i * step, count = end - first < step ? end - first : step;
      for (int32_t head = 0; head < call.part.heads; head++) body(place_tile(call, b, head, first, count));
    }
  }
}

void pack_queries(const AttendCall& call, const Tile& tile, float* q) {
  const int32_t group = call.q_heads / call.part.heads, dim = call.part.k_dim;
  for (int32_t i = 0; i < tile.num_positions; i++) {
    const float* from = call.q + ((int64_t)(tile.first_row + i) * call.q_heads + tile.head * group) * dim;
    float* to = q + (int64_t)i * group * dim;
    for (int32_t d = 0; d < group * dim; d += 16) store(to + d, load(from + d) * splat(call.scale));
  }
}

float exp_of(float x) {
  float lanes[16];
  store(lanes, vexp(splat(x)));
  return lanes[0];
}

// into := into + from, over disjoint sets of entries.
void merge_states(State into, State from, int32_t rows, int32_t v_dim) {
  for (int32_t r = 0; r < rows; r++) {
    if (from.m[r] == empty) continue;
    float *o = into.o + (int64_t)r * v_dim, *more = from.o + (int64_t)r * v_dim;
    if (into.m[r] == empty) {
      into.m[r] = from.m[r], into.l[r] = from.l[r];
      std::memcpy(o, more, sizeof(float) * v_dim);
      continue;
    }
    const float m = into.m[r] > from.m[r] ? into.m[r] : from.m[r];
    const float a = exp_of(into.m[r] - m), b = exp_of(from.m[r] - m);
    into.m[r] = m;
    into.l[r] = into.l[r] * a + from.l[r] * b;
    for (int32_t d = 0; d < v_dim; d += 16) store(o + d, load(o + d) * splat(a) + load(more + d) * splat(b));
  }
}

// Divides one row's state and writes it, or merges it into what is there.
void finish_row(float m, float l, const float* o, float* out, float* lse, int32_t v_dim, bool merge) {
  const bool nothing = m == empty;
  if (merge && nothing) return;
  float keep = 0.0f, take = nothing ? 0.0f : 1.0f / l, total = nothing ? empty : m + __builtin_logf(l);
  if (merge && *lse != empty) {
    const float top = *lse > total ? *lse : total;
    const float old_weight = exp_of(*lse - top), new_weight = exp_of(total - top);
    keep = old_weight / (old_weight + new_weight);
    take *= new_weight / (old_weight + new_weight);
    total = top + __builtin_logf(old_weight + new_weight);
    for (int32_t d = 0; d < v_dim; d += 16) store(out + d, load(out + d) * splat(keep) + load(o + d) * splat(take));
  } else if (nothing) {
    std::memset(out, 0, sizeof(float) * v_dim);
  } else {
    for (int32_t d = 0; d < v_dim; d += 16) store(out + d, load(o + d) * splat(take));
  }
  *lse = total;
}

void finish(const AttendCall& call, const Tile& tile, State state) {
  const int32_t group = call.q_heads / call.part.heads, v_dim = call.part.v_dim;
  for (int32_t r = 0; r < tile.num_positions * group; r++) {
    const int64_t at = (int64_t)(tile.first_row + r / group) * call.q_heads + tile.head * group + r % group;
    finish_row(state.m[r], state.l[r], state.o + (int64_t)r * v_dim, call.out + at * v_dim, call.lse + at, v_dim,
               call.merge);
  }
}

void clear(State state, int32_t rows) {
  for (int32_t r = 0; r < rows; r++) state.m[r] = empty;
}

void run_item(const AttendCall& call, const Item& item, float* partials) {
  const int32_t max_positions = tile_positions(call);
  const int64_t max_tile = (int64_t)max_positions * (call.q_heads / call.part.heads);
  const Desk desk =
      Desk::at(scratch(Scratch::tile, Desk::bytes(max_tile, max_positions, call.part)), max_tile, call.part);
  ChunkPass pass(call, item.tile, desk);
  const int32_t rows = pass.rows();
  const State state = State::at(desk.state, rows), partial = State::at(desk.partial, rows);
  pack_queries(call, item.tile, desk.q);
  clear(state, rows);
  for (int32_t number = item.chunk_begin; number < item.chunk_end; number++) {
    Chunk chunk;
    gather(call, item.tile, number, chunk);
    const int64_t offset = item.partials + (number - item.tile.chunk_begin) * State::floats(rows, call.part.v_dim);
    const State out = item.split ? State::at(partials + offset, rows) : partial;
    if (chunk.count == 0)
      clear(out, rows);
    else
      pass.run(chunk, call.rows.positions + item.tile.first_row, out);
    if (!item.split) merge_states(state, partial, rows, call.part.v_dim);
  }
  if (!item.split) finish(call, item.tile, state);
}

// Puts the partials of a split tile together; `item` is the tile's first.
void merge_item(const AttendCall& call, const Item& item, float* partials) {
  const int32_t rows = item.tile.num_positions * (call.q_heads / call.part.heads);
  const State state = State::at(partials + item.partials, rows);
  for (int32_t c = 1; c < item.tile.chunk_end - item.tile.chunk_begin; c++)
    merge_states(state, State::at(partials + item.partials + c * State::floats(rows, call.part.v_dim), rows), rows,
                 call.part.v_dim);
  finish(call, item.tile, state);
}

void attend(const AttendCall& call) {
  int64_t total = 0, num_items = 0, num_floats = 0;
  each_tile(call, [&](const Tile& tile) { total += work(tile), num_items += tile.chunk_end - tile.chunk_begin + 1; });
  Item* items = (Item*)scratch(Scratch::items, num_items * sizeof(Item));
  num_items = 0;
  each_tile(call, [&](const Tile& tile) {
    const int32_t chunks = tile.chunk_end - tile.chunk_begin;
    const bool split = call.threads > 1 && chunks > 1 && work(tile) * share * call.threads > total;
    if (!split) {
      items[num_items++] = {tile, 0, false, tile.chunk_begin, tile.chunk_end};
      return;
    }
    for (int32_t c = tile.chunk_begin; c < tile.chunk_end; c++) items[num_items++] = {tile, num_floats, true, c, c + 1};
    const int32_t rows = tile.num_positions * (call.q_heads / call.part.heads);
    num_floats += chunks * State::floats(rows, call.part.v_dim);
  });
  float* partials = (float*)scratch(Scratch::partials, num_floats * sizeof(float));
  parallel_for(num_items, call.threads, [&](int64_t i) { run_item(call, items[i], partials); });
  for (int64_t i = 0; i < num_items; i++)
    if (items[i].split && items[i].chunk_begin == items[i].tile.chunk_begin) merge_item(call, items[i], partials);
}

void encode(Number number, float x, uint8_t* to) {
  if (number == Number::float32) {
    std::memcpy(to, &x, 4);
  } else {
    const uint16_t bits = number == Number::float16 ? float_to_half(x) : float_to_bf16(x);
    std::memcpy(to, &bits, 2);
  }
}

void write(const WriteCall& call) {
  const Part& part = call.part;
  const int64_t bytes = value_bytes(part.number);
  constexpr int32_t step = 16;  // rows of a task: mostly one page, so that threads do not share cache lines
  parallel_for((call.rows + step - 1) / step, call.threads, [&](int64_t task) {
    const int64_t end = (task + 1) * step < call.rows ? (task + 1) * step : call.rows;
    for (int64_t t = task * step; t < end; t++) {
      if (call.row_pages[t] == no_page) continue;
      for (int32_t head = 0; head < part.heads; head++) {
        uint8_t* keys = part.cell(call.row_pages[t], call.layer_slot, head) + call.row_slots[t] * bytes;
        uint8_t* values = part.cell(call.row_pages[t], call.layer_slot, head) + part.k_bytes() +
                          call.row_slots[t] * part.v_dim * bytes;
        const float* k = call.k + (t * part.heads + head) * part.k_dim;
        const float* v = call.v + (t * part.heads + head) * part.v_dim;
        for (int32_t d = 0; d < part.k_dim; d++) encode(part.number, k[d], keys + d * page_tokens * bytes);
        for (int32_t d = 0; d < part.v_dim; d++) encode(part.number, v[d], values + d * bytes);
      }
    }
  });
}

}  // namespace

const AttendKernels attend_kernels = {write, attend};

}  // namespace KV_ISA
}  // namespace kvloom
