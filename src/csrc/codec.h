// The kernels' view of a codec: how keys and values of one head are stored in a page, and how the inner loops use them.
//
// A codec is a struct in a header of its own, codec_NAME.h, and a line in codecs.h. It works on blocks: a block is the
// 16 entries of one head of a page. It defines
//
//     key_bytes, value_bytes     of a block, as functions of the head's dim
//     encode_keys, encode_values encode entries of a block, usually all 16 at once while a prompt is computed
//     copy_key, copy_value       copy an entry, as it is stored, from one block to another
//     read_keys, read_values     decode a block to floats: components of keys, each of all entries; values, one by one
//     prepare                    converts a query to the form that its scores need
//     Keys, Values               how the inner loops (attend_micro.h) score and accumulate stored blocks
//     NearKeys, NearValues       the same for blocks that many rows read and that are therefore first decoded to
//                                working memory; the bits are the same either way
//     decode_keys, decode_values decode such blocks; null: they are used as they are stored
//     value_steps                offset in a block of values of the 16 steps of its entries. Weights are multiplied by
//                                these and rounded to integers, with a step per row and kv_block (quads.h). null: there
//                                are no steps, and weights are floats
//
// The bits are those of src/kvloom/codec/NAME.py, for every instruction set.
#pragma once

#include <climits>

#include "attend.h"
#include "simd.h"

namespace kvloom {
namespace KV_ISA {

// `count` vectors of `dim` floats; `stride` is the distance between their first numbers.
struct Vectors {
  const float* x;
  int64_t stride;
  int32_t dim, count;
  const float* operator[](int32_t i) const { return x + i * stride; }
};

// Entry `entry` of block `from` becomes entry `place` of block `to`.
struct Copy {
  const uint8_t* from;
  uint8_t* to;
  int32_t entry, place, dim;
};

constexpr int few_groups = 2;  // with so few groups of rows, each group decodes the blocks for itself
constexpr int any_groups = INT_MAX;

}  // namespace KV_ISA
}  // namespace kvloom
