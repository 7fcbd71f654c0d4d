#include "linear.h"

#include "panels.h"
#include "parallel.h"

namespace kvloom {
namespace KV_ISA {
namespace {

// Register tile of the many-row path: rows x outputs; and how many rows the few-row path keeps in registers
// at most.
#if defined(__AVX512F__)
constexpr int kTileRows = 12, kTileOutputs = 32, kFewRows = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kTileRows = 6, kTileOutputs = 16, kFewRows = 2;
#else
constexpr int kTileRows = 2, kTileOutputs = 16, kFewRows = 1;
#endif

// The many-row path works on blocks of rows x columns x panels that share a core's L2 cache: 240 KiB each of
// x and of y.
constexpr int kBlockRows = 240, kBlockCols = 256, kBlockPanels = 8;
static_assert(kBlockRows % kTileRows == 0, "whole tiles");

static inline int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Few rows: weights pass through registers once and serve all rows. y has room for whole panels and holds the
// starting values.
template <Kind K, int R>
void few_rows(const float* x, int64_t cols, const uint8_t* panel, float* y, int64_t y_stride) {
  Column sum[R];
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 2; j++) sum[r].v[j] = load(y + r * y_stride + 16 * j);
  each_column<K>(panel, cols, [&](int64_t c, const Column& w) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const v16 xs = splat(x[r * cols + c]);
      for (int j = 0; j < 2; j++) sum[r].v[j] = fma(xs, w.v[j], sum[r].v[j]);
    }
  });
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 2; j++) store(y + r * y_stride + 16 * j, sum[r].v[j]);
}

template <Kind K, int R = 1>
void few_rows_of(int rows, const float* x, int64_t cols, const uint8_t* panel, float* y, int64_t y_stride) {
  if (rows == R) return few_rows<K, R>(x, cols, panel, y, y_stride);
  if constexpr (R < kFewRows) few_rows_of<K, R + 1>(rows, x, cols, panel, y, y_stride);
}

