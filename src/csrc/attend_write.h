// Writes new keys and values into their pages. Rows that are adjacent in a page are encoded together.
#pragma once

#include "codecs.h"

namespace kvloom {
namespace KV_ISA {

// Rows row .. row + count, which go into adjacent slots of one page.
struct Stretch {
  int64_t row;
  int32_t count;
};

static void write_stretch(const WriteCall& call, const Codec& codec, const Stretch& stretch) {
  const PageLayout& part = call.part;
  const int32_t page = call.row_pages[stretch.row], slot = call.row_slots[stretch.row];
  if (page == no_page) return;
  const int64_t k_stride = (int64_t)part.heads * part.k_dim, v_stride = (int64_t)part.heads * part.v_dim;
  for (int32_t head = 0; head < part.heads; head++) {
    uint8_t* cell = part.cell(page, call.layer_slot, head);
    const float *k = call.k + stretch.row * k_stride + head * part.k_dim,
                *v = call.v + stretch.row * v_stride + head * part.v_dim;
    codec.encode_keys({k, k_stride, part.k_dim, stretch.count}, slot, cell);
    codec.encode_values({v, v_stride, part.v_dim, stretch.count}, slot, cell + part.k_bytes());
  }
}

// Number of rows, from row `row` up to `end`, that go into adjacent slots of the same page.
static inline int32_t stretch_length(const WriteCall& call, int64_t row, int64_t end) {
  int32_t count = 1;
  while (row + count < end && call.row_pages[row + count] == call.row_pages[row] &&
         call.row_slots[row + count] == call.row_slots[row] + count)
    count++;
  return count;
}

static void write_rows(const WriteCall& call, int64_t row, int64_t end) {
  while (row < end) {
    const Stretch stretch{row, stretch_length(call, row, end)};
    write_stretch(call, codecs[call.part.codec], stretch);
    row += stretch.count;
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
