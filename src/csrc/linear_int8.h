// Packed weights times activations rounded to bytes (activations.h).
#pragma once

#include "activations.h"
#include "panels.h"

namespace kvloom {
namespace KV_ISA {

// Maximum number of rows in a register tile. A single tile uses weights in packed form; several tiles use weights that
// were unpacked once for all of them.
#if defined(__AVX512F__)
constexpr int kTileRows8 = 12;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kTileRows8 = 4;
#else
constexpr int kTileRows8 = 2;
#endif

// Distance at which packed weights are prefetched into the second-level cache.
constexpr int64_t kAheadBytes = 8192;

// Maximum number of columns of a panel that are unpacked at a time: 36 KiB with their scales.
constexpr int kBlockCols8 = 768;

// How the kernels see weights. bits: 4, or 8 for codes that do not fit into 4; cols: columns that share a scale;
// offset: what is to be subtracted from a code; run_words: words of four columns that come from one run; unroll: words
// of different runs are taken apart in different ways.
template <int kBits, int kCols, int kOffset, bool kMinimum, int kRunWords, bool kUnroll>
struct Format {
  static constexpr int bits = kBits, cols = kCols, offset = kOffset, run_words = kRunWords;
  static constexpr bool minimum = kMinimum, unroll = kUnroll;
  static constexpr int words = cols / 4, runs = words / run_words;
  // Number of halves of a panel whose sums fit into registers at the same time.
#if defined(__AVX512VNNI__)
  static constexpr int halves = 2;
#elif defined(__AVX512F__)
  static constexpr int halves = bits == 4 ? 2 : 1;
#else
  static constexpr int halves = 1;
#endif
};

// Weights as they are packed.
template <Kind K>
using PackedFormat = Format<layout(K).bits == 4 ? 4 : 8, layout(K).group, K == Kind::Q8_0 ? kByteOffset : offset_of(K),
                            layout(K).minimum, layout(K).run() / 4, (layout(K).high_bits() > 0)>;

// Weights that were unpacked: codes of 5 and 6 bits have become bytes like those of 8 bits, see dot.h.
template <Kind K>
using UnpackedFormat = Format<PackedFormat<K>::bits, layout(K).group,
                              layout(K).bits == 4 ? offset_of(K) : (PackedFormat<K>::offset > 0 ? kByteOffset : 0),
                              layout(K).minimum, 8 / PackedFormat<K>::bits, false>;

// Word `i` of run `run` of a group's codes, for outputs 16 j to 16 j + 15, in the form that the dot product needs.
template <Kind K>
static inline ints word_of(const uint8_t* codes, int run, int i, int j) {
  constexpr Layout L = layout(K);
  const auto load_run = [&](int at) { return load_ints(codes + at * kRunBytes + j * (kRunBytes / 2)); };
  if constexpr (L.bits == 8) return kByteOffset ? flip(load_run(run), (int32_t)0x80808080) : load_run(run);
  const ints low = bits_of(load_run(run), 4 * i, 0x0f0f0f0f);
  if constexpr (L.bits == 4) return low;
  constexpr int32_t top = L.high_bits() == 1 ? 0x10101010 : 0x30303030;
  return with_bits(low, load_run(L.runs()), (2 * run + i) * L.high_bits() - 4, top);
}

// The same as a byte of the unpacked format.
template <Kind K>
static inline ints byte_word_of(const uint8_t* codes, int run, int i, int j) {
  const ints word = word_of<K>(codes, run, i, j);
  if constexpr (layout(K).high_bits() > 0 && offset_of(K) > 0) {
    const ints moved = word + splat_int((128 - offset_of(K)) * 0x01010101);  // below 256 in every byte
    return kByteOffset ? moved : flip(moved, (int32_t)0x80808080);
  } else {
    return word;
  }
}

// d and m of one group.
struct Scales {
  Column d, m;
};

// The sums of a tile while they are accumulated. Not a local variable of the kernels: they do not fit into registers,
// but a compiler that saw through them would keep them there instead of the sums of a group.
struct alignas(64) Sums {
  float at[kTileRows8][kPanel];

