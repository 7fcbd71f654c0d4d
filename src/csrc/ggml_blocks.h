// Unpacks ggml's quantized blocks.
#pragma once

#include <cstdint>
#include <cstring>

#include "weights.h"

namespace kvloom {

// Unpacks one superblock of one row. Codes are as in weights.h: unsigned and before the subtraction of the offset,
// signed if they have 8 bits.
struct Block {
  uint16_t d, m;
  uint8_t scales[16], minima[16];
  uint8_t codes[256];
};

static inline void read_nibbles(const uint8_t* q, uint8_t* codes) {
  for (int i = 0; i < 16; i++) codes[i] = q[i] & 15, codes[i + 16] = q[i] >> 4;
}

static inline void read_fifth_bits(const uint8_t* q, uint8_t* codes) {
  uint32_t high;
  std::memcpy(&high, q, 4);
  read_nibbles(q + 4, codes);
  for (int i = 0; i < 32; i++) codes[i] = (uint8_t)(codes[i] | ((high >> i) & 1) << 4);
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes.
static inline void read_nested(const uint8_t* q, Block& b) {
  for (int i = 0; i < 4; i++) {
    b.scales[i] = q[i] & 63;
    b.minima[i] = q[i + 4] & 63;
    b.scales[i + 4] = (uint8_t)((q[i + 8] & 15) | (q[i] >> 6) << 4);
    b.minima[i + 4] = (uint8_t)((q[i + 8] >> 4) | (q[i + 4] >> 6) << 4);
  }
}

static inline void read_q4_k(const uint8_t* p, Block& b) {
  std::memcpy(&b.d, p, 2), std::memcpy(&b.m, p + 2, 2);
  read_nested(p + 4, b);
  const uint8_t* q = p + 16;
  for (int i = 0; i < 128; i++) {
    int at = i / 32 * 64 + i % 32;
    b.codes[at] = q[i] & 15, b.codes[at + 32] = q[i] >> 4;
  }
}

static inline void read_q5_k(const uint8_t* p, Block& b) {
  std::memcpy(&b.d, p, 2), std::memcpy(&b.m, p + 2, 2);
  read_nested(p + 4, b);
  const uint8_t *high = p + 16, *q = p + 48;
  for (int i = 0; i < 128; i++) {
    int pair = i / 32, at = pair * 64 + i % 32, bits = high[i % 32] >> (2 * pair);
    b.codes[at] = (uint8_t)((q[i] & 15) | (bits & 1) << 4);
    b.codes[at + 32] = (uint8_t)((q[i] >> 4) | (bits >> 1 & 1) << 4);
  }
}

static inline void read_q6_k(const uint8_t* p, Block& b) {
  std::memcpy(b.scales, p + 192, 16), std::memcpy(&b.d, p + 208, 2);
  for (int half = 0; half < 2; half++) {
    const uint8_t *low = p + 64 * half, *high = p + 128 + 32 * half;
    uint8_t* codes = b.codes + 128 * half;
    for (int i = 0; i < 32; i++) {
      codes[i] = (uint8_t)((low[i] & 15) | (high[i] & 3) << 4);
      codes[i + 32] = (uint8_t)((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4);
      codes[i + 64] = (uint8_t)((low[i] >> 4) | (high[i] >> 4 & 3) << 4);
      codes[i + 96] = (uint8_t)((low[i + 32] >> 4) | (high[i] >> 6) << 4);
    }
  }
}

template <Kind K>
static inline void read_block(const uint8_t* p, Block& b) {
  if constexpr (K == Kind::Q4_K) return read_q4_k(p, b);
  if constexpr (K == Kind::Q5_K) return read_q5_k(p, b);
  if constexpr (K == Kind::Q6_K) return read_q6_k(p, b);
  constexpr int head = layout(K).minimum ? 4 : 2;
  std::memcpy(&b.d, p, 2);
  if constexpr (head == 4) std::memcpy(&b.m, p + 2, 2);
  if constexpr (K == Kind::Q4_0 || K == Kind::Q4_1) read_nibbles(p + head, b.codes);
  if constexpr (K == Kind::Q5_0 || K == Kind::Q5_1) read_fifth_bits(p + head, b.codes);
  if constexpr (K == Kind::Q8_0) std::memcpy(b.codes, p + head, 32);
}

}  // namespace kvloom
