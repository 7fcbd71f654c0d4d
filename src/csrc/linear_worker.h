// One block of a product: some rows times some panels, using the kernels suited to their number.
#pragma once

#include "activations_tile.h"
#include "linear_amx.h"
#include "linear_float.h"

namespace kvloom {
namespace KV_ISA {

// With many rows, work is done in blocks of rows x columns x panels that share a core's L2 cache: 240 KiB of x (a
// quarter of that in bytes) and as much of y.
constexpr int kBlockRows = 240, kBlockPanels = 8;

static inline int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Divides rows into tiles as evenly as possible: 13 rows into 7 and 6, not 12 and 1.
struct Tiles {
  int64_t rows, count;
  Tiles(int64_t all, int64_t most) : rows(all), count((all + most - 1) / most) {}
  int64_t first(int64_t tile) const { return tile * rows / count; }
};

// The input: rows of floats, and the same rows in bytes.
struct Input {
  const float* x;
  int64_t cols;
  Tiles tiles;
  Activations8 x8;  // without planes: floats only

  bool in_bytes(const Matrix& part) const { return x8.planes > 0 && is_quantized((Kind)part.kind); }
};

// A block of work: row tiles [tile, end) times panels [first, last) of one part.
struct Block {
  const Matrix* part;
  const float* bias;  // of the part, or null
  int64_t first, last, tile, end;
  float* out;  // at the first row and the first panel
  int64_t stride;
  const uint8_t* after;  // weights that are read next
};

class Worker {
 public:
  Worker(const Input& input, const Block& block) : in_(input), b_(block), cols_(input.cols) {
    row_ = in_.tiles.first(block.tile), rows_ = in_.tiles.first(block.end) - row_;
  }

  void run() {
    if (in_.in_bytes(*b_.part)) return with_kind((Kind)b_.part->kind, [&](auto tag) { bytes<decltype(tag)::kind>(); });
    for (int64_t p = b_.first; p < b_.last; p++) start(p, target(p));
    if (rows_ <= kFewRows)
      with_kind((Kind)b_.part->kind, [&](auto tag) { few<decltype(tag)::kind>(); });
    else
      many();
    finish();
  }

 private:
  // Where a panel's results are accumulated: in the output, or in a separate buffer if the panel is not full.
  struct Target {
    float* y;
    int64_t stride, width;
  };

  int64_t width_of(int64_t panel) const { return least(kPanel, b_.part->rows - panel * kPanel); }
  float* output(int64_t panel) const { return b_.out + (panel - b_.first) * kPanel; }
  const float* bias(int64_t panel) const { return b_.bias ? b_.bias + panel * kPanel : nullptr; }
  const uint8_t* weights(int64_t panel) const { return panel < b_.last ? panel_at(*b_.part, panel, cols_) : b_.after; }

  Target target(int64_t panel) {
    const int64_t width = width_of(panel);
    if (width < kPanel) return {rest_, kPanel, width};
    return {output(panel), b_.stride, kPanel};
  }

  void start(int64_t panel, const Target& t) {
    float first[kPanel] = {};
    if (b_.bias) std::memcpy(first, bias(panel), (size_t)t.width * 4);
    for (int64_t r = 0; r < rows_; r++) std::memcpy(t.y + r * t.stride, first, sizeof first);
  }

  template <Kind K>
  void bytes() {
    if constexpr (layout(K).quantized) {
#if defined(__AMX_INT8__)
      if (in_.x8.order == Order::groups) return amx<K>();
#endif
      for (int64_t p = b_.first; p < b_.last; p++) b_.end - b_.tile == 1 ? one_tile<K>(p) : many_tiles<K>(p);
    }
  }

  template <Kind K>
  void one_tile(int64_t panel) {
    const int64_t width = width_of(panel);
    sums_.begin(bias(panel), rows_, width);
    packed_tile_of<K>(rows_, {weights(panel), weights(panel + 1)}, cols_, in_.x8.tile(row_, cols_), sums_);
    sums_.store_to(output(panel), b_.stride, rows_, width);
  }

