// Python's door to a whole step. Callers have checked shapes and types of what they describe when a model is made;
// what changes from step to step is checked here.
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "decoder.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvloom {
namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

typedef nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> Indices;
typedef nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> Floats;
typedef std::vector<std::tuple<Address, Address, int64_t, int64_t>> Ropes;  // cos, sin, positions, half

// The KV of all layers: the same for every step of a model.
struct KvPlaces {
  std::vector<LayerKv> layers;
};

void add_kv(KvPlaces& kv, int32_t group, int32_t slot, bool owns, float scale) {
  kv.layers.push_back({group, slot, owns, scale});
}

class Decoder {
 public:
  Decoder(const LinearMap& embed, const LinearMap& head, float embed_scale, const NormWeight& norm, int threads,
          const std::string& isa)
      : model_{embed, head, embed_scale, norm, {}, threads, choose_isa(isa)} {}

  void add_layer(const DecoderLayer& layer) { model_.layers.push_back(layer); }

  void hidden(const Indices& tokens, const Rows& rows, std::vector<const BoundGroup*> groups, const KvPlaces& kv,
              const Ropes& ropes, const Indices& wanted, const Floats& out) {
    if (out.shape(1) != (size_t)model_.width()) throw nb::value_error("hidden states are as wide as the model");
    run(tokens, rows, std::move(groups), kv, ropes, wanted, out, out.data(), nullptr, nullptr);
  }

  // Returns the likeliest token of each wanted row.
  std::vector<int64_t> scores(const Indices& tokens, const Rows& rows, std::vector<const BoundGroup*> groups,
                              const KvPlaces& kv, const Ropes& ropes, const Indices& wanted, const Floats& out) {
    if (out.shape(1) != (size_t)model_.head.outputs) throw nb::value_error("logits are as wide as the vocabulary");
    std::vector<int64_t> likeliest(wanted.size());
    run(tokens, rows, std::move(groups), kv, ropes, wanted, out, nullptr, out.data(), likeliest.data());
    return likeliest;
  }

  void logits(Address hidden, int64_t rows, Address logits) {
    const nb::gil_scoped_release unlocked;
    const std::lock_guard<std::mutex> only_one(running_);
    run_head(model_, at<const float>(hidden), rows, at<float>(logits), state_);
  }

  int64_t kv_bytes_read() const { return state_.kv_bytes_read; }

  std::map<std::string, double> seconds() const {
    std::map<std::string, double> seconds;
    for (int i = 0; i < (int)Operator::count; i++) seconds[kOperatorNames[i]] = state_.clock.seconds((Operator)i);
    return seconds;
  }

  size_t workspace_bytes() const { return state_.workspace.bytes(); }

 private:
  void run(const Indices& tokens, const Rows& rows, std::vector<const BoundGroup*> groups, const KvPlaces& kv,
           const Ropes& ropes, const Indices& wanted, const Floats& out, float* hidden, float* logits,
           int64_t* likeliest) {
    if ((int64_t)tokens.size() != rows.rows) throw nb::value_error("there must be one token per row");
    if (out.shape(0) != wanted.size()) throw nb::value_error("there must be one result per wanted row");
    DecoderStep step{tokens.data(), rows,   std::move(groups), &kv.layers, {}, wanted.data(), (int64_t)wanted.size(),
                     hidden,        logits, likeliest};
    for (const auto& [cos, sin, positions, half] : ropes)
      step.ropes.push_back({at<const float>(cos), at<const float>(sin), positions, half});
    raise_fault(find_fault(model_, step));
    const nb::gil_scoped_release unlocked;
    const std::lock_guard<std::mutex> only_one(running_);
    run_decoder(model_, step, state_);
  }

  DecoderModel model_;
  DecoderState state_;
  std::mutex running_;
};

int64_t last_position(const Rows& rows) {
  return rows.rows ? *std::max_element(rows.positions, rows.positions + rows.rows) : -1;
}

LinearMap linear_map(Address parts, int64_t num_parts, Address bias, int64_t cols, int64_t outputs, int digits) {
  return {at<const Matrix>(parts), num_parts, at<const float>(bias), cols, outputs, (Activations)digits};
}

NormWeight norm_weight(Address weight, float eps) {
  return {at<const float>(weight), eps};
}

DecoderLayer decoder_layer(const NormWeight& attn_norm, const NormWeight& q_norm, const NormWeight& k_norm,
                           const NormWeight& post_attn_norm, const NormWeight& mlp_norm,
                           const NormWeight& post_mlp_norm, const LinearMap& qkv, const LinearMap& o,
                           const LinearMap& gate_up, const LinearMap& down, int gate, int32_t rope, int32_t heads,
                           int32_t kv_heads, int32_t head_dim) {
  return {attn_norm, q_norm, k_norm,     post_attn_norm, mlp_norm, post_mlp_norm, qkv,     o,
          gate_up,   down,   (Gate)gate, rope,           heads,    kv_heads,      head_dim};
}

}  // namespace

void bind_decoder(nb::module_& m) {
  nb::class_<LinearMap>(m, "LinearMap");
  nb::class_<NormWeight>(m, "NormWeight");
  nb::class_<DecoderLayer>(m, "DecoderLayer");
  m.def("last_position", &last_position, "rows"_a, "The highest position of a step's rows; -1 when there are none.");
  m.def("linear_map", &linear_map, nb::kw_only(), "parts"_a, "num_parts"_a, "bias"_a, "cols"_a, "outputs"_a,
        "digits"_a);
  m.def("norm_weight", &norm_weight, "weight"_a, "eps"_a);
  m.def("decoder_layer", &decoder_layer, nb::kw_only(), "attn_norm"_a, "q_norm"_a, "k_norm"_a, "post_attn_norm"_a,
        "mlp_norm"_a, "post_mlp_norm"_a, "qkv"_a, "o"_a, "gate_up"_a, "down"_a, "gate"_a, "rope"_a, "heads"_a,
        "kv_heads"_a, "head_dim"_a);
  nb::class_<KvPlaces>(m, "KvPlaces").def(nb::init<>()).def("add", &add_kv, "group"_a, "slot"_a, "owns"_a, "scale"_a);
  nb::class_<Decoder>(m, "Decoder")
      .def(nb::init<const LinearMap&, const LinearMap&, float, const NormWeight&, int, const std::string&>(), "embed"_a,
           "head"_a, "embed_scale"_a, "norm"_a, "threads"_a, "isa"_a = "")
      .def("add_layer", &Decoder::add_layer, "layer"_a)
      .def("hidden", &Decoder::hidden, "tokens"_a.noconvert(), "rows"_a, "groups"_a, "kv"_a, "ropes"_a,
           "wanted"_a.noconvert(), "out"_a.noconvert())
      .def("scores", &Decoder::scores, "tokens"_a.noconvert(), "rows"_a, "groups"_a, "kv"_a, "ropes"_a,
           "wanted"_a.noconvert(), "out"_a.noconvert(), "Returns the likeliest token of each wanted row.")
      .def("logits", &Decoder::logits, "hidden"_a, "rows"_a, "logits"_a)
      .def("seconds", &Decoder::seconds, "Seconds spent so far, by operator.")
      .def("kv_bytes_read", &Decoder::kv_bytes_read, "Bytes of KV that attention has read so far.")
      .def("workspace_bytes", &Decoder::workspace_bytes);
}

}  // namespace kvloom
