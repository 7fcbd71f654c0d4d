// Packed weights times activations in bytes (activations.h).
#pragma once

#include "activations.h"
#include "panels.h"

namespace kvloom {
namespace KV_ISA {

// Rows of a register tile at most, and how many of those multiply weights as they are packed. More rows than that
// read weights that were unpacked once for all of them.
#if defined(__AVX512F__)
constexpr int kTileRows8 = 12, kFewRows8 = 12;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kTileRows8 = 4, kFewRows8 = 4;
#else
constexpr int kTileRows8 = 2, kFewRows8 = 2;
#endif

// Columns of a panel that are unpacked at a time: 20 KiB with their scales.
constexpr int kBlockCols8 = 512;

// What a kernel must know of a kind: bits of a code, columns that share a scale, what to take off a code, and
// whether there is a minimum.
template <int kCodeBits, int kCols, int kTakeOff, bool kHasMinimum>
struct Format {
  static constexpr int bits = kCodeBits, cols = kCols, offset = kTakeOff;
  static constexpr bool minimum = kHasMinimum;
  static constexpr int words = cols / 4;
  // Halves of a panel whose sums fit into registers together.
#if defined(__AVX512VNNI__)
  static constexpr int halves = 2;
#elif defined(__AVX512F__)
  static constexpr int halves = bits == 4 ? 2 : 1;
#else
  static constexpr int halves = 1;
#endif
};

constexpr bool is_signed(Kind kind) {
  return kind == Kind::Q5_0 || kind == Kind::Q8_0 || kind == Kind::Q6_K;
}

template <Kind K>
using FormatOf = Format<layout(K).bits, layout(K).group, K == Kind::Q4_0 ? 8 : (is_signed(K) ? kByteOffset : 0),
                        layout(K).minimum>;

// One word per output as the dot product wants it: the `half`-th four columns of a run.
template <Kind K>
static inline ints word_of(ints run, int half) {
  if constexpr (layout(K).bits == 4) return bits_of(run, 4 * half, 0x0f0f0f0f);
  if constexpr (is_signed(K) && kByteOffset) return flip(run, (int32_t)0x80808080);
  return run;
}

// y tile += one group of columns. word(i, j) is the i-th word of outputs 16 j to 16 j + 15.
template <class F, int R, class Word>
static inline void add_group(const Word& word, const Column& d, const Column& m, const Digit& x, int64_t g,
                             float* y, int64_t y_stride) {
  const int8_t* codes = x.codes + g * F::cols * R;
  const int64_t shared = g * F::cols / kGroup * R;
  const int32_t* less = (F::offset == 8 ? x.less8 : x.less128) + g * (F::cols / 16) * R;
  const auto start = [&](int r) { return !F::offset ? 0 : F::cols == 16 ? less[r] : less[r] + less[R + r]; };
  for (int at = 0; at < 2; at += F::halves) {
    Dot<F::bits, ints> sum[R][F::halves];
    KV_UNROLL
    for (int r = 0; r < R; r++)
      for (int j = 0; j < F::halves; j++) sum[r][j].begin(start(r));
    for (int i = 0; i < F::words; i++) {
      ints w[F::halves];
      for (int j = 0; j < F::halves; j++) w[j] = word(i, at + j);
      KV_UNROLL
      for (int r = 0; r < R; r++) {
        const ints xs = splat_int(word_at(codes + (i * R + r) * 4));
        for (int j = 0; j < F::halves; j++) sum[r][j].add(w[j], xs);
      }
    }
    KV_UNROLL
    for (int r = 0; r < R; r++)
      for (int j = 0; j < F::halves; j++) {
        float* to = y + r * y_stride + 16 * (at + j);
        v16 v = fma(to_floats(sum[r][j].total(start(r))), splat(x.scale[shared + r]) * d.v[at + j], load(to));
        if constexpr (F::minimum) v = fma(splat(x.total[shared + r]), m.v[at + j], v);
        store(to, v);
      }
  }
}

// Few rows: R rows times a panel as it is packed.
template <Kind K, int R>
void packed_tile(const uint8_t* panel, int64_t cols, const Activations8& x, float* y, int64_t y_stride) {
  constexpr Layout L = layout(K);
  each_group<K>(panel, cols, [&](const uint8_t* head, const uint8_t* group, int64_t g) {
    const uint8_t* runs = group + L.scale_bytes;
    const auto word = [&](int i, int j) {
      const int run = i * 4 / L.run(), half = i * 4 % L.run() / 4;
      return word_of<K>(load_ints(runs + run * kRunBytes + j * (kRunBytes / 2)), half);
    };
    Column d, m;
    load_scales<K>(head, group, d, m);
    for (int i = 0; i < x.digits; i++) add_group<FormatOf<K>, R>(word, d, m, x.digit[i], g, y, y_stride);
  });
}

template <Kind K, int R = 1>
void packed_tile_of(int64_t rows, const uint8_t* panel, int64_t cols, const Activations8& x, float* y,
                    int64_t y_stride) {
  if (rows == R) return packed_tile<K, R>(panel, cols, x, y, y_stride);
  if constexpr (R < kFewRows8) packed_tile_of<K, R + 1>(rows, panel, cols, x, y, y_stride);
}

// Some columns of a panel, ready to multiply.
struct alignas(64) Unpacked {
  uint8_t words[kBlockCols8 / 4][kRunBytes];
  float d[kBlockCols8 / 16][kPanel], m[kBlockCols8 / 16][kPanel];
};

template <Kind K>
void unpack8(const uint8_t* block, int64_t cols, Unpacked& out) {
  constexpr Layout L = layout(K);
  each_group<K>(block, cols, [&](const uint8_t* head, const uint8_t* group, int64_t g) {
    Column d, m;
    load_scales<K>(head, group, d, m);
    for (int j = 0; j < 2; j++) {
      store(out.d[g] + 16 * j, d.v[j]);
      if constexpr (L.minimum) store(out.m[g] + 16 * j, m.v[j]);
    }
    const uint8_t* run = group + L.scale_bytes;
    for (int at = 0; at < L.group; at += L.run(), run += kRunBytes)
      for (int j = 0; j < 2; j++) {
        const ints words = load_ints(run + j * (kRunBytes / 2));
        for (int half = 0; half < L.run() / 4; half++) {
          const ints word = word_of<K>(words, half);
          std::memcpy(out.words[(g * L.group + at) / 4 + half] + j * (kRunBytes / 2), &word, sizeof word);
        }
      }
  });
}

// Many rows: R of them times what was unpacked.
template <class F, int R>
void unpacked_tile(const Unpacked& w, int64_t cols, const Activations8& x, float* y, int64_t y_stride) {
  for (int64_t g = 0; g < cols / F::cols; g++) {
    const auto word = [&](int i, int j) { return load_ints(w.words[g * F::words + i] + j * (kRunBytes / 2)); };
    Column d, m;
    for (int j = 0; j < 2; j++) {
      d.v[j] = load(w.d[g] + 16 * j);
      if constexpr (F::minimum) m.v[j] = load(w.m[g] + 16 * j);
    }
    for (int i = 0; i < x.digits; i++) add_group<F, R>(word, d, m, x.digit[i], g, y, y_stride);
  }
}

template <class F, int R = 1>
void unpacked_tile_of(int64_t rows, const Unpacked& w, int64_t cols, const Activations8& x, float* y,
                      int64_t y_stride) {
  if (rows == R) return unpacked_tile<F, R>(w, cols, x, y, y_stride);
  if constexpr (R < kTileRows8) unpacked_tile_of<F, R + 1>(rows, w, cols, x, y, y_stride);
}

}  // namespace KV_ISA
}  // namespace kvloom
