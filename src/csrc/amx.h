// Tiles of AMX: matrices of up to 16 rows of 64 bytes, and the instructions on them by number of tile.
#pragma once

#include <cstdint>

namespace kvloom {
namespace KV_ISA {

#if defined(__AMX_INT8__)

// What LDTILECFG reads.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int rows_of_it, int bytes) { rows[tile] = (uint8_t)rows_of_it, row_bytes[tile] = (uint16_t)bytes; }
};

// While it exists, this thread has tiles of these shapes.
class TilesInUse {
 public:
  explicit TilesInUse(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
  ~TilesInUse() { asm volatile("tilerelease"); }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;
};

template <int kTile>
static inline void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
static inline void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
static inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
// Tile kSum [rows, outputs] += tile kX [rows, columns] times tile kW [columns / 4, outputs, 4], signed bytes.
template <int kSum, int kX, int kW>
static inline void multiply_tiles() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kX), "i"(kW));
}

#endif

}  // namespace KV_ISA
}  // namespace kvloom
