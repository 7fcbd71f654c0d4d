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
typedef nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu> ConstFloats;
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

  void embed(const Indices& tokens, const Floats& out) {
    DecoderStep step = only_rows(tokens.size());
    step.tokens = tokens.data();
    step.x_out = results(out, step, model_.width());
    run(step);
  }

  // x_out after layers [first, last).
  void run_layers(const ConstFloats& x, const Rows& rows, std::vector<const BoundGroup*> groups, const KvPlaces& kv,
                  const Ropes& ropes, const Indices& wanted, const Observer* observer, const Floats& out, int64_t first,
                  int64_t last) {
    DecoderStep step = layers_of(rows, std::move(groups), kv, ropes, wanted, observer, first, last);
    step.x_in = residual(x, step);
    step.x_out = results(out, step, model_.width());
    run(step);
  }

  // x_out after all layers.
  void forward(const Indices& tokens, const Rows& rows, std::vector<const BoundGroup*> groups, const KvPlaces& kv,
               const Ropes& ropes, const Indices& wanted, const Observer* observer, const Floats& out) {
    DecoderStep step = whole(tokens, rows, std::move(groups), kv, ropes, wanted, observer);
    step.x_out = results(out, step, model_.width());
    run(step);
  }

  // Returns the argmax of each wanted row.
  std::vector<int64_t> scores(const Indices& tokens, const Rows& rows, std::vector<const BoundGroup*> groups,
                              const KvPlaces& kv, const Ropes& ropes, const Indices& wanted, const Observer* observer,
                              const Floats& out) {
    DecoderStep step = whole(tokens, rows, std::move(groups), kv, ropes, wanted, observer);
    step.logits = results(out, step, model_.head.outputs);
    std::vector<int64_t> argmax(wanted.size());
    step.argmax = argmax.data();
    run(step);
    return argmax;
  }

  void logits(const ConstFloats& x, const Floats& out) {
    DecoderStep step = only_rows(x.shape(0));
    step.x_in = residual(x, step);
    step.logits = results(out, step, model_.head.outputs);
    run(step);
  }

  int64_t kv_bytes_read() const { return state_.kv_bytes_read; }

  std::map<std::string, double> seconds() const {
    std::map<std::string, double> seconds;
    for (int i = 0; i < (int)Operator::count; i++) seconds[kOperatorNames[i]] = state_.clock.seconds((Operator)i);
    return seconds;
  }

  size_t workspace_bytes() const { return state_.workspace.bytes(); }

 private:
  // A pass through no layers.
  static DecoderStep only_rows(size_t rows) {
    DecoderStep step;
    step.num_wanted = step.rows.rows = (int32_t)rows;
    return step;
  }

  static DecoderStep layers_of(const Rows& rows, std::vector<const BoundGroup*> groups, const KvPlaces& kv,
                               const Ropes& ropes, const Indices& wanted, const Observer* observer, int64_t first,
                               int64_t last) {
    DecoderStep step;
    step.rows = rows;
    step.groups = std::move(groups);
    step.kv = &kv.layers;
    for (const auto& [cos, sin, positions, half] : ropes)
      step.ropes.push_back({at<const float>(cos), at<const float>(sin), positions, half});
    step.observer = observer;
    step.first = first, step.last = last;
    step.wanted = wanted.data(), step.num_wanted = (int64_t)wanted.size();
    return step;
  }

  DecoderStep whole(const Indices& tokens, const Rows& rows, std::vector<const BoundGroup*> groups, const KvPlaces& kv,
                    const Ropes& ropes, const Indices& wanted, const Observer* observer) const {
    if ((int64_t)tokens.size() != rows.rows) throw nb::value_error("there must be one token per row");
    DecoderStep step =
        layers_of(rows, std::move(groups), kv, ropes, wanted, observer, 0, (int64_t)model_.layers.size());
    step.tokens = tokens.data();
    return step;
  }

  const float* residual(const ConstFloats& x, const DecoderStep& step) const {
    if (x.shape(0) != (size_t)step.rows.rows) throw nb::value_error("there must be one x per row");
    if (x.shape(1) != (size_t)model_.width()) throw nb::value_error("x is as wide as the model");
    return x.data();
  }

  static float* results(const Floats& out, const DecoderStep& step, int64_t width) {
    if (out.shape(0) != (size_t)step.num_wanted) throw nb::value_error("there must be one result per wanted row");
    if (out.shape(1) != (size_t)width) throw nb::value_error("results are as wide as the model, or as its vocabulary");
    return out.data();
  }

  void run(const DecoderStep& step) {
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

LinearMap linear_map(Address parts, int64_t num_parts, Address bias, int64_t cols, int64_t outputs, int planes) {
  return {at<const Matrix>(parts), num_parts, at<const float>(bias), cols, outputs, (Activations)planes};
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
        "planes"_a);
  m.def("norm_weight", &norm_weight, "weight"_a, "eps"_a);
  m.def("decoder_layer", &decoder_layer, nb::kw_only(), "attn_norm"_a, "q_norm"_a, "k_norm"_a, "post_attn_norm"_a,
        "mlp_norm"_a, "post_mlp_norm"_a, "qkv"_a, "o"_a, "gate_up"_a, "down"_a, "gate"_a, "rope"_a, "heads"_a,
        "kv_heads"_a, "head_dim"_a);
  nb::class_<KvPlaces>(m, "KvPlaces").def(nb::init<>()).def("add", &add_kv, "group"_a, "slot"_a, "owns"_a, "scale"_a);
  nb::class_<Decoder>(m, "Decoder")
      .def(nb::init<const LinearMap&, const LinearMap&, float, const NormWeight&, int, const std::string&>(), "embed"_a,
           "head"_a, "embed_scale"_a, "norm"_a, "threads"_a, "isa"_a = "")
      .def("add_layer", &Decoder::add_layer, "layer"_a)
      .def("embed", &Decoder::embed, "tokens"_a.noconvert(), "out"_a.noconvert())
      .def("run", &Decoder::run_layers, "x"_a.noconvert(), "rows"_a, "groups"_a, "kv"_a, "ropes"_a,
           "wanted"_a.noconvert(), "observer"_a.none(), "out"_a.noconvert(), "first"_a, "last"_a)
      .def("forward", &Decoder::forward, "tokens"_a.noconvert(), "rows"_a, "groups"_a, "kv"_a, "ropes"_a,
           "wanted"_a.noconvert(), "observer"_a.none(), "out"_a.noconvert())
      .def("scores", &Decoder::scores, "tokens"_a.noconvert(), "rows"_a, "groups"_a, "kv"_a, "ropes"_a,
           "wanted"_a.noconvert(), "observer"_a.none(), "out"_a.noconvert(), "Returns the argmax of each wanted row.")
      .def("logits", &Decoder::logits, "x"_a.noconvert(), "out"_a.noconvert())
      .def("seconds", &Decoder::seconds, "Seconds spent so far, by operator.")
      .def("kv_bytes_read", &Decoder::kv_bytes_read, "Bytes of KV that attention has read so far.")
      .def("workspace_bytes", &Decoder::workspace_bytes);
}

}  // namespace kvloom
