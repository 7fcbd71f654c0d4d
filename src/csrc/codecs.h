// All codecs. A new one is added here.
#pragma once

#include "attend_micro.h"
#include "codec_bfloat16.h"
#include "codec_float16.h"
#include "codec_float32.h"
#include "codec_int16.h"
#include "codec_int8.h"

namespace kvloom {
namespace KV_ISA {

#define KV_EACH_CODEC(X) X(Float32), X(Float16), X(BFloat16), X(Int16), X(Int8)

// A codec as seen by the other kernels: what codec.h describes, and the inner loops built from it.
struct Codec {
  const char* name;
  int64_t (*key_bytes)(int32_t dim);
  int64_t (*value_bytes)(int32_t dim);
  void (*encode_keys)(const Vectors&, int32_t slot, uint8_t* keys);
  void (*encode_values)(const Vectors&, int32_t slot, uint8_t* values);
  void (*copy_key)(const Copy&);
  void (*copy_value)(const Copy&);
  void (*read_keys)(const uint8_t* keys, int32_t dim, float* columns);
  void (*read_values)(const uint8_t* values, int32_t dim, float* rows);
  int32_t (*prepare)(const float* q, int32_t dim, float scale, float* to);
  void (*decode_keys)(const uint8_t* keys, int32_t dim, float* near);      // null: used as stored
  void (*decode_values)(const uint8_t* values, int32_t dim, float* near);  // null: likewise
  int64_t (*value_steps)(int32_t dim);                                     // null: there are none
  Micro stored, near;
  int32_t rows;  // maximum number of rows processed together
  int32_t in_place_groups;
};

template <class C>
static constexpr Codec codec_of = {C::name,
                                   C::key_bytes,
                                   C::value_bytes,
                                   C::encode_keys,
                                   C::encode_values,
                                   C::copy_key,
                                   C::copy_value,
                                   C::read_keys,
                                   C::read_values,
                                   C::prepare,
                                   C::decode_keys,
                                   C::decode_values,
                                   C::value_steps,
                                   micro_of<typename C::Keys, typename C::Values>,
                                   micro_of<typename C::NearKeys, typename C::NearValues>,
                                   rows_of<typename C::Keys>,
                                   C::in_place_groups};

#define KV_CODEC(C) codec_of<C>
static constexpr Codec codecs[] = {KV_EACH_CODEC(KV_CODEC)};
constexpr int32_t num_codecs = sizeof codecs / sizeof codecs[0];

}  // namespace KV_ISA
}  // namespace kvloom
