// Many rows of bytes times unpacked weights, in tiles of AMX: 16 rows times 16 outputs times a group of columns is one
// instruction. Sums are exact, and are converted and added in the order of linear_int8.h.
//
// The unit of the tiles multiplies the groups of one step while the vector units convert the sums of the step before.
// Conversion takes longer: while tiles are in use, multiplications of 512-bit vectors run on one port instead of two.
#pragma once

#include "amx.h"
#include "linear_int8.h"

namespace kvloom {
namespace KV_ISA {

#if defined(__AMX_INT8__)

// With fewer rows, which are one tile of linear_int8.h, that is faster: it reads packed weights.
constexpr int64_t kAmxLeastRows = kTileRows8 + 1;
constexpr int kAmxRows = 16;       // of a tile
constexpr int kAmxSums = 4;        // sums of groups in a step: as many as have room for their scales in registers
constexpr int64_t kAmxCols = 256;  // columns that are unpacked at a time: they remain in the first cache

// A byte of an unpacked word is signed, and has no offset.
template <Kind K>
static inline ints signed_word_of(const uint8_t* codes, int run, int i, int j) {
  if constexpr (layout(K).bits == 8) {
    return load_ints(codes + run * kRunBytes + j * (kRunBytes / 2));
  } else if constexpr (offset_of(K) == 0) {
    return word_of<K>(codes, run, i, j);
  } else {
    const ints moved = splat_int((128 - offset_of(K)) * 0x01010101);  // no byte overflows
    return flip(word_of<K>(codes, run, i, j) + moved, (int32_t)0x80808080);
  }
}

// The bits of 1.5 * 2^23 as a float: a small integer that is added to them is added to the float.
constexpr int32_t kFloatBits = 0x4b400000;
alignas(64) static const int32_t kSixteenFloatBits[16] = {
    kFloatBits, kFloatBits, kFloatBits, kFloatBits, kFloatBits, kFloatBits, kFloatBits, kFloatBits,
    kFloatBits, kFloatBits, kFloatBits, kFloatBits, kFloatBits, kFloatBits, kFloatBits, kFloatBits,
};

// Some groups of columns of a tile of rows, times a panel. The result is added to y [rows, 32].
struct AmxStep {
  const int8_t* codes[2];  // of each plane, at the first group
  const float *scale[2], *total[2];
  int64_t rows, first_group;
  int groups = 0;
  float* y;
};

// The sums of a step: of a group and plane, by row and output.
struct alignas(64) AmxSums {
  int32_t of[kAmxSums][kAmxRows][kPanel];
};

template <Kind K>
class AmxTiles {
  static constexpr Layout L = layout(K);
  // Numbers of tiles: activations, weights of outputs 0 to 15 and 16 to 31, and their sums. A product and the next one
  // have different ones.
  template <int kOdd>
  struct Numbers {
    static constexpr int x = kOdd, w = 2, sum = 4 + 2 * kOdd;
  };

 public:
  AmxTiles(int planes, Unpacked& weights) : planes_(planes), w_(weights), tiles_(shapes()) {}

  int64_t steps(int64_t cols) const { return (cols / L.group + most_groups() - 1) / most_groups(); }

  // Takes the next `cols` columns of a panel.
  void unpack(const uint8_t* block, int64_t cols) { unpack8<K>(block, cols, signed_word_of<K>, w_); }

  // y [rows, 32] += x times these columns. Done when finish() is.
  void add(const Activations8& x, int64_t rows, int64_t cols, float* y, Ahead& ahead) {
    const int64_t groups = cols / L.group;
    for (int64_t g = 0; g < groups; g += most_groups()) {
      ahead.ask(0, 0);  // weights alone: the output is written once, at the end
      AmxStep& next = steps_[at_];
      for (int i = 0; i < planes_; i++) {
        const Plane& plane = x.plane[i];
        const int64_t at = g * L.group / kGroup * rows;
        next.codes[i] = plane.codes + at * kGroup, next.scale[i] = plane.scale + at, next.total[i] = plane.total + at;
      }
      next.rows = rows, next.first_group = g, next.y = y;
      next.groups = (int)(groups - g < most_groups() ? groups - g : most_groups());
      turn();
    }
  }

  void finish() {
    steps_[at_].groups = 0;
    turn();
  }

 private:
  static TileShapes shapes() {
    TileShapes shapes;
    shapes.set(0, kAmxRows, L.group), shapes.set(1, kAmxRows, L.group);
    shapes.set(2, L.group / 4, kRunBytes / 2), shapes.set(3, L.group / 4, kRunBytes / 2);
    for (int tile = 4; tile < 8; tile++) shapes.set(tile, kAmxRows, 16 * sizeof(int32_t));
    return shapes;
  }

  int64_t most_groups() const { return kAmxSums / planes_; }

  // Multiplies the next step, and converts the sums of the one before.
  void turn() {
    planes_ == 1 ? convert_groups<kAmxSums, 1>() : convert_groups<kAmxSums / 2, 2>();
    at_ = !at_;
  }

  template <int kGroups, int kPlanes>
  void convert_groups() {
    if (steps_[!at_].groups == kGroups) return convert<kGroups, kPlanes>();
    if constexpr (kGroups > 0) convert_groups<kGroups - 1, kPlanes>();
  }

