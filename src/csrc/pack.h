// From the rows of a weights file to panels (weights.h), and single rows back to float.
#pragma once

#include <cstdint>

#include "weights.h"

namespace kvloom {

// `source` holds `rows` rows of `cols` values as ggml lays them out; `packed` has room for all panels. Rows
// that only fill up the last panel become zeros.
void pack_weight(const uint8_t* source, Kind kind, int64_t rows, int64_t cols, uint8_t* packed, int threads);

// out[i] = row ids[i] of the stacked parts, as float. Ids are in range.
void gather_rows(const Matrix* parts, int64_t num_parts, int64_t cols, const int64_t* ids, int64_t count, float* out,
                 int threads);

}  // namespace kvloom
