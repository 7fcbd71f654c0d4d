// Conversion of packed weights (weights.h) to float, column by column of a panel.
#pragma once

#include "codes.h"
#include "weights.h"

namespace kvloom {
namespace KV_ISA {

// One column of a panel: rows 0 to 15 and rows 16 to 31.
struct Column {
  v16 v[2];
};

template <Kind K>
static inline v16 load_values(const uint8_t* p) {
  if constexpr (K == Kind::F32) return load(reinterpret_cast<const float*>(p));
  if constexpr (K == Kind::F16) return load_f16(reinterpret_cast<const uint16_t*>(p));
  return load_bf16(reinterpret_cast<const uint16_t*>(p));
}

// Calls body(0) to body(N - 1), with constants as arguments.
template <int N, class Body>
[[gnu::always_inline]] static inline void unrolled(const Body& body) {
  if constexpr (N > 1) unrolled<N - 1>(body);
  body(N - 1);
}

// Calls use(i, w) for the columns of one run of codes.
template <Kind K, class Use>
static inline void each_code(const uint8_t* run, const Use& use) {
  constexpr Layout L = layout(K);
  const ints words[2] = {load_ints(run), load_ints(run + kRunBytes / 2)};
  unrolled<L.run()>([&](int i) {
    Column w;
    for (int j = 0; j < 2; j++)
      w.v[j] = to_floats(L.bits == 4 ? bits_of(words[j], i % 4 * 8 + i / 4 * 4, 15) : signed_byte(words[j], i));
    use(i, w);
  });
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

// Calls use(block, group, g) for the groups from `block` on, in order. `cols` is a multiple of the columns of a
// superblock.
template <Kind K, class Use>
static inline void each_group(const uint8_t* block, int64_t cols, const Use& use) {
  constexpr Layout L = layout(K);
  int64_t g = 0;
  for (int64_t c = 0; c < cols; c += L.columns, block += L.bytes)
    for (int i = 0; i < L.groups; i++, g++) use(block, block + L.head_bytes + i * L.group_bytes, g);
}

// Calls use(c, w) for the first `cols` columns from `block` on, in order.
template <Kind K, class Use>
static inline void each_column(const uint8_t* block, int64_t cols, const Use& use) {
  constexpr Layout L = layout(K);
  if constexpr (L.quantized) {
    each_group<K>(block, cols, [&](const uint8_t* head, const uint8_t* group, int64_t g) {
      Column d, m;
      load_scales<K>(head, group, d, m);
      const uint8_t* run = group + L.scale_bytes;
      for (int at = 0; at < L.group; at += L.run(), run += kRunBytes)
        each_code<K>(run, [&](int i, Column& w) {
          for (int j = 0; j < 2; j++) {
            if constexpr (L.minimum || K == Kind::Q4_0)
              w.v[j] = fma(w.v[j], d.v[j], m.v[j]);
            else
              w.v[j] = w.v[j] * d.v[j];
          }
          use(g * L.group + at + i, w);
        });
    });
  } else {
    for (int64_t c = 0; c < cols; c++, block += L.bytes)
      use(c, Column{{load_values<K>(block), load_values<K>(block + L.bytes / 2)}});
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
