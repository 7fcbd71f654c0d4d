#include "linear.h"

#include "gates.h"
#include "linear_worker.h"
#include "parallel.h"

namespace kvloom {
namespace KV_ISA {
namespace {

// How many activation planes a product reads; 0: floats.
int planes_of(const LinearArgs& args) {
  return args.cols % kGroup ? 0 : (int)args.activations;
}

bool reads_floats(const LinearArgs& args) {
  if (planes_of(args) == 0) return true;
  for (int64_t i = 0; i < args.num_parts; i++)
    if (!is_quantized((Kind)args.parts[i].kind)) return true;
  return false;
}

// How rows are divided and rounded.
struct Shape {
  int64_t tile_rows;
  Order order;
};

Shape shape_of(const LinearArgs& args) {
#if defined(__AMX_INT8__)
  if (args.rows >= kAmxLeastRows && !reads_floats(args)) return {kAmxRows, Order::groups};
#endif
  return {planes_of(args) ? kTileRows8 : kTileRows, Order::words};
}

// Cuts the product with `num_parts` of the parts into blocks: as large as the caches like, but enough of them to keep
// all threads busy.
class Blocks {
 public:
  Blocks(const LinearArgs& args, int64_t num_parts, const Tiles& tiles) : a_(args), tiles_(tiles) {
    const int64_t most_tiles = kBlockRows / shape_of(args).tile_rows;
    row_blocks_ = (tiles.count + most_tiles - 1) / most_tiles;
    int64_t panels = 0;
    for (int64_t i = 0; i < num_parts; i++) panels += num_panels(a_.parts[i].rows);
    // Long runs of panels read memory faster; where arithmetic rules, threads that end together matter more.
    const int64_t per_thread = row_blocks_ == 1 ? 4 : 8;
    const int64_t share = panels * row_blocks_ / (per_thread * a_.threads);
    const int64_t most = a_.rows <= kFewRows ? 64 : kBlockPanels;
    size_ = a_.threads > 1 ? least(share > 1 ? share : 1, most) : most;
    for (int64_t i = 0; i < num_parts; i++) per_row_block_ += (num_panels(a_.parts[i].rows) + size_ - 1) / size_;
  }

  int64_t count() const { return row_blocks_ * per_row_block_; }

  Block at(int64_t index) const {
    const int64_t row_block = index / per_row_block_;
    int64_t group = index % per_row_block_, output = 0;
    const Matrix* part = a_.parts;
    for (int64_t groups; group >= (groups = (num_panels(part->rows) + size_ - 1) / size_); part++)
      group -= groups, output += part->rows;
    const int64_t first = group * size_, last = least(first + size_, num_panels(part->rows));
    const int64_t tile = row_block * tiles_.count / row_blocks_, end = (row_block + 1) * tiles_.count / row_blocks_;
    float* out = a_.out + tiles_.first(tile) * a_.outputs + output + first * kPanel;
    return {part,       a_.bias ? a_.bias + output : nullptr, first, last, tile, end, out,
            a_.outputs, panel_at(*part, last, a_.cols)};
  }

 private:
  const LinearArgs& a_;
  const Tiles& tiles_;
  int64_t row_blocks_, size_, per_row_block_ = 0;
};

Input rounded_input(const LinearArgs& a) {
  const Shape shape = shape_of(a);
  const Tiles tiles(a.rows, shape.tile_rows);
  const int planes = planes_of(a);
  if (!planes) return {a.x, a.cols, tiles, {}};
  const Activations8 x8 = activations_scratch(Scratch::activations, a.rows, a.cols, planes, shape.order);
  parallel_for(tiles.count, a.threads, [&](int64_t i) {
    const int64_t row = tiles.first(i), rows = tiles.first(i + 1) - row;
    quantize_tile(a.x + row * a.cols, a.cols, x8.tile(row, a.cols), rows);
  });
  return {a.x, a.cols, tiles, x8};
}

void multiply(const LinearArgs& args, const Input& input) {
  const Blocks blocks(args, args.num_parts, input.tiles);
  parallel_for(blocks.count(), args.threads, [&](int64_t i) {
    const Block block = blocks.at(i);
    Worker(input, block).run();
  });
}

void linear(const LinearArgs& args) {
  if (args.rows == 0) return;
  multiply(args, rounded_input(args));
}

// One block of gate(x W_gate^T) * (x W_up^T), panel by panel: what goes in, and where it goes to.
class GatedWorker {
 public:
  GatedWorker(const MlpArgs& args, const Input& input, const Block& gate, const Activations8& out)
      : a_(args), in_(input), gate_(gate), out_(out) {
    row_ = in_.tiles.first(gate.tile), rows_ = in_.tiles.first(gate.end) - row_;
    if (gate.part->rows % kPanel) std::memset(y_, 0, sizeof y_), std::memset(up_, 0, sizeof up_);
  }