  // Initializes every row with the `width` floats of `bias`, or with 0.
  void begin(const float* bias, int64_t rows, int64_t width) {
    std::memset(at, 0, (size_t)rows * sizeof at[0]);
    if (bias)
      for (int64_t r = 0; r < rows; r++) copy(at[r], bias, width);
  }
  void load_from(const float* y, int64_t y_stride, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) copy(at[r], y + r * y_stride, width);
  }
  void store_to(float* y, int64_t y_stride, int64_t rows, int64_t width) const {
    for (int64_t r = 0; r < rows; r++) copy(y + r * y_stride, at[r], width);
  }

 private:
  static void copy(float* to, const float* from, int64_t width) {
    std::memcpy(to, from, width == kPanel ? sizeof at[0] : (size_t)width * sizeof(float));
  }
};

// y += one group of columns of one plane. word(run, i, j) is the i-th word of a run, for outputs 16 j to 16 j + 15.
template <class F, int R, class Word, class Scale>
static inline void add_group(const Word& word, const Scale& scales, const Plane& x, int64_t g, Sums& y) {
  const int8_t* codes = x.codes + g * F::cols * R;
  const float *scale = x.scale + g * F::cols / kGroup * R, *total = x.total + g * F::cols / kGroup * R;
  const int32_t* less = (F::offset == 128 ? x.less128 : x.less8) + g * (F::cols / 16) * R;
  const auto start = [&](int r) {
    if constexpr (!F::offset) return 0;
    return (F::cols == 16 ? less[r] : less[r] + less[R + r]) * (F::offset == 128 ? 1 : F::offset / 8);
  };
  for (int at = 0; at < 2; at += F::halves) {
    Dot<F::bits, ints> sum[R][F::halves];
    KV_UNROLL
    for (int r = 0; r < R; r++)
      for (int j = 0; j < F::halves; j++) sum[r][j].begin(start(r));
    const auto add_run = [&](int run) KV_INLINE {
      const int8_t* xs = codes + run * F::run_words * 4 * R;
      KV_UNROLL
      for (int i = 0; i < F::run_words; i++, xs += 4 * R) {
        ints w[F::halves];
        for (int j = 0; j < F::halves; j++) w[j] = word(run, i, at + j);
        KV_UNROLL
        for (int r = 0; r < R; r++) {
          const ints four = splat_int(word_at(xs + 4 * r));
          for (int j = 0; j < F::halves; j++) sum[r][j].add(w[j], four);
        }
      }
    };
    if constexpr (F::unroll)
      unrolled<F::runs>(add_run);
    else
      for (int run = 0; run < F::runs; run++) add_run(run);
    const Scales s = scales();  // loaded this late because the registers were full
    KV_UNROLL
    for (int r = 0; r < R; r++)
      for (int j = 0; j < F::halves; j++) {
        float* to = y.at[r] + 16 * (at + j);
        v16 v = fma(to_floats(sum[r][j].total(start(r))), splat(scale[r]) * s.d.v[at + j], load(to));
        if constexpr (F::minimum) v = fma(splat(total[r]), s.m.v[at + j], v);
        store(to, v);
      }
  }
}

// A packed panel, and the weights that are read after it.
struct Packed {
  const uint8_t *panel, *after;
};

// Prefetches each line once, in the order in which lines are read, and goes from the end of a panel to what follows.
class ReadAhead {
 public:
  ReadAhead(const Packed& w, int64_t panel_bytes)
      : next_(w.panel + kAheadBytes), end_(w.panel + panel_bytes), jump_(w.after - end_) {}

  void from(const uint8_t* place) {
    for (; next_ < place + kAheadBytes; next_ += 64) __builtin_prefetch(next_ < end_ ? next_ : next_ + jump_, 0, 2);
  }

