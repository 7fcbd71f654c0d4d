#include "linear.h"

#include "activations_tile.h"
#include "linear_float.h"
#include "linear_int8.h"
#include "parallel.h"

namespace kvloom {
namespace KV_ISA {
namespace {

// The many-row paths work on blocks of rows x columns x panels that share a core's L2 cache: 240 KiB each of
// x (a quarter of that in bytes) and of y.
constexpr int kBlockRows = 240, kBlockPanels = 8;

static inline int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Rows in tiles as even as they get: 13 rows are 7 and 6, not 12 and 1.
struct Tiles {
  int64_t rows, count;
  Tiles(int64_t all, int64_t most) : rows(all), count((all + most - 1) / most) {}
  int64_t first(int64_t tile) const { return tile * rows / count; }
};

// A block of work: tiles [tile, end) of rows times panels [first, last) of one part, whose first output is
// `output`.
struct Block {
  const Matrix* part;
  int64_t output, first, last, tile, end;
};

// Where a panel's results live while they grow: in the output, or beside it if the panel is not full.
struct Target {
  float* y;
  int64_t stride, width;
};

struct Call {
  const LinearArgs& args;
  Tiles tiles;
  Activations8 x8;  // no digits: activations are floats

  bool in_bytes(const Matrix& part) const { return x8.digits > 0 && is_quantized((Kind)part.kind); }
};

class Worker {
 public:
  Worker(const Call& call, const Block& block) : call_(call), a_(call.args), b_(block) {
    row_ = call.tiles.first(block.tile), rows_ = call.tiles.first(block.end) - row_;
  }

  void run() {
    if (call_.in_bytes(*b_.part))
      return with_kind((Kind)b_.part->kind, [&](auto tag) { bytes<decltype(tag)::kind>(); });
    for (int64_t p = b_.first; p < b_.last; p++) start(p);
    if (rows_ <= kFewRows)
      with_kind((Kind)b_.part->kind, [&](auto tag) { few<decltype(tag)::kind>(); });
    else
      many();
    finish();
  }

 private:
  int64_t width_of(int64_t panel) const { return least(kPanel, b_.part->rows - panel * kPanel); }
  float* output(int64_t panel) const { return a_.out + row_ * a_.outputs + b_.output + panel * kPanel; }
  const float* bias(int64_t panel) const { return a_.bias ? a_.bias + b_.output + panel * kPanel : nullptr; }

  Target target(int64_t panel) {
    const int64_t width = width_of(panel);
    if (width < kPanel) return {rest_, kPanel, width};
    return {output(panel), a_.outputs, kPanel};
  }

  void start(int64_t panel) {
    const Target t = target(panel);
    float first[kPanel] = {};
    if (a_.bias) std::memcpy(first, bias(panel), (size_t)t.width * 4);
    for (int64_t r = 0; r < rows_; r++) std::memcpy(t.y + r * t.stride, first, sizeof first);
  }

  template <Kind K>
  void bytes() {
    if constexpr (layout(K).quantized)
      for (int64_t p = b_.first; p < b_.last; p++) b_.end - b_.tile == 1 ? one_tile<K>(p) : many_tiles<K>(p);
  }

  template <Kind K>
  void one_tile(int64_t panel) {
    const int64_t width = width_of(panel);
    sums_.begin(bias(panel), rows_, width);
    packed_tile_of<K>(rows_, panel_at(*b_.part, panel, a_.cols), a_.cols, call_.x8.tile(row_, a_.cols), sums_);
    sums_.store_to(output(panel), a_.outputs, rows_, width);
  }

  template <Kind K>
  void many_tiles(int64_t panel) {
    constexpr Layout L = layout(K);
    const int64_t width = width_of(panel), blocks = a_.cols / L.columns;
    const Tiles cuts(blocks, kBlockCols8 / L.columns);
    for (int64_t cut = 0; cut < cuts.count; cut++) {
      const int64_t first = cuts.first(cut), last = cuts.first(cut + 1), n = (last - first) * L.columns;
      const uint8_t* packed = panel_at(*b_.part, panel, a_.cols) + first * L.bytes;
      unpack8<K>(packed, n, unpacked_);
      // What follows in memory is next, here or in the next panel.
      const int64_t steps = (b_.end - b_.tile) * n / L.group;
      Ahead ahead = {packed + (last - first) * L.bytes, ((last - first) * L.bytes / 64 + steps - 1) / steps, nullptr,
                     a_.outputs};
      for (int64_t i = b_.tile; i < b_.end; i++) {
        const int64_t row = call_.tiles.first(i), rows = call_.tiles.first(i + 1) - row;
        float* y = output(panel) + (row - row_) * a_.outputs;
        ahead.y = y;
        if (cut == 0)
          sums_.begin(bias(panel), rows, width);
        else
          sums_.load_from(y, a_.outputs, rows, width);
        const Activations8 x = call_.x8.tile(row, a_.cols).after(first * L.columns, rows);
        unpacked_tile_of<FormatOf<K>>(rows, unpacked_, n, x, ahead, sums_);
        sums_.store_to(y, a_.outputs, rows, width);
      }
    }
  }