  void run() {
    for (int64_t panel = gate_.first; panel < gate_.last; panel++) {
      multiply(panel);
      if (a_.gate == Gate::silu)
        join([](v16 x) { return silu(x); });
      else
        join([](v16 x) { return gelu_tanh(x); });
      deliver(panel);
    }
  }

 private:
  // A panel of the gate, and the same one of up.
  void multiply(int64_t panel) {
    const Matrix *gate = gate_.part, *up = gate + 1;
    const int64_t cols = a_.gate_up.cols;
    const uint8_t *next = panel_at(*up, panel, cols), *then = panel_at(*gate, panel + 1, cols);
    const float* up_bias = gate_.bias ? gate_.bias + gate->rows : nullptr;
    run_block({gate, gate_.bias, panel, panel + 1, gate_.tile, gate_.end, y_, kPanel, next});
    run_block({up, up_bias, panel, panel + 1, gate_.tile, gate_.end, up_, kPanel, then});
  }

  void run_block(const Block& block) const { Worker(in_, block).run(); }

  template <class Act>
  void join(const Act& act) {
    for (int64_t i = 0; i < rows_ * kPanel; i += 16) store(y_ + i, act(load(y_ + i)) * load(up_ + i));
  }

  // A panel of outputs here is a group of columns there.
  void deliver(int64_t panel) const {
    const int64_t cols = a_.down.cols, first = panel * kPanel;
    for (int64_t i = gate_.tile; out_.planes && i < gate_.end; i++) {
      const int64_t row = in_.tiles.first(i), rows = in_.tiles.first(i + 1) - row;
      quantize_tile(y_ + (row - row_) * kPanel, kPanel, out_.tile(row, cols).after(first, rows), rows);
    }
    if (out_.planes && !reads_floats(a_.down)) return;
    const size_t bytes = (size_t)least(kPanel, cols - first) * sizeof(float);
    for (int64_t r = 0; r < rows_; r++) std::memcpy(a_.between + (row_ + r) * cols + first, y_ + r * kPanel, bytes);
  }

  const MlpArgs& a_;
  const Input& in_;
  const Block& gate_;
  const Activations8& out_;
  int64_t row_, rows_;
  alignas(64) float y_[kBlockRows * kPanel], up_[kBlockRows * kPanel];
};

void mlp(const MlpArgs& args) {
  const LinearArgs& up = args.gate_up;
  if (up.rows == 0) return;
  LinearArgs down = args.down;
  down.x = args.between;
  const Input input = rounded_input(up);
  const Shape shape = shape_of(down);
  const bool bytes = planes_of(down) && shape_of(up).tile_rows == shape.tile_rows;
  const Activations8 gated =
      bytes ? activations_scratch(Scratch::gated, down.rows, down.cols, planes_of(down), shape.order) : Activations8{};
  const Blocks blocks(up, 1, input.tiles);
  parallel_for(blocks.count(), up.threads, [&](int64_t i) {
    const Block gate = blocks.at(i);
    GatedWorker(args, input, gate, gated).run();
  });
  multiply(down, bytes ? Input{down.x, down.cols, input.tiles, gated} : rounded_input(down));
}

}  // namespace

const LinearKernels linear_kernels = {linear, mlp};

}  // namespace KV_ISA
}  // namespace kvloom
