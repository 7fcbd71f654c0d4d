#include "peaks.h"

#include "amx.h"
#include "dot.h"
#include "parallel.h"

namespace kvloom {
namespace KV_ISA {
namespace {

constexpr int64_t kAheadBytes = 8192;  // as in linear_int8.h
constexpr int kChains = 12;            // independent sums: more than latency times throughput, and all in registers

// A value that the compiler knows nothing about: no product of it can be computed once for all turns.
template <class V>
inline void forget(V& value) {
#if defined(__aarch64__)
  asm volatile("" : "+w"(value));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(value));
#else
  asm volatile("" : "+m"(value));
#endif
}

int64_t read_piece(const uint8_t* from, const uint8_t* to) {
  ints sum[4] = {};
  for (; to - from >= 256; from += 256) {
    KV_UNROLL for (int i = 0; i < 4; i++) __builtin_prefetch(from + kAheadBytes + 64 * i, 0, 2);
    KV_UNROLL for (int i = 0; i < 4; i++) sum[i] = sum[i] + load_ints(from + 64 * i);
  }
  for (; from < to; from += 64) sum[0] = sum[0] + load_ints(from);
  const ints all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  int32_t lanes[16];
  std::memcpy(lanes, &all, sizeof lanes);
  int64_t total = 0;
  for (int32_t lane : lanes) total += lane;
  return total;
}

int64_t read(const uint8_t* memory, int64_t bytes, int64_t piece_bytes, int threads) {
  int64_t total = 0;
  parallel_for((bytes + piece_bytes - 1) / piece_bytes, threads, [&](int64_t i) {
    const int64_t first = i * piece_bytes, last = first + piece_bytes < bytes ? first + piece_bytes : bytes;
    __atomic_fetch_add(&total, read_piece(memory + first, memory + last), __ATOMIC_RELAXED);
  });
  return total;
}

int64_t multiply_floats(int64_t turns, int threads) {
  parallel_for(threads, threads, [&](int64_t) {
    native sum[kChains] = {}, x = splat<native>(1.0f), y = splat<native>(0.5f);
    for (int64_t i = 0; i < turns; i++) {
      KV_UNROLL for (int c = 0; c < kChains; c++) sum[c] = fma(x, y, sum[c]);
      forget(x);
    }
    KV_UNROLL for (int c = 0; c < kChains; c++) forget(sum[c]);
  });
  return 2 * kChains * kNative;
}

#if defined(__AMX_INT8__)

int64_t multiply_bytes(int64_t turns, int threads) {
  TileShapes shapes;
  for (int tile = 0; tile < 8; tile++) shapes.set(tile, 16, 64);
  parallel_for(threads, threads, [&](int64_t) {
    const TilesInUse tiles(shapes);
    for (int64_t i = 0; i < turns; i++) {
      multiply_tiles<0, 6, 7>();
      multiply_tiles<1, 6, 7>();
      multiply_tiles<2, 6, 7>();
      multiply_tiles<3, 6, 7>();
    }
  });
  return 2 * 4 * 16 * 16 * 64;
}

#else

int64_t multiply_bytes(int64_t turns, int threads) {
  parallel_for(threads, threads, [&](int64_t) {
    NativeDot<4> sum[kChains];
    native_i codes = splat_int<native_i>(0x01020304), x = splat_int<native_i>(0x01010101);
    KV_UNROLL for (int c = 0; c < kChains; c++) sum[c].begin(0);
    for (int64_t i = 0; i < turns; i++) KV_UNROLL for (int c = 0; c < kChains; c++) {
        forget(codes);
        sum[c].add(codes, x);
      }
    KV_UNROLL for (int c = 0; c < kChains; c++) {
      native_i total = sum[c].total(0);
      forget(total);
    }
  });
  return 2 * kChains * kNative * 4;
}

#endif

}  // namespace

const PeakKernels peak_kernels = {read, multiply_floats, multiply_bytes};

}  // namespace KV_ISA
}  // namespace kvloom