  template <Kind K>
  void few() {
    for (int64_t p = b_.first; p < b_.last; p++) {
      const Target t = target(p);
      few_rows_of<K>((int)rows_, a_.x + row_ * a_.cols, a_.cols, panel_at(*b_.part, p, a_.cols), t.y, t.stride);
    }
  }

  void many() {
    for (int64_t c = 0; c < a_.cols; c += kBlockCols) {
      const int64_t n = least(kBlockCols, a_.cols - c);
      for (int64_t p = b_.first; p < b_.last; p++) {
        unpack(*b_.part, p, c, n, a_.cols, weights_);
        const Target t = target(p);
        for (int64_t i = b_.tile; i < b_.end; i++) {
          const int64_t row = call_.tiles.first(i), r = row - row_;
          tile_of(call_.tiles.first(i + 1) - row, a_.x + row * a_.cols + c, a_.cols, weights_, n, t.y + r * t.stride,
                  t.stride);
        }
      }
    }
  }

  void finish() {
    const int64_t panel = b_.last - 1;
    const Target t = target(panel);
    if (t.width == kPanel) return;
    float* y = output(panel);
    for (int64_t r = 0; r < rows_; r++) std::memcpy(y + r * a_.outputs, rest_ + r * kPanel, (size_t)t.width * 4);
  }

  const Call& call_;
  const LinearArgs& a_;
  const Block& b_;
  int64_t row_, rows_;
  union {
    alignas(64) float weights_[kBlockCols * kPanel];
    Unpacked unpacked_;
  };
  Sums sums_;
  alignas(64) float rest_[kBlockRows * kPanel];
};

// Cuts the product into blocks: as large as the caches like, but enough of them to keep all threads busy.
class Blocks {
 public:
  Blocks(const LinearArgs& args, const Tiles& tiles, int64_t most_tiles) : a_(args), tiles_(tiles) {
    row_blocks_ = (tiles.count + most_tiles - 1) / most_tiles;
    int64_t panels = 0;
    for (int64_t i = 0; i < a_.num_parts; i++) panels += num_panels(a_.parts[i].rows);
    // Long runs of panels read memory faster; where arithmetic rules, threads that end together matter more.
    const int64_t per_thread = row_blocks_ == 1 ? 4 : 8;
    const int64_t share = panels * row_blocks_ / (per_thread * a_.threads);
    const int64_t most = a_.rows <= kFewRows ? 64 : kBlockPanels;
    size_ = a_.threads > 1 ? least(share > 1 ? share : 1, most) : most;
    for (int64_t i = 0; i < a_.num_parts; i++) per_row_block_ += (num_panels(a_.parts[i].rows) + size_ - 1) / size_;
  }

  int64_t count() const { return row_blocks_ * per_row_block_; }

  Block at(int64_t index) const {
    const int64_t row_block = index / per_row_block_;
    int64_t group = index % per_row_block_, output = 0;
    const Matrix* part = a_.parts;
    for (int64_t groups; group >= (groups = (num_panels(part->rows) + size_ - 1) / size_); part++)
      group -= groups, output += part->rows;
    const int64_t first = group * size_, last = least(first + size_, num_panels(part->rows));
    return {part,
            output,
            first,
            last,
            row_block * tiles_.count / row_blocks_,
            (row_block + 1) * tiles_.count / row_blocks_};
  }

 private:
  const LinearArgs& a_;
  const Tiles& tiles_;
  int64_t row_blocks_, size_, per_row_block_ = 0;
};

Activations8 quantize(const LinearArgs& a, const Tiles& tiles, int digits) {
  const Activations8 x8 = activations_scratch(a.rows, a.cols, digits);
  parallel_for(tiles.count, a.threads, [&](int64_t i) {
    const int64_t row = tiles.first(i), rows = tiles.first(i + 1) - row;
    quantize_tile(a.x + row * a.cols, a.cols, x8.tile(row, a.cols), rows);
  });
  return x8;
}

void linear(const LinearArgs& args) {
  if (args.rows == 0) return;
  const int digits = args.cols % kGroup ? 0 : (int)args.activations;
  const int64_t tile_rows = digits ? kTileRows8 : kTileRows;
  const Tiles tiles(args.rows, tile_rows);
  const Call call = {args, tiles, digits ? quantize(args, tiles, digits) : Activations8{}};
  const Blocks blocks(args, tiles, kBlockRows / tile_rows);
  parallel_for(blocks.count(), args.threads, [&](int64_t i) {
    const Block block = blocks.at(i);
    Worker(call, block).run();
  });
}

}  // namespace

const LinearKernels linear_kernels = {linear};

}  // namespace KV_ISA
}  // namespace kvloom