// Many rows: y tile += x rows times `n` columns of one panel's float weights w [n, 32]. Sums carry on from
// what y holds.
template <int R>
void tile(const float* x, int64_t x_stride, const float* w, int64_t n, float* y, int64_t y_stride) {
  constexpr int kVecs = kTileOutputs / 16;
  v16 sum[R][kVecs];
  for (int r = 0; r < R; r++)
    for (int j = 0; j < kVecs; j++) sum[r][j] = load(y + r * y_stride + 16 * j);
  for (int64_t c = 0; c < n; c++, w += kPanel) {
    v16 ws[kVecs];
    for (int j = 0; j < kVecs; j++) ws[j] = load(w + 16 * j);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const v16 xs = splat(x[r * x_stride + c]);
      for (int j = 0; j < kVecs; j++) sum[r][j] = fma(xs, ws[j], sum[r][j]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < kVecs; j++) store(y + r * y_stride + 16 * j, sum[r][j]);
}

template <int R = kTileRows>
void tile_of(int64_t rows, const float* x, int64_t x_stride, const float* w, int64_t n, float* y, int64_t y_stride) {
  if (rows >= R) {
    for (int at = 0; at < kPanel; at += kTileOutputs) tile<R>(x, x_stride, w + at, n, y + at, y_stride);
  } else if constexpr (R > 1) {
    tile_of<R - 1>(rows, x, x_stride, w, n, y, y_stride);
  }
}

void unpack(const Matrix& part, int64_t panel, int64_t first, int64_t n, int64_t cols, float* w) {
  with_kind((Kind)part.kind, [&](auto tag) {
    constexpr Kind K = decltype(tag)::kind;
    constexpr Layout L = layout(K);
    each_column<K>(panel_at(part, panel, cols) + first / L.columns * L.bytes, n, [&](int64_t c, const Column& column) {
      for (int j = 0; j < 2; j++) store(w + c * kPanel + 16 * j, column.v[j]);
    });
  });
}

// A block of work: rows [row, row + rows) times panels [first, last) of one part, whose first output is
// `output`.
struct Block {
  const Matrix* part;
  int64_t output, first, last, row, rows;
};

// Where a panel's results live while they grow: in the output, or beside it if the panel is not full.
struct Target {
  float* y;
  int64_t stride, width;
};

class Worker {
 public:
  Worker(const LinearArgs& args, const Block& block) : a_(args), b_(block) {}

  void run() {
    for (int64_t p = b_.first; p < b_.last; p++) start(p);
    if (b_.rows <= kFewRows) {
      with_kind((Kind)b_.part->kind, [&](auto tag) { few<decltype(tag)::kind>(); });
    } else {
      many();
    }
    finish();
  }

 private:
  Target target(int64_t panel) {
    const int64_t width = least(kPanel, b_.part->rows - panel * kPanel);
    if (width < kPanel) return {rest_, kPanel, width};
    return {a_.out + b_.row * a_.outputs + b_.output + panel * kPanel, a_.outputs, kPanel};
  }

  void start(int64_t panel) {
    const Target t = target(panel);
    float first[kPanel] = {};
    if (a_.bias) std::memcpy(first, a_.bias + b_.output + panel * kPanel, (size_t)t.width * 4);
    for (int64_t r = 0; r < b_.rows; r++) std::memcpy(t.y + r * t.stride, first, sizeof first);
  }

  template <Kind K>
  void few() {
    for (int64_t p = b_.first; p < b_.last; p++) {
      const Target t = target(p);
      few_rows_of<K>((int)b_.rows, a_.x + b_.row * a_.cols, a_.cols, panel_at(*b_.part, p, a_.cols), t.y, t.stride);
    }
  }

  void many() {
    for (int64_t c = 0; c < a_.cols; c += kBlockCols) {
      const int64_t n = least(kBlockCols, a_.cols - c);
      for (int64_t p = b_.first; p < b_.last; p++) {
        unpack(*b_.part, p, c, n, a_.cols, weights_);
        const Target t = target(p);
        for (int64_t r = 0; r < b_.rows; r += kTileRows)
          tile_of(b_.rows - r, a_.x + (b_.row + r) * a_.cols + c, a_.cols, weights_, n, t.y + r * t.stride, t.stride);
      }
    }
  }

  void finish() {
    const int64_t panel = b_.last - 1;
    const Target t = target(panel);
    if (t.width == kPanel) return;
    float* y = a_.out + b_.row * a_.outputs + b_.output + panel * kPanel;
    for (int64_t r = 0; r < b_.rows; r++) std::memcpy(y + r * a_.outputs, rest_ + r * kPanel, (size_t)t.width * 4);
  }

  const LinearArgs& a_;
  const Block& b_;
  alignas(64) float weights_[kBlockCols * kPanel];
  alignas(64) float rest_[kBlockRows * kPanel];
};

// Cuts the product into blocks: as large as the caches like, but enough of them to keep all threads busy.
class Blocks {
 public:
  explicit Blocks(const LinearArgs& args) : a_(args) {
    row_blocks_ = (a_.rows + kBlockRows - 1) / kBlockRows;
    int64_t panels = 0;
    for (int64_t i = 0; i < a_.num_parts; i++) panels += num_panels(a_.parts[i].rows);
    const int64_t share = panels * row_blocks_ / (4 * (int64_t)a_.threads);
    const int64_t most = a_.rows <= kFewRows ? 64 : kBlockPanels;
    size_ = a_.threads > 1 ? least(share > 1 ? share : 1, most) : most;
    for (int64_t i = 0; i < a_.num_parts; i++) per_row_block_ += (num_panels(a_.parts[i].rows) + size_ - 1) / size_;
  }

  int64_t count() const { return row_blocks_ * per_row_block_; }

  Block at(int64_t index) const {
    const int64_t row = index / per_row_block_ * kBlockRows;
    int64_t group = index % per_row_block_, output = 0;
    const Matrix* part = a_.parts;
    for (int64_t groups; group >= (groups = (num_panels(part->rows) + size_ - 1) / size_); part++)
      group -= groups, output += part->rows;
    const int64_t first = group * size_;
    return {part, output, first, least(first + size_, num_panels(part->rows)), row, least(kBlockRows, a_.rows - row)};
  }

 private:
  const LinearArgs& a_;
  int64_t row_blocks_, size_, per_row_block_ = 0;
};

void linear(const LinearArgs& args) {
  const Blocks blocks(args);
  parallel_for(blocks.count(), args.threads, [&](int64_t i) {
    const Block block = blocks.at(i);
    Worker(args, block).run();
  });
}

}  // namespace

const LinearKernels linear_kernels = {linear};

}  // namespace KV_ISA
}  // namespace kvloom
