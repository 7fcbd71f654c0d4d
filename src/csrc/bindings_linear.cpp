// Python's door to weights, matrix products, the small operators and the peaks of this processor. Callers have checked
// shapes, types and strides; the GIL is released while kernels run. What reads by index returns false, untouched, when
// an index is out of range.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "linear.h"
#include "ops.h"
#include "pack.h"
#include "peaks.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvloom {
namespace {

typedef nb::call_guard<nb::gil_scoped_release> NoGil;

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

template <class Index>
bool all_below(const Index* index, int64_t count, int64_t end) {
  return std::all_of(index, index + count, [end](Index i) { return 0 <= i && i < end; });
}

void bind_weights(nb::module_& m) {
  m.def(
      "weight_kinds",
      [] {
        std::vector<std::tuple<std::string, int, int, int>> kinds;
        for (int i = 0; i < kKinds; i++) {
          const Layout shape = layout((Kind)i);
          kinds.emplace_back(kKindNames[i], shape.columns, shape.source_bytes, shape.bytes);
        }
        return kinds;
      },
      "Per kind: name, columns of a superblock, its bytes in a file (one row), its bytes packed (a panel of "
      "32 rows).");
  m.def(
      "pack_weight",
      [](uintptr_t source, int kind, int64_t rows, int64_t cols, uintptr_t packed, int threads) {
        pack_weight(at<uint8_t>(source), (Kind)kind, rows, cols, at<uint8_t>(packed), threads);
      },
      NoGil(), "source"_a, "kind"_a, "rows"_a, "cols"_a, "packed"_a, "threads"_a);
  m.def(
      "gather_rows",
      [](uintptr_t parts, int64_t num_parts, int64_t cols, uintptr_t ids, int64_t count, uintptr_t out, int threads) {
        int64_t rows = 0;
        for (int64_t i = 0; i < num_parts; i++) rows += at<Matrix>(parts)[i].rows;
        const bool fits = all_below(at<int64_t>(ids), count, rows);
        if (fits) gather_rows(at<Matrix>(parts), num_parts, cols, at<int64_t>(ids), count, at<float>(out), threads);
        return fits;
      },
      NoGil(), "parts"_a, "num_parts"_a, "cols"_a, "ids"_a, "count"_a, "out"_a, "threads"_a);
  m.def(
      "linear",
      [](uintptr_t x, uintptr_t parts, uintptr_t bias, uintptr_t out, int64_t rows, int64_t cols, int64_t outputs,
         int64_t num_parts, int threads, int planes, const std::string& isa) {
        KV_PICK(linear_kernels, choose_isa(isa))
            .linear({at<float>(x), at<Matrix>(parts), at<float>(bias), at<float>(out), rows, cols, outputs, num_parts,
                     threads, (Activations)planes});
      },
      NoGil(), "x"_a, "parts"_a, "bias"_a, "out"_a, "rows"_a, "cols"_a, "outputs"_a, "num_parts"_a, "threads"_a,
      "planes"_a, "isa"_a = "");
}

void bind_ops(nb::module_& m) {
  m.def(
      "rms_norm",
      [](uintptr_t x, uintptr_t add, uintptr_t weight, uintptr_t out, int64_t outer, int64_t inner, int64_t width,
         int64_t outer_stride, int64_t inner_stride, float eps, int threads, const std::string& isa) {
        KV_PICK(ops_kernels, choose_isa(isa))
            .rms_norm({at<float>(x), at<float>(add), at<float>(weight), at<float>(out), outer, inner, width,
                       outer_stride, inner_stride, eps, threads});
      },
      NoGil(), "x"_a, "add"_a, "weight"_a, "out"_a, "outer"_a, "inner"_a, "width"_a, "outer_stride"_a, "inner_stride"_a,
      "eps"_a, "threads"_a, "isa"_a = "");
  m.def(
      "rope",
      [](uintptr_t x, uintptr_t positions, uintptr_t cos, uintptr_t sin, int64_t num_positions, int64_t tokens,
         int64_t heads, int64_t half, int64_t token_stride, int64_t head_stride, int threads, const std::string& isa) {
        if (!all_below(at<int32_t>(positions), tokens, num_positions)) return false;
        KV_PICK(ops_kernels, choose_isa(isa))
            .rope({at<float>(x), at<int32_t>(positions), at<float>(cos), at<float>(sin), tokens, heads, half,
                   token_stride, head_stride, threads});
        return true;
      },
      NoGil(), "x"_a, "positions"_a, "cos"_a, "sin"_a, "num_positions"_a, "tokens"_a, "heads"_a, "half"_a,
      "token_stride"_a, "head_stride"_a, "threads"_a, "isa"_a = "");
  m.def(
      "silu_mul",
      [](uintptr_t x, uintptr_t out, int64_t rows, int64_t width, int threads, const std::string& isa) {
        KV_PICK(ops_kernels, choose_isa(isa)).silu_mul({at<float>(x), at<float>(out), rows, width, threads});
      },
      NoGil(), "x"_a, "out"_a, "rows"_a, "width"_a, "threads"_a, "isa"_a = "");
  m.def(
      "gelu_tanh_mul",
      [](uintptr_t x, uintptr_t out, int64_t rows, int64_t width, int threads, const std::string& isa) {
        KV_PICK(ops_kernels, choose_isa(isa)).gelu_tanh_mul({at<float>(x), at<float>(out), rows, width, threads});
      },
      NoGil(), "x"_a, "out"_a, "rows"_a, "width"_a, "threads"_a, "isa"_a = "");
  m.def(
      "argmax",
      [](uintptr_t x, uintptr_t out, int64_t rows, int64_t width, int threads, const std::string& isa) {
        KV_PICK(ops_kernels, choose_isa(isa)).argmax({at<float>(x), at<int64_t>(out), rows, width, threads});
      },
      NoGil(), "x"_a, "out"_a, "rows"_a, "width"_a, "threads"_a, "isa"_a = "");
}

void bind_peaks(nb::module_& m) {
  m.def(
      "peak_read",
      [](uintptr_t memory, int64_t bytes, int64_t piece_bytes, int threads, const std::string& isa) {
        return KV_PICK(peak_kernels, choose_isa(isa)).read(at<uint8_t>(memory), bytes, piece_bytes, threads);
      },
      NoGil(), "memory"_a, "bytes"_a, "piece_bytes"_a, "threads"_a, "isa"_a = "");
  m.def(
      "peak_multiply_floats",
      [](int64_t turns, int threads, const std::string& isa) {
        return KV_PICK(peak_kernels, choose_isa(isa)).multiply_floats(turns, threads);
      },
      NoGil(), "turns"_a, "threads"_a, "isa"_a = "");
  m.def(
      "peak_multiply_bytes",
      [](int64_t turns, int threads, const std::string& isa) {
        return KV_PICK(peak_kernels, choose_isa(isa)).multiply_bytes(turns, threads);
      },
      NoGil(), "turns"_a, "threads"_a, "isa"_a = "");
}

}  // namespace

void bind_linear(nb::module_& m) {
  bind_weights(m);
  bind_ops(m);
  bind_peaks(m);
}

}  // namespace kvloom
