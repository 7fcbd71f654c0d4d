// What this processor can do at best, in the instructions of each variant: loops that do nothing else. Benchmarks
// compare kernels with them.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace kvloom {

struct PeakKernels {
  // Reads `bytes` (a multiple of 64) in pieces of `piece_bytes`, in the order of a product with one row. Returns a sum
  // of what was read.
  int64_t (*read)(const uint8_t* memory, int64_t bytes, int64_t piece_bytes, int threads);
  // Runs `turns` rounds of products on every thread; returns operations per round and thread. Multiply-adds of floats,
  // and dot products of bytes as in dot.h; a multiplication and an addition count as two.
  int64_t (*multiply_floats)(int64_t turns, int threads);
  int64_t (*multiply_bytes)(int64_t turns, int threads);
};
KV_DECLARE_AMX_VARIANTS(PeakKernels, peak_kernels)

}  // namespace kvloom