  template <int kGroups, int kPlanes>
  [[gnu::noinline]] void convert() {
    const AmxStep& last = steps_[!at_];
    Scales scales[kGroups > 0 ? kGroups : 1];
    KV_UNROLL for (int g = 0; g < kGroups; g++) KV_UNROLL for (int j = 0; j < 2; j++) {
      scales[g].d.v[j] = load(w_.d[last.first_group + g] + 16 * j);
      if constexpr (L.minimum) scales[g].m.v[j] = load(w_.m[last.first_group + g] + 16 * j);
    }
    // Copies: what a tile instruction may change is read from memory again after each.
    const Planes<kPlanes> x(last);
    const int64_t rows = last.rows;
    float* const y = last.y;
    const AmxSums* const sums = &sums_[!at_];
    const auto add = [&](int64_t r) KV_INLINE {
      if constexpr (kGroups > 0)
        if (r < rows) add_row<kGroups, kPlanes>(r, rows, x, sums, scales, y + r * kPanel);
    };
    const int products = steps_[at_].groups * kPlanes;
    for (int i = 0; i < kAmxSums; i += 2) {
      between<0, kPlanes>(i, products, add);
      between<1, kPlanes>(i + 1, products, add);
    }
    if (products == kAmxSums) {
      keep<Numbers<1>::sum>(sums_[at_].of[kAmxSums - 1][0]);
      keep<Numbers<1>::sum + 1>(sums_[at_].of[kAmxSums - 1][0] + 16);
    }
  }

  // Product `i` of the next step, and the end of the one before it, between the conversions of four rows.
  template <int kOdd, int kPlanes, class Add>
  [[gnu::always_inline]] void between(int i, int products, const Add& add) {
    typedef Numbers<kOdd> N;
    const AmxStep& next = steps_[at_];
    const int64_t g = i / kPlanes, col = g * L.group;
    const int8_t* x = next.codes[i % kPlanes] + col / kGroup * kGroup * next.rows + col % kGroup;
    const uint8_t* w = w_.words[(next.first_group + g) * (L.group / 4)];
    int32_t* before = sums_[at_].of[i - 1][0];
    const bool multiplies = i < products, ends = 0 < i && i <= products;
    constexpr int kRows = kAmxRows / kAmxSums;
    static_assert(kRows == 4, "one place for each of these");
    if (multiplies) load_tile<N::x>(x, kGroup);
    add(kRows * i);
    if (multiplies) {
      load_tile<N::w>(w, kRunBytes), load_tile<N::w + 1>(w + kRunBytes / 2, kRunBytes);
      begin<N::sum>(), begin<N::sum + 1>();
      multiply_tiles<N::sum, N::x, N::w>(), multiply_tiles<N::sum + 1, N::x, N::w + 1>();
    }
    add(kRows * i + 1);
    if (ends) keep<Numbers<!kOdd>::sum>(before);
    add(kRows * i + 2);
    if (ends) keep<Numbers<!kOdd>::sum + 1>(before + 16);
    add(kRows * i + 3);
  }

  // With minima there are more loads than multiplications; without, sums begin so that no port of those converts them.
  static constexpr bool kBeginsWithBits = !L.minimum;

  template <int kTile>
  static void begin() {
    if constexpr (kBeginsWithBits)
      load_tile<kTile>(kSixteenFloatBits, 0);
    else
      clear_tile<kTile>();
  }
  template <int kTile>
  static void keep(int32_t* sums) {
    store_tile<kTile>(sums, kPanel * sizeof(int32_t));
  }
  static v16 converted(ints sum) {
    if constexpr (kBeginsWithBits)
      return (v16)sum - 12582912.0f;
    else
      return to_floats(sum);
  }

  template <int kPlanes>
  struct Planes {
    const float *scale[kPlanes], *total[kPlanes];
    explicit Planes(const AmxStep& step) {
      for (int i = 0; i < kPlanes; i++) scale[i] = step.scale[i], total[i] = step.total[i];
    }
  };

  template <int kGroups, int kPlanes>
  [[gnu::always_inline]] static void add_row(int64_t r, int64_t rows, const Planes<kPlanes>& x, const AmxSums* sums,
                                             const Scales (&scales)[kGroups], float* y) {
    v16 sum[2] = {load(y), load(y + 16)};
    KV_UNROLL for (int g = 0; g < kGroups; g++) KV_UNROLL for (int i = 0; i < kPlanes; i++) {
      const int64_t at = g * L.group / kGroup * rows + r;
      const uint8_t* exact = (const uint8_t*)sums->of[g * kPlanes + i][r];
      KV_UNROLL for (int j = 0; j < 2; j++) {
        const v16 dot = converted(load_ints(exact + 64 * j));
        sum[j] = fma(dot, splat(x.scale[i][at]) * scales[g].d.v[j], sum[j]);
        if constexpr (L.minimum) sum[j] = fma(splat(x.total[i][at]), scales[g].m.v[j], sum[j]);
      }
    }
    store(y, sum[0]), store(y + 16, sum[1]);
  }

  const int planes_;
  Unpacked& w_;
  const TilesInUse tiles_;
  AmxStep steps_[2] = {};
  AmxSums sums_[2];
  int at_ = 0;  // the next step
};

#endif

}  // namespace KV_ISA
}  // namespace kvloom
