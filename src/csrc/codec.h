// What a codec is to the kernels: how keys and values of one head lie in a page, and what the inner loops do with them.
//
// A codec is a struct in a header of its own, codec_NAME.h, and a line in codecs.h. It is block-granular: a block is
// the 16 entries of one head of a page. It says
//
//     key_bytes, value_bytes     of a block, in terms of the head's dim
//     encode_keys, encode_values entries of a block; 16 of them at once are the rule while a prompt is computed
//     prepare                    a query as its scores want it
//     Keys, Values               how the inner loops (attend_micro.h) score and accumulate stored blocks
//     NearKeys, NearValues       the same of blocks that many rows read, and that were decoded to working memory first:
//     decode_keys, decode_values how; with bits that do not tell which way a block went; null: near as they are stored
//     value_steps                where in a block of values lie the 16 steps of its entries: weights are multiplied by
//                                those, and rounded to whole numbers, with a step of their own for each row and
//                                kv_block (quads.h); null: there are none, and weights are floats
//
// Bits are those of src/kvloom/codec/NAME.py, for every instruction set.
#pragma once

#include <climits>

#include "attend.h"
#include "simd.h"

namespace kvloom {
namespace KV_ISA {

// `count` vectors of `dim` floats, the first numbers of which lie `stride` apart.
struct Vectors {
  const float* x;
  int64_t stride;
  int32_t dim, count;
  const float* operator[](int32_t i) const { return x + i * stride; }
};

constexpr int few_groups = 2;  // up to so many groups of rows, blocks are decoded by each group as it goes
constexpr int any_groups = INT_MAX;

}  // namespace KV_ISA
}  // namespace kvloom
