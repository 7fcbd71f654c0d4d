// Attention over KV pages: the C++ side of kvloom/attend. Plain structs of raw pointers and sizes, which own no memory.
//
// The arrays are those of kvloom/attend/plan.py; the layout of a page is described in kvloom/memory/format.py.
#pragma once

#include <cstdint>

#include "dispatch.h"
#include "work.h"

namespace kvloom {

constexpr int64_t grain_bytes = 64;  // a page id is an offset from the start of the memory, in these units
constexpr int32_t no_page = -1;

// Functions shared by the kernel sources of all instruction sets. They must be inlined, or the linker might keep the
// code of one variant for all of them.
#define KV_INLINE __attribute__((always_inline))

// The rows of a step: those of sequence b are seq_rows[b] .. seq_rows[b + 1].
struct Rows {
  const int32_t* positions;  // [rows]
  const int32_t* seq_rows;   // [seqs + 1]
  int32_t rows, seqs;
};

// Layout of the pages of one format in memory. In a page that holds a single head of a single layer, slot_bytes and
// head_bytes are 0.
struct PageLayout {
  uint8_t* memory;
  int32_t codec;  // index into the list in codecs.h
  int32_t heads, k_dim, v_dim;
  int64_t key_bytes, value_bytes;  // of a cell: the part of a page that belongs to one head of one layer
  int64_t slot_bytes, head_bytes;  // distance of adjacent layer slots and heads of a page

  KV_INLINE int64_t k_bytes() const { return key_bytes; }
  KV_INLINE int64_t v_bytes() const { return value_bytes; }
  KV_INLINE uint8_t* cell(int32_t page, int32_t layer_slot, int32_t head) const {
    return memory + page * grain_bytes + layer_slot * slot_bytes + head * head_bytes;
  }
};

// What a list belongs to: a sequence, or a (sequence, layer slot, head).
enum class Lists : int32_t { by_sequence, by_head };

// Positions of entries: consecutive, from a position that the plan gives for each page, or stored as labels in the
// page.
enum class Entries : int32_t { contiguous, labelled };

// Rotations of queries that meet keys stored for other positions: see kvloom/attend/plan.py.
struct Rotations {
  const int32_t* shifts;   // positions
  const float *cos, *sin;  // [rotations, half]
  int32_t count, half;
};

// The pages of one part of a plan.
struct Part : PageLayout {
  Lists lists;
  Entries entries;
  int32_t slots;               // number of layer slots
  int64_t window;              // a row sees positions greater than its own minus this
  const int32_t* page_ids;     // [pages]
  const int32_t* page_starts;  // [pages], for contiguous entries; null for labelled ones
  const uint16_t* page_masks;  // [pages], bit s: entry s exists; null: all do
  const int32_t* list_bounds;  // [lists + 1]
  const int32_t* list_turns;   // [lists], indices into rotations; null: no rotation
  Rotations rotations;
  bool even;  // a sequence's lists have the same length for all layer slots and heads, so that one work plan serves all

  KV_INLINE int64_t list_of(int32_t sequence, int32_t layer_slot, int32_t head) const {
    return lists == Lists::by_sequence ? sequence : ((int64_t)sequence * slots + layer_slot) * heads + head;
  }
  KV_INLINE int32_t shift_of(int64_t list) const { return list_turns ? rotations.shifts[list_turns[list]] : 0; }
};

// The table that continues the lists of a part. The lists are labelled, by head and not rotated; the table has the same
// codec, heads and dims. A head's list and its sequence's table are then read as one.
struct Continuation {
  const Part* table = nullptr;     // null: none
  const int32_t* stops = nullptr;  // [seqs]: positions below are in the lists, the others in the table
};

// Stores row t, head h of k and v as entry row_slots[t] of page row_pages[t]; not at all if that is no_page.
struct WriteCall {
  PageLayout part;
  int32_t layer_slot, rows, threads;
  const float* k;  // [rows][heads][k_dim]
  const float* v;  // [rows][heads][v_dim]
  const int32_t* row_pages;
  const int32_t* row_slots;
};

// Makes labelled pages of single heads, one after another, of entries from cells anywhere in `from.memory`, and of new
// ones. Page p gets the entries firsts[p] .. firsts[p + 1], from its entry places[p] on; what else it holds becomes 0.
struct GatherCall {
  PageLayout from;
  int64_t num_pages;
  const int32_t* places;     // [pages]
  const int64_t* firsts;     // [pages + 1]
  const int64_t* cells;      // [entries], where an entry's cell begins in memory
  const int32_t* slots;      // [entries], which of its cell it is
  const int32_t* positions;  // [entries]
  const float* biases;       // [entries]
  const int32_t* made;       // [entries], the row of k and v that is stored instead of a copy, or not_made
  const float* k;            // [rows][k_dim]
  const float* v;            // [rows][v_dim]
  uint8_t* pages;            // [pages][page_bytes()]
  int32_t threads;

