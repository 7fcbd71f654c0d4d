// Packing of rows of a weights file into panels (weights.h), and conversion of single rows back to float.
#pragma once

#include <cstdint>

#include "weights.h"

namespace kvloom {

// `source` holds `rows` rows of `cols` values in ggml's layout; `packed` has room for all panels. The rows that pad the
// last panel are set to zero.
void pack_weight(const uint8_t* source, Kind kind, int64_t rows, int64_t cols, uint8_t* packed, int threads);

// out[i] = row ids[i] of the stacked parts, as float. Ids are in range.
void gather_rows(const Matrix* parts, int64_t num_parts, int64_t cols, const int64_t* ids, int64_t count, float* out,
                 int threads);

}  // namespace kvloom
