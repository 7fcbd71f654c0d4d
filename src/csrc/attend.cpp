// The attend kernels: threads claim items one by one; the thread that delivers the last partial of a row merges the
// row.
#include "attend.h"

#include "attend_block.h"
#include "attend_gather.h"
#include "attend_observe.h"
#include "attend_write.h"
#include "parallel.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {
namespace {

// What one call shares among its threads: stored states, and how many items each join still waits for.
struct Delivered {
  float* states;
  int32_t* missing;
};

int32_t group_of(const AttendCall& call) {
  return call.q_heads / call.part.heads;
}

State stored_state(const AttendCall& call, float* states, int64_t state, int32_t rows) {
  return State::at(states + State::floats(state, call.part.v_dim), rows);
}

// Writes the results of all query heads of one row's group, which start at row `first` of the state.
void finish(const AttendCall& call, int64_t row, int32_t head, const State& state, int32_t first) {
  const int32_t group = group_of(call), v_dim = call.part.v_dim;
  for (int32_t h = 0; h < group; h++) {
    const int64_t at = row * call.q_heads + head * group + h;
    finish_row(state.m[first + h], state.l[first + h], state.o + (int64_t)(first + h) * v_dim, call.out + at * v_dim,
               call.lse + at, v_dim, call.merge);
  }
}

// Puts a row together from its sources, the first of which takes the others in.
void join(const AttendCall& call, int64_t row, int32_t head, float* states) {
  const Work& work = call.work;
  const int32_t v_dim = call.part.v_dim;
  const auto state_of = [&](const Source& source) {
    return stored_state(call, states, source.state, source.rows).from(source.first_row, v_dim);
  };
  const int32_t* bounds = work.join_sources + row * call.part.heads + head;
  const State state = state_of(work.sources[bounds[0]]);
  for (int32_t s = bounds[0] + 1; s < bounds[1]; s++)
    merge_states(state, state_of(work.sources[s]), group_of(call), v_dim);
  finish(call, row, head, state, 0);
}

// Merges the partials of all blocks of an item into `state`.
void fold_blocks(const AttendCall& call, const Item& item, const Item* next, BlockPass& pass, const State& state,
                 const State& partial) {
  for (int32_t r = 0; r < pass.rows(); r++) state.m[r] = empty, state.l[r] = 0.0f;
  for (int32_t c = item.block_begin; c < item.block_end; c++) {
    Cells block;
    gather(call, item, c, next, block);
    if (c == item.block_begin)
      pass.run(block, state);
    else
      pass.add(block, state, partial);
  }
}

void store_blocks(const AttendCall& call, const Item& item, const Item* next, BlockPass& pass, float* states) {
  for (int32_t c = item.block_begin; c < item.block_end; c++) {
    Cells block;
    gather(call, item, c, next, block);
    const int64_t place = item.state + (c - item.block_begin) * (int64_t)pass.rows();
    pass.run(block, stored_state(call, states, place, pass.rows()));
  }
}

void deliver(const AttendCall& call, const Item& item, const Delivered& delivered) {
  for (int32_t i = 0; i < item.row_count; i++) {
    const int64_t row = call.work.row_ids[item.row_begin + i];
    int32_t* missing = delivered.missing + row * call.part.heads + item.head;
    if (__atomic_sub_fetch(missing, 1, __ATOMIC_ACQ_REL) == 0) join(call, row, item.head, delivered.states);
  }
}

// `next` is what the same thread takes up after it, or null.
void run_item(const AttendCall& call, const Item& item, const Item* next, const Delivered& delivered) {
  const int32_t group = group_of(call), rows = item.row_count * group;
  const Desk desk = Desk::at(scratch(Scratch::tile, Desk::bytes(rows, item.row_count, call.part)), rows, call.part);
  BlockPass pass(call, item, desk);
  const State state = State::at(desk.state, rows), partial = State::at(desk.partial, rows);
  switch (item.outcome) {
    case Outcome::finish:
      fold_blocks(call, item, next, pass, state, partial);
      for (int32_t i = 0; i < item.row_count; i++)
        finish(call, call.work.row_ids[item.row_begin + i], item.head, state, i * group);
      return;
    case Outcome::fold:
      fold_blocks(call, item, next, pass, stored_state(call, delivered.states, item.state, rows), partial);
      break;
    case Outcome::apart:
      store_blocks(call, item, next, pass, delivered.states);
      break;
  }
  deliver(call, item, delivered);
}

void attend(const AttendCall& call) {
  const Work& work = call.work;
  const Delivered delivered{
      (float*)scratch(Scratch::states, State::floats(work.state_rows, call.part.v_dim) * sizeof(float)),
      (int32_t*)scratch(Scratch::missing, work.num_joins * sizeof(int32_t))};
  std::memcpy(delivered.missing, work.join_items, work.num_joins * sizeof(int32_t));
  parallel_for(work.num_shares, call.threads, [&](int64_t share) {
    const Item *item = work.items + work.shares[share], *end = work.items + work.shares[share + 1];
    for (; item < end; item++) run_item(call, *item, item + 1 < end ? item + 1 : nullptr, delivered);
  });
}

void observe(const ObserveCall& call) {
  parallel_for(call.num_items, call.asked.threads, [&](int64_t n) { observe_item(call, n); });
}

void gather_entries(const GatherCall& call) {
  constexpr int64_t step = 8;  // pages of a task
  parallel_for((call.num_pages + step - 1) / step, call.threads, [&](int64_t task) {
    for (int64_t page = task * step; page < std::min((task + 1) * step, call.num_pages); page++) make_page(call, page);
  });
}

void read(const ReadCall& call) {
  constexpr int64_t step = 128;  // entries of a task
  const int64_t tasks = (call.entries + step - 1) / step;
  parallel_for(tasks * call.heads, call.threads, [&](int64_t task) {
    const int64_t begin = task / call.heads * step;
    read_entries(call, task % call.heads, begin, std::min(begin + step, call.entries));
  });
}

void write(const WriteCall& call) {
  constexpr int64_t step = page_tokens;  // rows of a task: mostly one page, so that threads do not share cache lines
  parallel_for((call.rows + step - 1) / step, call.threads,
               [&](int64_t task) { write_rows(call, task * step, std::min((task + 1) * step, (int64_t)call.rows)); });
}

bool set_codec(PageLayout& layout, const char* name) {
  for (int32_t i = 0; i < num_codecs; i++) {
    if (std::strcmp(codecs[i].name, name)) continue;
    layout.codec = i;
    layout.key_bytes = codecs[i].key_bytes(layout.k_dim), layout.value_bytes = codecs[i].value_bytes(layout.v_dim);
    return true;
  }
  return false;
}

}  // namespace

const AttendKernels attend_kernels = {write, gather_entries, read, attend, observe, set_codec};

}  // namespace KV_ISA
}  // namespace kvloom
