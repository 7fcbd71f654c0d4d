// Packed weights (weights.h) to float, column by column of a panel.
#pragma once

#include "codes.h"
#include "weights.h"

namespace kvloom {
namespace KV_ISA {

// One column of a panel: rows 0 to 15, and 16 to 31.
struct Column {
  v16 v[2];
};

template <Kind K>
static inline v16 load_values(const uint8_t* p) {
  if constexpr (K == Kind::F32) return load(reinterpret_cast<const float*>(p));
  if constexpr (K == Kind::F16) return load_f16(reinterpret_cast<const uint16_t*>(p));
  if constexpr (K == Kind::BF16) return load_bf16(reinterpret_cast<const uint16_t*>(p));
  return load_i8(p);
}

template <Kind K>
static inline Column load_column(const uint8_t* p) {
  constexpr Layout L = layout(K);
  Column w;
  if constexpr (L.bits == 4) {
    load_nibbles(p, w.v[0], w.v[1]);
  } else {
    w.v[0] = load_values<K>(p), w.v[1] = load_values<K>(p + L.column_bytes / 2);
  }
  return w;
}

// d and m of one group of columns; `block` is its superblock.
template <Kind K>
static inline void load_scales(const uint8_t* block, const uint8_t* group, Column& d, Column& m) {
  constexpr Layout L = layout(K);
  for (int j = 0; j < 2; j++) {
    const uint16_t* head = reinterpret_cast<const uint16_t*>(block) + 16 * j;
    d.v[j] = load_f16(head);
    if constexpr (L.minimum) m.v[j] = load_f16(head + kPanel);
    if constexpr (K == Kind::Q6_K) d.v[j] = d.v[j] * load_i8(group + 16 * j);
    if constexpr (L.nested && L.minimum) {
      d.v[j] = d.v[j] * load_u8(group + 16 * j);
      m.v[j] = splat(-1.0f) * m.v[j] * load_u8(group + kPanel + 16 * j);
    }
    if constexpr (K == Kind::Q4_0) m.v[j] = d.v[j] * splat(-8.0f);
  }
}

// Calls use(c, w) for the first `cols` columns that follow `block`, in order. `cols` is a multiple of the
// superblock.
template <Kind K, class Use>
static inline void each_column(const uint8_t* block, int64_t cols, const Use& use) {
  constexpr Layout L = layout(K);
  int64_t c = 0;
  for (; c < cols; block += L.bytes) {
    for (int g = 0; g < L.groups; g++) {
      const uint8_t* group = block + L.head_bytes + g * L.group_bytes;
      Column d, m;
      if constexpr (L.quantized) load_scales<K>(block, group, d, m);
      const uint8_t* p = group + L.scale_bytes;
      for (int i = 0; i < L.group; i++, c++, p += L.column_bytes) {
        Column w = load_column<K>(p);
        for (int j = 0; j < 2; j++) {
          if constexpr (L.minimum || K == Kind::Q4_0) {
            w.v[j] = fma(w.v[j], d.v[j], m.v[j]);
          } else if constexpr (L.quantized) {
            w.v[j] = w.v[j] * d.v[j];
          }
        }
        use(c, w);
      }
    }
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