 private:
  const uint8_t *next_, *end_;
  int64_t jump_;
};

// One tile: R rows times a packed panel.
template <Kind K, int R>
[[gnu::noinline]] static void packed_tile(const Packed& w, int64_t cols, const Activations8& x, Sums& y) {
  constexpr Layout L = layout(K);
  ReadAhead ahead(w, cols / L.columns * L.bytes);
  each_group<K>(w.panel, cols, [&](const Group& group) {
    ahead.from(group.codes + L.group_bytes);
    const auto word = [&](int run, int i, int j) { return word_of<K>(group.codes, run, i, j); };
    const auto scales = [&] {
      Scales s;
      load_scales<K>(group, s.d, s.m);
      return s;
    };
    for (int i = 0; i < x.planes; i++) add_group<PackedFormat<K>, R>(word, scales, x.plane[i], group.number, y);
  });
}

template <Kind K, int R = 1>
void packed_tile_of(int64_t rows, const Packed& w, int64_t cols, const Activations8& x, Sums& y) {
  if (rows == R) return packed_tile<K, R>(w, cols, x, y);
  if constexpr (R < kTileRows8) packed_tile_of<K, R + 1>(rows, w, cols, x, y);
}

// Some columns of a panel, unpacked for multiplication.
struct alignas(64) Unpacked {
  uint8_t words[kBlockCols8 / 4][kRunBytes];
  float d[kBlockCols8 / 16][kPanel], m[kBlockCols8 / 16][kPanel];
};

// word(codes, run, i, j) is as in add_group, of the group with these codes.
template <Kind K, class Word>
void unpack8(const uint8_t* block, int64_t cols, const Word& word, Unpacked& out) {
  constexpr Layout L = layout(K);
  each_group<K>(block, cols, [&](const Group& group) {
    const int64_t g = group.number;
    Column d, m;
    load_scales<K>(group, d, m);
    for (int j = 0; j < 2; j++) {
      store(out.d[g] + 16 * j, d.v[j]);
      if constexpr (L.minimum) store(out.m[g] + 16 * j, m.v[j]);
    }
    constexpr int run_words = L.run() / 4;
    unrolled<L.runs()>([&](int run) {
      for (int i = 0; i < run_words; i++)
        for (int j = 0; j < 2; j++) {
          const ints four = word(group.codes, run, i, j);
          std::memcpy(out.words[g * L.group / 4 + run * run_words + i] + j * (kRunBytes / 2), &four, sizeof four);
        }
    });
  });
}

// Memory that is needed soon. Every group of columns prefetches a little of it, because a core can only wait for few
// lines at a time.
struct Ahead {
  const uint8_t* weights;
  int64_t lines;  // of 64 bytes, per group of columns
  const float* y;
  int64_t y_stride;

  void ask(int64_t group, int rows) {
    for (int64_t i = 0; i < lines; i++, weights += 64) __builtin_prefetch(weights, 0, 2);
    if (group >= rows) return;
    __builtin_prefetch(y + group * y_stride, 1);
    __builtin_prefetch(y + group * y_stride + 16, 1);
  }
};

// Many rows: R rows times unpacked weights.
template <class F, int R>
[[gnu::noinline]] static void unpacked_tile(const Unpacked& w, int64_t cols, const Activations8& x, Ahead& ahead,
                                            Sums& y) {
  for (int64_t g = 0; g < cols / F::cols; g++) {
    ahead.ask(g, R);
    const auto word = [&](int run, int i, int j) {
      return load_ints(w.words[g * F::words + run * F::run_words + i] + j * (kRunBytes / 2));
    };
    const auto scales = [&] {
      Scales s;
      for (int j = 0; j < 2; j++) s.d.v[j] = load(w.d[g] + 16 * j), s.m.v[j] = load(w.m[g] + 16 * j);
      return s;
    };
    for (int i = 0; i < x.planes; i++) add_group<F, R>(word, scales, x.plane[i], g, y);
  }
}

template <class F, int R = 1>
void unpacked_tile_of(int64_t rows, const Unpacked& w, int64_t cols, const Activations8& x, Ahead& ahead, Sums& y) {
  if (rows == R) return unpacked_tile<F, R>(w, cols, x, ahead, y);
  if constexpr (R < kTileRows8) unpacked_tile_of<F, R + 1>(rows, w, cols, x, ahead, y);
}

}  // namespace KV_ISA
}  // namespace kvloom
