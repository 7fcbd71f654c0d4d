#include "pack.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "simd.h"

namespace kvloom {
namespace {

using portable::half_to_float;

// One superblock of one row, taken apart. Codes are the integers that the scale multiplies, except that Q4_0 keeps its bias of 8.
struct Block {
  uint16_t d, m;
  uint8_t scales[16], minima[16];
  uint8_t codes[256];
};

void read_nibbles(const uint8_t* q, uint8_t* codes) {
  for (int i = 0; i < 16; i++) codes[i] = q[i] & 15, codes[i + 16] = q[i] >> 4;
}

void read_fifth_bits(const uint8_t* q, int bias, uint8_t* codes) {
  uint32_t high;
  std::memcpy(&high, q, 4);
  read_nibbles(q + 4, codes);
  for (int i = 0; i < 32; i++) codes[i] = (uint8_t)((codes[i] | ((high >> i) & 1) << 4) - bias);
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes.
void read_nested(const uint8_t* q, Block& b) {
  for (int i = 0; i < 4; i++) {
    b.scales[i] = q[i] & 63;
    b.minima[i] = q[i + 4] & 63;
    b.scales[i + 4] = (uint8_t)((q[i + 8] & 15) | (q[i] >> 6) << 4);
    b.minima[i + 4] = (uint8_t)((q[i + 8] >> 4) | (q[i + 4] >> 6) << 4);
  }
}

void read_q4_k(const uint8_t* p, Block& b) {
  std::memcpy(&b.d, p, 2), std::memcpy(&b.m, p + 2, 2);
  read_nested(p + 4, b);
  const uint8_t* q = p + 16;
  for (int i = 0; i < 128; i++) {
    int at = i / 32 * 64 + i % 32;
    b.codes[at] = q[i] & 15, b.codes[at + 32] = q[i] >> 4;
  }
}

void read_q5_k(const uint8_t* p, Block& b) {
  std::memcpy(&b.d, p, 2), std::memcpy(&b.m, p + 2, 2);
  read_nested(p + 4, b);
  const uint8_t *high = p + 16, *q = p + 48;
  for (int i = 0; i < 128; i++) {
    int pair = i / 32, at = pair * 64 + i % 32, bits = high[i % 32] >> (2 * pair);
    b.codes[at] = (uint8_t)((q[i] & 15) | (bits & 1) << 4);
    b.codes[at + 32] = (uint8_t)((q[i] >> 4) | (bits >> 1 & 1) << 4);
  }
}

void read_q6_k(const uint8_t* p, Block& b) {
  std::memcpy(b.scales, p + 192, 16), std::memcpy(&b.d, p + 208, 2);
  for (int half = 0; half < 2; half++) {
    const uint8_t *low = p + 64 * half, *high = p + 128 + 32 * half;
    uint8_t* codes = b.codes + 128 * half;
    for (int i = 0; i < 32; i++) {
      codes[i] = (uint8_t)(((low[i] & 15) | (high[i] & 3) << 4) - 32);
      codes[i + 32] = (uint8_t)(((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4) - 32);
      codes[i + 64] = (uint8_t)(((low[i] >> 4) | (high[i] >> 4 & 3) << 4) - 32);
      codes[i + 96] = (uint8_t)(((low[i + 32] >> 4) | (high[i] >> 6) << 4) - 32);
    }
  }
}

template <Kind K>
void read_block(const uint8_t* p, Block& b) {
  if constexpr (K == Kind::Q4_K) return read_q4_k(p, b);
  if constexpr (K == Kind::Q5_K) return read_q5_k(p, b);
  if constexpr (K == Kind::Q6_K) return read_q6_k(p, b);
  constexpr int head = layout(K).minimum ? 4 : 2;
  std::memcpy(&b.d, p, 2);
  if constexpr (head == 4) std::memcpy(&b.m, p + 2, 2);
  if constexpr (K == Kind::Q4_0 || K == Kind::Q4_1) read_nibbles(p + head, b.codes);
  if constexpr (K == Kind::Q5_0) read_fifth_bits(p + head, 16, b.codes);
  if constexpr (K == Kind::Q5_1) read_fifth_bits(p + head, 0, b.codes);
  if constexpr (K == Kind::Q8_0) std::memcpy(b.codes, p + head, 32);
}

template <Kind K>
void write_scales(const Block& b, int lane, uint8_t* out) {
  constexpr Layout L = layout(K);
  std::memcpy(out + 2 * lane, &b.d, 2);
  if constexpr (L.minimum) std::memcpy(out + 2 * (kPanel + lane), &b.m, 2);
  if constexpr (L.nested)
    for (int g = 0; g < L.groups; g++) {
      uint8_t* group = out + L.head_bytes + g * L.group_bytes;
      group[lane] = b.scales[g];
      if (L.minimum) group[kPanel + lane] = b.minima[g];
    }
}

// Lanes `lane` and `lane + 16` are written together, since they share the bytes of 4-bit columns.
template <Kind K>
void write_pair(const Block& a, const Block& b, int lane, uint8_t* out) {
  constexpr Layout L = layout(K);
  write_scales<K>(a, lane, out);
  write_scales<K>(b, lane + 16, out);
  for (int g = 0; g < L.groups; g++) {
    uint8_t* column = out + L.head_bytes + g * L.group_bytes + L.scale_bytes + lane;
    for (int c = 0; c < L.group; c++, column += L.column_bytes) {
      int at = g * L.group + c;
      if (L.bits == 4) {
        column[0] = (uint8_t)(a.codes[at] | b.codes[at] << 4);
      } else {
        column[0] = a.codes[at], column[16] = b.codes[at];
      }
    }
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
    const auto read = [&](int64_t lane, int64_t block, Block& b) {
      if (lane < rows) read_block<K>(source + lane * stride + block * L.source_bytes, b);
    };
    for (int64_t block = 0; block < blocks; block++, out += L.bytes)
      for (int lane = 0; lane < 16; lane++) {
        Block low{}, high{};
        read(lane, block, low), read(lane + 16, block, high);
        write_pair<K>(low, high, lane, out);
      }
  }
}

template <Kind K>
float value_at(const uint8_t* block, int lane, int g, int c) {
  constexpr Layout L = layout(K);
  const uint8_t* group = block + L.head_bytes + g * L.group_bytes;
  const uint8_t* column = group + L.scale_bytes + c * L.column_bytes;
  if constexpr (K == Kind::F32) {
    float x;
    std::memcpy(&x, column + 4 * lane, 4);
    return x;
  }
  uint16_t h;
  if constexpr (!L.quantized) {
    std::memcpy(&h, column + 2 * lane, 2);
    if constexpr (K == Kind::F16) return half_to_float(h);
    uint32_t bits = (uint32_t)h << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  std::memcpy(&h, block + 2 * lane, 2);
  float d = half_to_float(h), m = 0;
  if constexpr (L.minimum) std::memcpy(&h, block + 2 * (kPanel + lane), 2), m = half_to_float(h);
  if constexpr (K == Kind::Q6_K) d *= (float)(int8_t)group[lane];
  if constexpr (L.nested && L.minimum) d *= (float)group[lane], m *= -(float)group[kPanel + lane];
  if constexpr (K == Kind::Q4_0) m = -8.0f * d;
  constexpr bool added = L.minimum || K == Kind::Q4_0;
  const int code = L.bits == 4 ? (column[lane % 16] >> (lane / 16 * 4)) & 15 : (int8_t)column[lane];
  return added ? (float)code * d + m : (float)code * d;
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

void gather_rows(const Part* parts, int64_t num_parts, int64_t cols, const int64_t* ids, int64_t count, float* out,
                 int threads) {
  parallel_for(count, threads, [&](int64_t i) {
    int64_t row = ids[i];
    const Part* part = parts;
    while (part < parts + num_parts - 1 && row >= part->rows) row -= part++->rows;
    const uint8_t* panel = panel_at(*part, row / kPanel, cols);
    with_kind((Kind)part->kind, [&](auto tag) {
      read_row<decltype(tag)::kind>(panel, (int)(row % kPanel), cols, out + i * cols);
    });
  });
}

}  // namespace kvloom
