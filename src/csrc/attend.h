// Attention over KV pages: the C++ side of kvloom/attend. Plain structs of raw pointers and sizes; nothing
// here owns memory.
//
// The arrays are those of kvloom/attend/plan.py, and the layout of a page is described in kvloom/memory/format.py.
#pragma once

#include <cstdint>

#include "dispatch.h"
#include "work.h"

namespace kvloom {

constexpr int64_t grain_bytes = 64;  // a page id counts these from the start of the memory
constexpr int32_t no_page = -1;

// Kernel sources of all instruction sets share these: inlined for sure, so that no one variant's code serves
// another.
#define KV_INLINE __attribute__((always_inline))

// The rows of a step: sequence b asks with rows seq_rows[b] .. seq_rows[b + 1].
struct Rows {
  const int32_t* positions;  // [rows]
  const int32_t* seq_rows;   // [seqs + 1]
  int32_t rows, seqs;
};

// How pages of one format lie in memory. A page that holds one head of one layer has steps of 0.
struct PageLayout {
  uint8_t* memory;
  int32_t codec;  // its place in the list of codecs.h
  int32_t heads, k_dim, v_dim;
  int64_t key_bytes, value_bytes;  // of a cell: what one head of one layer has in a page
  int64_t slot_bytes, head_bytes;  // from one layer slot, and from one head, of a page to the next

  KV_INLINE int64_t k_bytes() const { return key_bytes; }
  KV_INLINE int64_t v_bytes() const { return value_bytes; }
  KV_INLINE uint8_t* cell(int32_t page, int32_t layer_slot, int32_t head) const {
    return memory + page * grain_bytes + layer_slot * slot_bytes + head * head_bytes;
  }
};

// Whose lists there are: one per sequence, or one per (sequence, layer slot, head).
enum class Lists : int32_t { by_sequence, by_head };

// Where entries stand: one after another from a position that the plan gives for each page, or where the page's labels
// say.
enum class Entries : int32_t { contiguous, labelled };

// How queries are turned to meet keys that were stored for other positions: see kvloom/attend/plan.py.
struct Rotations {
  const int32_t* shifts;   // positions
  const float *cos, *sin;  // [rotations, half]
  int32_t count, half;
};

// The pages of one part of a plan.
struct Part : PageLayout {
  Lists lists;
  Entries entries;
  int32_t slots;               // layer slots that can be asked for
  int64_t window;              // a row sees positions above its own minus this
  const int32_t* page_ids;     // [pages]
  const int32_t* page_starts;  // [pages], of contiguous entries; null for labelled ones
  const uint16_t* page_masks;  // [pages], bit s: entry s is there; null: all are
  const int32_t* list_bounds;  // [lists + 1]
  const int32_t* list_turns;   // [lists], into rotations; null: nothing is turned
  Rotations rotations;
  bool even;  // the lists of a sequence are equally long for all layer slots and heads: one work plan serves them

  KV_INLINE int64_t list_of(int32_t sequence, int32_t layer_slot, int32_t head) const {
    return lists == Lists::by_sequence ? sequence : ((int64_t)sequence * slots + layer_slot) * heads + head;
  }
  KV_INLINE int32_t shift_of(int64_t list) const { return list_turns ? rotations.shifts[list_turns[list]] : 0; }
};

// What continues the lists of a part: labelled lists by head that are not turned, and a table of the same codec, heads
// and dims. A head's list and its sequence's table are then read as one.
struct Continuation {
  const Part* table = nullptr;     // null: nothing does
  const int32_t* stops = nullptr;  // [seqs]: lists hold entries below this position, and the table those from it on
};

// Stores row t, head h of k and v as entry row_slots[t] of page row_pages[t], or nowhere when that is
// no_page.
struct WriteCall {
  PageLayout part;
  int32_t layer_slot, rows, threads;
  const float* k;  // [rows][heads][k_dim]
  const float* v;  // [rows][heads][v_dim]
  const int32_t* row_pages;
  const int32_t* row_slots;
};

// Attends every row over one part, and the table that continues it, as their work plan says. With `merge`, out and lse
// already hold the result over other entries: the new one is merged into it. Query head h reads KV head h / (q_heads /
// part.heads).
struct AttendCall {
  Rows rows;
  Part part;
  const Part* table;  // or null
  Work work;
  int32_t layer_slot, q_heads, threads;
  float scale;
  const float* q;  // [rows][q_heads][k_dim]
  float* out;      // [rows][q_heads][v_dim]
  float* lse;      // [rows][q_heads]
  bool merge;
};

enum class Reduce : int32_t { sum, max };

// Reduces the final probabilities of chosen rows of one sequence, by entry: item n is block n of `asked.work`, which
// belongs to a list of KV head heads[n]. Of `asked`, nobody writes `out` and `lse`; its row_ids are the chosen rows.
struct ObserveCall {
  AttendCall asked;
  int64_t num_items;
  int32_t sequence, num_rows;
  const int32_t* heads;  // [items]
  const float* lse;      // [rows][q_heads], over all parts
  Reduce reduce;
  int32_t results;  // of an item: 1 for the KV head, or as many as it has query heads
  double* reduced;  // [items][results][kv_block_positions]
};

struct AttendKernels {
  void (*write)(const WriteCall&);
  void (*attend)(const AttendCall&);
  void (*observe)(const ObserveCall&);
  bool (*set_codec)(PageLayout&, const char* name);  // with the dims there; false: no codec has this name
};
KV_DECLARE_VARIANTS(AttendKernels, attend_kernels)

// --- The same for every instruction set (pages.cpp)
// -----------------------------------------------------------------

// What is wrong with the arrays of a plan, or null. Kernels trust what passed here.
const char* find_fault(const Rows& rows);
const char* find_fault(const Part& part, int64_t num_pages, int64_t num_lists, int64_t page_bytes,
                       int64_t memory_bytes);
const char* find_fault(const Part& lists, const Continuation& after, int64_t num_seqs);

// Whether Part::even holds of checked lists.
bool are_even(const Part& part, int64_t num_lists);
const char* find_write_fault(const int32_t* row_pages, const int32_t* row_slots, int64_t rows, int64_t page_bytes,
                             int64_t memory_bytes);

}  // namespace kvloom
