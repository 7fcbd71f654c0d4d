#include "pack.h"

#include <algorithm>
#include <cstring>

#include "ggml_blocks.h"
#include "parallel.h"
#include "simd.h"

namespace kvloom {
namespace {

using portable::half_to_float;

template <Kind K>
void write_scales(const Block& b, int lane, uint8_t* out) {
  constexpr Layout L = layout(K);
  std::memcpy(out + 2 * lane, &b.d, 2);
  if constexpr (L.minimum) std::memcpy(out + 2 * (kPanel + lane), &b.m, 2);
  if constexpr (L.nested)
    for (int g = 0; g < L.groups; g++) {
      uint8_t* scales = out + L.halves_bytes + g * L.scale_bytes;
      scales[lane] = b.scales[g];
      if (L.minimum) scales[kPanel + lane] = b.minima[g];
    }
}

// One row's share of a group: a word per run.
template <Kind K>
void write_codes(const uint8_t* codes, int lane, uint8_t* group) {
  constexpr Layout L = layout(K);
  uint8_t* word = group + 4 * lane;
  for (int at = 0; at < L.group; at += L.run(), word += kRunBytes)
    for (int b = 0; b < 4; b++)
      word[b] = L.bits < 8 ? (uint8_t)((codes[at + b] & 15) | codes[at + 4 + b] << 4) : codes[at + b];
  if constexpr (L.high_bits() > 0) {
    uint8_t high[4] = {};
    for (int c = 0; c < L.group; c++) high[c % 4] |= (uint8_t)(codes[c] >> 4 << c / 4 * L.high_bits());
    std::memcpy(word, high, sizeof high);
  }
}

template <class T>
void pack_floats(const uint8_t* source, int64_t rows, int64_t cols, uint8_t* out) {
  T* column = reinterpret_cast<T*>(out);
  const int64_t stride = cols * (int64_t)sizeof(T);
  for (int64_t c = 0; c < cols; c++, column += kPanel)
    for (int lane = 0; lane < kPanel; lane++) {
      T value = 0;
      if (lane < rows) std::memcpy(&value, source + lane * stride + c * (int64_t)sizeof(T), sizeof(T));
      column[lane] = value;
    }
}

template <Kind K>
void pack_panel(const uint8_t* source, int64_t rows, int64_t cols, uint8_t* out) {
  constexpr Layout L = layout(K);
  if constexpr (K == Kind::F32) return pack_floats<uint32_t>(source, rows, cols, out);
  if constexpr (L.bits == 16) return pack_floats<uint16_t>(source, rows, cols, out);
  if constexpr (L.quantized) {
    const int64_t blocks = cols / L.columns, stride = blocks * L.source_bytes;
    for (int64_t block = 0; block < blocks; block++, out += L.bytes)
      for (int lane = 0; lane < kPanel; lane++) {
        Block b = {};
        if (lane < rows) read_block<K>(source + lane * stride + block * L.source_bytes, b);
        write_scales<K>(b, lane, out);
        for (int g = 0; g < L.groups; g++)
          write_codes<K>(b.codes + g * L.group, lane, out + L.head_bytes + g * L.group_bytes);
      }
  }
}

template <Kind K>
float value_at(const uint8_t* block, int lane, int g, int c) {
  constexpr Layout L = layout(K);
  if constexpr (K == Kind::F32) {
    float x;
    std::memcpy(&x, block + 4 * lane, 4);
    return x;
  }
  uint16_t h;
  if constexpr (!L.quantized) {
    std::memcpy(&h, block + 2 * lane, 2);
    if constexpr (K == Kind::F16) return half_to_float(h);
    uint32_t bits = (uint32_t)h << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  std::memcpy(&h, block + 2 * lane, 2);
  float d = half_to_float(h), m = 0;
  if constexpr (L.minimum) std::memcpy(&h, block + 2 * (kPanel + lane), 2), m = half_to_float(h);
  const uint8_t *scales = block + L.halves_bytes + g * L.scale_bytes, *group = block + L.head_bytes + g * L.group_bytes;
  if constexpr (K == Kind::Q6_K) d *= (float)(int8_t)scales[lane];
  if constexpr (L.nested && L.minimum) d *= (float)scales[lane], m *= -(float)scales[kPanel + lane];
  if constexpr (K == Kind::Q4_0) m = -8.0f * d;
  constexpr bool added = L.minimum || K == Kind::Q4_0;
  const uint8_t* word = group + 4 * lane + c % 4;
  const uint8_t byte = word[c / L.run() * kRunBytes];
  int code = L.bits < 8 ? (byte >> (c % 8 / 4 * 4)) & 15 : (int8_t)byte;
  if constexpr (L.high_bits() > 0)
    code |= (word[L.runs() * kRunBytes] >> c / 4 * L.high_bits() & ((1 << L.high_bits()) - 1)) << 4;
  return added ? (float)code * d + m : (float)(code - offset_of(K)) * d;
}

template <Kind K>
void read_row(const uint8_t* panel, int lane, int64_t cols, float* out) {
  constexpr Layout L = layout(K);
  for (int64_t block = 0; block < cols / L.columns; block++, panel += L.bytes)
    for (int g = 0; g < L.groups; g++)
      for (int c = 0; c < L.group; c++) *out++ = value_at<K>(panel, lane, g, c);
}

}  // namespace

void pack_weight(const uint8_t* source, Kind kind, int64_t rows, int64_t cols, uint8_t* packed, int threads) {
  const Layout shape = layout(kind);
  const int64_t stride = cols / shape.columns * shape.source_bytes, bytes = panel_bytes(kind, cols);
  parallel_for(num_panels(rows), threads, [&](int64_t panel) {
    const int64_t first = panel * kPanel, count = std::min<int64_t>(kPanel, rows - first);
    with_kind(kind, [&](auto tag) {
      pack_panel<decltype(tag)::kind>(source + first * stride, count, cols, packed + panel * bytes);
    });
  });
}

void gather_rows(const Matrix* parts, int64_t num_parts, int64_t cols, const int64_t* ids, int64_t count, float* out,
                 int threads) {
  parallel_for(count, threads, [&](int64_t i) {
    int64_t row = ids[i];
    const Matrix* part = parts;
    while (part < parts + num_parts - 1 && row >= part->rows) row -= part++->rows;
    const uint8_t* panel = panel_at(*part, row / kPanel, cols);
    with_kind((Kind)part->kind,
              [&](auto tag) { read_row<decltype(tag)::kind>(panel, (int)(row % kPanel), cols, out + i * cols); });
  });
}

}  // namespace kvloom
