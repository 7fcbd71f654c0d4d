// Entries from anywhere: copied as they are stored to pages of single heads, or decoded.
#pragma once

#include "codecs.h"
#include "scratch.h"

namespace kvloom {
namespace KV_ISA {

static inline void put_entry(const GatherCall& call, int64_t entry, int32_t place, uint8_t* page) {
  const PageLayout& from = call.from;
  const Codec& codec = codecs[from.codec];
  uint8_t* values = page + from.k_bytes();
  if (call.made[entry] == not_made) {
    const uint8_t* cell = from.memory + call.cells[entry];
    codec.copy_key({cell, page, call.slots[entry], place, from.k_dim});
    codec.copy_value({cell + from.k_bytes(), values, call.slots[entry], place, from.v_dim});
  } else {
    const int64_t row = call.made[entry];
    codec.encode_keys({call.k + row * from.k_dim, from.k_dim, from.k_dim, 1}, place, page);
    codec.encode_values({call.v + row * from.v_dim, from.v_dim, from.v_dim, 1}, place, values);
  }
}

static void make_page(const GatherCall& call, int64_t index) {
  uint8_t* page = call.pages + index * call.page_bytes();
  const int64_t first = call.firsts[index], count = call.firsts[index + 1] - first;
  const int32_t place = call.places[index];
  if (count < page_tokens) std::memset(page, 0, (size_t)call.page_bytes());
  for (int32_t i = 0; i < count; i++) put_entry(call, first + i, place + i, page);
  int32_t* positions = (int32_t*)(page + call.page_bytes() - call.label_bytes());
  std::memcpy(positions + place, call.positions + first, (size_t)count * sizeof(int32_t));
  std::memcpy(positions + page_tokens + place, call.biases + first, (size_t)count * sizeof(float));
}

// All entries of a cell, [page_tokens][dim]; `columns` has room for as many floats.
static void read_cell(const ReadCall& call, const uint8_t* cell, float* columns, float* rows) {
  const Codec& codec = codecs[call.from.codec];
  const int32_t dim = call.dim();
  if (!call.keys) return codec.read_values(cell + call.from.k_bytes(), dim, rows);
  codec.read_keys(cell, dim, columns);
  for (int32_t d = 0; d < dim; d += 16) {
    float square[16 * page_tokens];
    turn(*(const float (*)[page_tokens][16])(columns + d * page_tokens), square);
    for (int t = 0; t < page_tokens; t++) std::memcpy(rows + t * dim + d, square + 16 * t, 16 * sizeof(float));
  }
}

// Entries that follow each other in one cell are decoded together.
static void read_entries(const ReadCall& call, int64_t head, int64_t begin, int64_t end) {
  const int32_t dim = call.dim();
  float *rows = (float*)scratch(Scratch::tile, (size_t)(2 * page_tokens * dim) * sizeof(float)),
        *columns = rows + page_tokens * dim;
  int64_t read = -1;
  for (int64_t i = begin; i < end; i++) {
    const int64_t entry = head * call.entries + i, cell = call.cells[entry];
    if (cell != read) read_cell(call, call.from.memory + cell, columns, rows);
    read = cell;
    std::memcpy(call.out + (i * call.heads + head) * dim, rows + call.slots[entry] * dim, (size_t)dim * sizeof(float));
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