  KV_INLINE int64_t label_bytes() const { return page_tokens * (sizeof(int32_t) + sizeof(float)); }
  KV_INLINE int64_t page_bytes() const { return from.k_bytes() + from.v_bytes() + label_bytes(); }
};
constexpr int32_t not_made = -1;

// Decodes entries of cells anywhere in `from.memory`, keys or values, by head.
struct ReadCall {
  PageLayout from;
  bool keys;
  int32_t heads;
  int64_t entries;       // of each head
  const int64_t* cells;  // [heads][entries], as in GatherCall
  const int32_t* slots;  // likewise
  float* out;            // [entries][heads][dim]
  int32_t threads;

  KV_INLINE int32_t dim() const { return keys ? from.k_dim : from.v_dim; }
};

// Attention of all rows over one part, and over the table that continues it, as given by their work plan. If `merge`,
// out and lse already hold the result over other entries, and the new result is merged into it. Query head h reads KV
// head h / (q_heads / part.heads).
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

// Reduces the final probabilities of chosen rows of one sequence, per entry. Item n is block n of `asked.work`, which
// belongs to a list of KV head heads[n]. `asked.out` and `asked.lse` are not written; `asked.work.row_ids` are the
// chosen rows.
struct ObserveCall {
  AttendCall asked;
  int64_t num_items;
  int32_t sequence, num_rows;
  const int32_t* heads;  // [items]
  const float* lse;      // [rows][q_heads], over all parts
  Reduce reduce;
  int32_t results;  // per item: 1 for the KV head, or one for each of its query heads
  double* reduced;  // [items][results][kv_block_positions]
};

struct AttendKernels {
  void (*write)(const WriteCall&);
  void (*gather)(const GatherCall&);
  void (*read)(const ReadCall&);
  void (*attend)(const AttendCall&);
  void (*observe)(const ObserveCall&);
  bool (*set_codec)(PageLayout&, const char* name);  // after the dims are set; false: there is no codec of this name
};
KV_DECLARE_VARIANTS(AttendKernels, attend_kernels)

// --- The same for every instruction set (pages.cpp) ------------------------------------------------------------------

// Returns what is wrong with the arrays of a plan, or null. Kernels rely on this check.
const char* find_fault(const Rows& rows);
const char* find_fault(const Part& part, int64_t num_pages, int64_t num_lists, int64_t page_bytes,
                       int64_t memory_bytes);
const char* find_fault(const Part& lists, const Continuation& after, int64_t num_seqs);

// Whether Part::even holds for checked lists.
bool are_even(const Part& part, int64_t num_lists);
const char* find_write_fault(const int32_t* row_pages, const int32_t* row_slots, int64_t rows, int64_t page_bytes,
                             int64_t memory_bytes);

// Return what is wrong with the cells and slots of a call, or with `made` if k and v have so many rows; or null.
const char* find_gather_fault(const GatherCall& call, int64_t rows, int64_t memory_bytes);
const char* find_read_fault(const ReadCall& call, int64_t memory_bytes);

}  // namespace kvloom
