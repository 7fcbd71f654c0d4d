// Layout of weight matrices in memory: panels of 32 output rows, interleaved so that one register holds many rows of
// the same columns. One layout serves float and int8 activations.
//
// A panel is a sequence of superblocks along the columns. A superblock consists of
//   head     fp16 scales of the 32 rows, then (kinds with a minimum) fp16 minima of the 32 rows; none for plain floats
//   scales   (K kinds) for every group: one scale byte per row, then one minimum byte per row if the kind has minima
//   groups   the columns. Plain floats: 32 values per column. Codes: runs of one 32-bit word per row. Codes of 8 bits:
//            four columns (byte b is column b). Others: the low 4 bits of eight columns (byte b has column b in its low
//            half and column 4 + b in its high half); codes of 5 and 6 bits have one more run per group with the bits
//            above those (byte b has columns b, 4 + b, 8 + b, ..., from its lowest bits on).
// A panel takes as many bytes as its rows do in the file; Q5_K, 2% more.
// The value of a code is (code - offset) * d (+ m). d and m are exact in float, and so is code * d for every kind. The
// only rounding is that of the final addition, so that fused and separate arithmetic agree.
//
// Included by kernels: there is no function with external linkage here (see simd.h).
#pragma once

#include <cstdint>

namespace kvloom {

constexpr int kPanel = 32;
constexpr int kRunBytes = 4 * kPanel;

enum class Kind : int64_t { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K };
constexpr int kKinds = 11;
constexpr const char* kKindNames[kKinds] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1", "Q5_0",
                                            "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"};

struct Layout {
  int bits;          // of one value
  int group;         // columns that share a scale
  int groups;        // per superblock
  bool quantized;    // has fp16 scales
  bool minimum;      // has fp16 minima
  bool nested;       // has byte scales per group (K kinds)
  int source_bytes;  // of a superblock of one row in the file

  // Sizes of a superblock (bytes: for all 32 rows), derived from the above.
  // halves_bytes: all fp16; scale_bytes: of one group; head_bytes: all before the codes; group_bytes: codes of a group.
  int columns, halves_bytes, scale_bytes, head_bytes, group_bytes, bytes;

  // Columns that share a 32-bit word of a run.
  constexpr int run() const { return bits < 8 ? 8 : 32 / bits; }
  constexpr int runs() const { return group / run(); }
  // Bits of a code beyond the low four, if they are stored apart.
  constexpr int high_bits() const { return bits == 5 || bits == 6 ? bits - 4 : 0; }
};

static constexpr Layout make_layout(int bits, int group, int groups, bool quantized, bool minimum, bool nested,
                                    int source_bytes) {
  const int halves = quantized ? 2 * kPanel * (1 + minimum) : 0, scales = nested ? kPanel * (1 + minimum) : 0;
  const int head = halves + groups * scales, codes = group * kPanel * bits / 8;
  return {bits,
          group,
          groups,
          quantized,
          minimum,
          nested,
          source_bytes,
          group * groups,
          halves,
          scales,
          head,
          codes,
          head + groups * codes};
}

static constexpr Layout layout(Kind kind) {
  switch (kind) {
    case Kind::F32:
      return make_layout(32, 1, 1, false, false, false, 4);
    case Kind::F16:
    case Kind::BF16:
      return make_layout(16, 1, 1, false, false, false, 2);
    case Kind::Q4_0:
      return make_layout(4, 32, 1, true, false, false, 18);
    case Kind::Q4_1:
      return make_layout(4, 32, 1, true, true, false, 20);
    case Kind::Q5_0:
      return make_layout(5, 32, 1, true, false, false, 22);
    case Kind::Q5_1:
      return make_layout(5, 32, 1, true, true, false, 24);
    case Kind::Q8_0:
      return make_layout(8, 32, 1, true, false, false, 34);
    case Kind::Q4_K:
      return make_layout(4, 32, 8, true, true, true, 144);
    case Kind::Q5_K:
      return make_layout(5, 32, 8, true, true, true, 176);
    case Kind::Q6_K:
      return make_layout(6, 16, 16, true, false, true, 210);
  }
  return {};
}

// What is subtracted from a code before it is multiplied by its scale. Codes of 8 bits are signed.
static constexpr int offset_of(Kind kind) {
  return kind == Kind::Q4_0 ? 8 : kind == Kind::Q5_0 ? 16 : kind == Kind::Q6_K ? 32 : 0;
}

// A packed matrix. Plain integers, so that callers outside of C++ can build a table of them.
struct Matrix {
  int64_t packed;  // address
  int64_t kind;
  int64_t rows;
};

static inline bool is_quantized(Kind kind) {
  return layout(kind).quantized;
}

static inline int64_t num_panels(int64_t rows) {
  return (rows + kPanel - 1) / kPanel;
}

static inline int64_t panel_bytes(Kind kind, int64_t cols) {
  const Layout shape = layout(kind);
  return cols / shape.columns * shape.bytes;
}

static inline const uint8_t* panel_at(const Matrix& part, int64_t panel, int64_t cols) {
  return reinterpret_cast<const uint8_t*>(part.packed) + panel * panel_bytes((Kind)part.kind, cols);
}

// Passes the kind as a compile-time constant: calls visit(KindTag<K>{}).
template <Kind K>
struct KindTag {
  static constexpr Kind kind = K;
};

template <class Visit>
static inline void with_kind(Kind kind, const Visit& visit) {
  switch (kind) {
    case Kind::F32:
      return visit(KindTag<Kind::F32>{});
    case Kind::F16:
      return visit(KindTag<Kind::F16>{});
    case Kind::BF16:
      return visit(KindTag<Kind::BF16>{});
    case Kind::Q4_0:
      return visit(KindTag<Kind::Q4_0>{});
    case Kind::Q4_1:
      return visit(KindTag<Kind::Q4_1>{});
    case Kind::Q5_0:
      return visit(KindTag<Kind::Q5_0>{});
    case Kind::Q5_1:
      return visit(KindTag<Kind::Q5_1>{});
    case Kind::Q8_0:
      return visit(KindTag<Kind::Q8_0>{});
    case Kind::Q4_K:
      return visit(KindTag<Kind::Q4_K>{});
    case Kind::Q5_K:
      return visit(KindTag<Kind::Q5_K>{});
    case Kind::Q6_K:
      return visit(KindTag<Kind::Q6_K>{});
  }
}

}  // namespace kvloom