  template <Kind K>
  void many_tiles(int64_t panel) {
    constexpr Layout L = layout(K);
    const int64_t width = width_of(panel), blocks = cols_ / L.columns;
    const Tiles cuts(blocks, kBlockCols8 / L.columns);
    for (int64_t cut = 0; cut < cuts.count; cut++) {
      const int64_t first = cuts.first(cut), last = cuts.first(cut + 1), n = (last - first) * L.columns;
      const uint8_t* packed = weights(panel) + first * L.bytes;
      unpack8<K>(packed, n, byte_word_of<K>, unpacked_);
      const uint8_t* next = last < blocks ? packed + (last - first) * L.bytes : weights(panel + 1);
      const int64_t steps = (b_.end - b_.tile) * n / L.group;
      Ahead ahead = {next, ((last - first) * L.bytes / 64 + steps - 1) / steps, nullptr, b_.stride};
      for (int64_t i = b_.tile; i < b_.end; i++) {
        const int64_t row = in_.tiles.first(i), rows = in_.tiles.first(i + 1) - row;
        float* y = output(panel) + (row - row_) * b_.stride;
        ahead.y = y;
        if (cut == 0)
          sums_.begin(bias(panel), rows, width);
        else
          sums_.load_from(y, b_.stride, rows, width);
        const Activations8 x = in_.x8.tile(row, cols_).after(first * L.columns, rows);
        unpacked_tile_of<UnpackedFormat<K>>(rows, unpacked_, n, x, ahead, sums_);
        sums_.store_to(y, b_.stride, rows, width);
      }
    }
  }

#if defined(__AMX_INT8__)
  template <Kind K>
  void amx() {
    AmxTiles<K> tiles(in_.x8.planes, unpacked_);
    for (int64_t p = b_.first; p < b_.last; p++) {
      const Target sums = {rest_, kPanel, width_of(p)};  // near each other, whatever the stride of the output
      start(p, sums);
      amx_panel<K>(p, tiles);
      deliver(p, sums);
    }
  }

  template <Kind K>
  void amx_panel(int64_t panel, AmxTiles<K>& tiles) {
    constexpr Layout L = layout(K);
    const int64_t blocks = cols_ / L.columns;
    const Tiles cuts(blocks, kAmxCols / L.columns);
    for (int64_t cut = 0; cut < cuts.count; cut++) {
      const int64_t first = cuts.first(cut), last = cuts.first(cut + 1), n = (last - first) * L.columns;
      const uint8_t* packed = weights(panel) + first * L.bytes;
      const uint8_t* next = last < blocks ? packed + (last - first) * L.bytes : weights(panel + 1);
      const int64_t steps = (b_.end - b_.tile) * tiles.steps(n);
      Ahead ahead = {next, ((last - first) * L.bytes / 64 + steps - 1) / steps, nullptr, b_.stride};
      tiles.unpack(packed, n);
      for (int64_t i = b_.tile; i < b_.end; i++) {
        const int64_t row = in_.tiles.first(i), rows = in_.tiles.first(i + 1) - row, r = row - row_;
        tiles.add(in_.x8.tile(row, cols_).after(first * L.columns, rows), rows, n, rest_ + r * kPanel, ahead);
      }
      tiles.finish();
    }
  }
#endif

  template <Kind K>
  void few() {
    for (int64_t p = b_.first; p < b_.last; p++) {
      const Target t = target(p);
      few_rows_of<K>((int)rows_, in_.x + row_ * cols_, cols_, weights(p), t.y, t.stride);
    }
  }

  void many() {
    for (int64_t c = 0; c < cols_; c += kBlockCols) {
      const int64_t n = least(kBlockCols, cols_ - c);
      for (int64_t p = b_.first; p < b_.last; p++) {
        unpack(*b_.part, p, c, n, cols_, weights_);
        const Target t = target(p);
        for (int64_t i = b_.tile; i < b_.end; i++) {
          const int64_t row = in_.tiles.first(i), r = row - row_;
          tile_of(in_.tiles.first(i + 1) - row, in_.x + row * cols_ + c, cols_, weights_, n, t.y + r * t.stride,
                  t.stride);
        }
      }
    }
  }

  void finish() {
    const int64_t panel = b_.last - 1;
    const Target t = target(panel);
    if (t.width < kPanel) deliver(panel, t);
  }

  void deliver(int64_t panel, const Target& t) {
    float* y = output(panel);
    for (int64_t r = 0; r < rows_; r++) std::memcpy(y + r * b_.stride, t.y + r * t.stride, (size_t)t.width * 4);
  }

  const Input& in_;
  const Block& b_;
  const int64_t cols_;
  int64_t row_, rows_;
  union {
    alignas(64) float weights_[kBlockCols * kPanel];
    Unpacked unpacked_;
  };
  Sums sums_;
  alignas(64) float rest_[kBlockRows * kPanel];
};

}  // namespace KV_ISA
}  // namespace kvloom
