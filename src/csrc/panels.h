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

// A group of columns: the halves of its superblock, its scale bytes, its codes, and its number from the start.
struct Group {
  const uint8_t *halves, *scales, *codes;
  int64_t number;
};

// Calls use(i, w) for the columns of run `run` of a group's codes.
template <Kind K, class Use>
static inline void each_code(const uint8_t* codes, int run, const Use& use) {
  constexpr Layout L = layout(K);
  const uint8_t *low = codes + run * kRunBytes, *high = codes + L.runs() * kRunBytes;
  ints words[2], above[2];
  for (int j = 0; j < 2; j++) {
    words[j] = load_ints(low + j * (kRunBytes / 2));
    if constexpr (L.high_bits() > 0)
      above[j] = bits_of(load_ints(high + j * (kRunBytes / 2)), 2 * run * L.high_bits(), -1);
  }
  unrolled<L.run()>([&](int i) {
    constexpr int32_t top = ((1 << L.high_bits()) - 1) << 4;
    Column w;
    for (int j = 0; j < 2; j++) {
      ints code = L.bits == 8 ? signed_byte(words[j], i) : bits_of(words[j], i % 4 * 8 + i / 4 * 4, 15);
      if constexpr (L.high_bits() > 0) code = with_bits(code, above[j], i % 4 * 8 + i / 4 * L.high_bits() - 4, top);
      if constexpr (L.high_bits() > 0 && offset_of(K) > 0) code = code - splat_int(offset_of(K));
      w.v[j] = to_floats(code);
    }
    use(i, w);
  });
}

// d and m of one group of columns.
template <Kind K>
static inline void load_scales(const Group& group, Column& d, Column& m) {
  constexpr Layout L = layout(K);
  for (int j = 0; j < 2; j++) {
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(group.halves) + 16 * j;
    d.v[j] = load_f16(halves);
    if constexpr (L.minimum) m.v[j] = load_f16(halves + kPanel);
    if constexpr (K == Kind::Q6_K) d.v[j] = d.v[j] * load_i8(group.scales + 16 * j);
    if constexpr (L.nested && L.minimum) {
      d.v[j] = d.v[j] * load_u8(group.scales + 16 * j);
      m.v[j] = splat(-1.0f) * m.v[j] * load_u8(group.scales + kPanel + 16 * j);
    }
    if constexpr (K == Kind::Q4_0) m.v[j] = d.v[j] * splat(-8.0f);
  }
}

// Calls use(group) for the groups from `block` on, in order. `cols` is a multiple of the columns of a superblock.
template <Kind K, class Use>
static inline void each_group(const uint8_t* block, int64_t cols, const Use& use) {
  constexpr Layout L = layout(K);
  int64_t g = 0;
  for (int64_t c = 0; c < cols; c += L.columns, block += L.bytes)
    for (int i = 0; i < L.groups; i++, g++)
      use(Group{block, block + L.halves_bytes + i * L.scale_bytes, block + L.head_bytes + i * L.group_bytes, g});
}

// Calls use(c, w) for the first `cols` columns from `block` on, in order.
template <Kind K, class Use>
static inline void each_column(const uint8_t* block, int64_t cols, const Use& use) {
  constexpr Layout L = layout(K);
  if constexpr (L.quantized) {
    each_group<K>(block, cols, [&](const Group& group) {
      Column d, m;
      load_scales<K>(group, d, m);
      for (int run = 0; run < L.runs(); run++)
        each_code<K>(group.codes, run, [&](int i, Column& w) {
          for (int j = 0; j < 2; j++) {
            if constexpr (L.minimum || K == Kind::Q4_0)
              w.v[j] = fma(w.v[j], d.v[j], m.v[j]);
            else
              w.v[j] = w.v[j] * d.v[j];
          }
          use(group.number * L.group + run * L.run() + i, w);
        });
    });
  } else {
    for (int64_t c = 0; c < cols; c++, block += L.bytes)
      use(c, Column{{load_values<K>(block), load_values<K>(block + L.bytes / 2)}});
  }
}

}  // namespace KV_ISA
}  // namespace kvloom
