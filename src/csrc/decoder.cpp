#include "decoder.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "decoder_buffers.h"
#include "linear.h"
#include "ops.h"
#include "pack.h"
#include "work_plan.h"

namespace kvloom {
namespace {

LinearArgs linear_args(const DecoderModel& model, const LinearMap& map, const float* x, int64_t rows, float* out) {
  return {x, map.parts, map.bias, out, rows, map.cols, map.outputs, map.num_parts, model.threads, map.activations};
}

Attended attended(const DecoderModel& model, const DecoderStep& step, int64_t number, const float* q,
                  const float* lse) {
  const DecoderLayer& layer = model.layers[number];
  const LayerKv& kv = (*step.kv)[number];
  return {
      step.rows, step.groups[kv.group]->parts, number, kv.slot, layer.heads, layer.head_dim, model.threads, kv.scale, q,
      lse};
}

// The step's cuts of attention: layers that read the same pages in the same way share one.
class WorkPlans {
 public:
  explicit WorkPlans(int threads) : threads_(threads) {}

  const WorkPlan& find(const Rows& rows, const Part& part, const Continuation& after, int32_t layer_slot,
                       int32_t heads) {
    const int32_t slot = work_plan_slot(part, layer_slot);
    for (const Entry& entry : entries_)
      if (entry.part == &part && entry.slot == slot && entry.work_plan->q_heads() == heads) return *entry.work_plan;
    entries_.push_back({&part, slot, std::make_unique<WorkPlan>(rows, part, after, slot, heads, threads_)});
    return *entries_.back().work_plan;
  }

  // Other rows are to attend.
  void clear() { entries_.clear(); }

 private:
  struct Entry {
    const Part* part;
    int32_t slot;
    std::unique_ptr<WorkPlan> work_plan;
  };

  int threads_;
  std::vector<Entry> entries_;
};

// One pass under way. `rows_` are those that still matter: once the last layer's KV is written, the wanted ones.
class Pass {
 public:
  Pass(const DecoderModel& model, const DecoderStep& step, DecoderState& state)
      : model_(model),
        step_(step),
        state_(state),
        clock_(state.clock),
        linear_(KV_PICK(linear_kernels, model.isa)),
        ops_(KV_PICK(ops_kernels, model.isa)),
        attend_(KV_PICK(attend_kernels, model.isa)),
        work_plans_(model.threads),
        at_(model, step.rows.rows, state.workspace),
        rows_(step.rows.rows),
        asking_(step.rows) {}

  void run() {
    clock_.measure(Operator::embed, [&] { enter(); });
    for (int64_t n = step_.first; n < step_.last; n++) layer(n);
    if (step_.first == step_.last) narrow();
    if (rows_ == 0) return;
    if (step_.x_out) clock_.measure(Operator::norm, [&] { leave(); });
    if (step_.logits) head();
  }

 private:
  void enter() {
    if (step_.tokens)
      embed();
    else
      std::memcpy(at_.x, step_.x_in, (size_t)(rows_ * model_.width()) * sizeof(float));
  }

  void embed() {
    gather_rows(model_.embed.parts, model_.embed.num_parts, model_.width(), step_.tokens, rows_, at_.x, model_.threads);
    if (model_.embed_scale == 1.0f) return;
    for (int64_t i = 0; i < rows_ * model_.width(); i++) at_.x[i] *= model_.embed_scale;
  }

  // Makes the addition that waits for a norm which is not of this pass.
  void leave() {
    const int64_t values = rows_ * model_.width();
    if (pending_)
      for (int64_t i = 0; i < values; i++) step_.x_out[i] = at_.x[i] + pending_[i];
    else
      std::memcpy(step_.x_out, at_.x, (size_t)values * sizeof(float));
  }

  void head() {
    norm(model_.norm, at_.normed);
    clock_.measure(Operator::head,
                   [&] { linear_.linear(linear_args(model_, model_.head, at_.normed, rows_, step_.logits)); });
    if (!step_.argmax) return;
    clock_.measure(Operator::argmax,
                   [&] { ops_.argmax({step_.logits, step_.argmax, rows_, model_.head.outputs, model_.threads}); });
  }

  void layer(int64_t number) {
    const DecoderLayer& layer = model_.layers[number];
    norm(layer.attn_norm, at_.normed);
    linear(layer.qkv, at_.normed, at_.qkv);
    split_heads(layer);
    write(number);
    const bool last = number + 1 == step_.last, seen = observed(number);
    const int64_t q_width = (int64_t)layer.heads * layer.head_dim;
    if (last && !seen) {
      keep_wanted(at_.q, q_width);
      narrow();
      if (rows_ == 0) return;
    }
    attend(number);
    if (last && seen) {
      keep_wanted(at_.attended, q_width);
      narrow();
    }
    linear(layer.o, at_.attended, at_.delta);
    pending_ = after(layer.post_attn_norm);
    norm(layer.mlp_norm, at_.normed);
    mlp(layer);
    pending_ = after(layer.post_mlp_norm);
  }

  // Adds what is pending to x, and writes the norm of the sum.
  void norm(const NormWeight& norm, float* out) {
    const int64_t width = model_.width();
    clock_.measure(Operator::norm, [&] {
      ops_.rms_norm({at_.x, pending_, norm.weight, out, rows_, 1, width, width, 0, norm.eps, model_.threads});
    });
    pending_ = nullptr;
  }

  // delta, normed in place where the family does that.
  const float* after(const NormWeight& norm) {
    const int64_t width = model_.width();
    if (!norm.weight) return at_.delta;
    clock_.measure(Operator::norm, [&] {
      ops_.rms_norm({at_.delta, nullptr, norm.weight, at_.delta, rows_, 1, width, width, 0, norm.eps, model_.threads});
    });
    return at_.delta;
  }

  void linear(const LinearMap& map, const float* x, float* out) {
    clock_.measure(Operator::linear, [&] { linear_.linear(linear_args(model_, map, x, rows_, out)); });
  }

  void mlp(const DecoderLayer& layer) {
    clock_.measure(Operator::linear, [&] {
      linear_.mlp({linear_args(model_, layer.gate_up, at_.normed, rows_, nullptr),
                   linear_args(model_, layer.down, nullptr, rows_, at_.delta), layer.gate, at_.gated});
    });
  }

  void split_heads(const DecoderLayer& layer) {
    const RopeTable& table = step_.ropes[layer.rope];
    clock_.measure(Operator::heads, [&] {
      ops_.split_heads({at_.qkv, step_.rows.positions, table.cos, table.sin, layer.q_norm.weight, layer.k_norm.weight,
                        at_.q, at_.k, at_.v, rows_, layer.heads, layer.kv_heads, layer.head_dim, table.half,
                        layer.q_norm.eps, layer.k_norm.eps, model_.threads});
    });
  }

  void write(size_t number) {
    const LayerKv& kv = (*step_.kv)[number];
    if (!kv.owns) return;
    for (const BoundWrites& writes : step_.groups[kv.group]->writes)
      clock_.measure(Operator::write, [&] {
        attend_.write({writes.layout, kv.slot, step_.rows.rows, model_.threads, at_.k, at_.v, writes.row_pages,
                       writes.row_slots});
      });
  }

  void attend(size_t number) {
    const LayerKv& kv = (*step_.kv)[number];
    const BoundGroup& group = *step_.groups[kv.group];
    bool merge = false;
    for (const Read& read : group.reads) {
      clock_.measure(Operator::attend, [&] {
        const Part& part = group.parts[read.part];
        const Continuation after = group.after(read);
        const WorkPlan& work_plan = work_plans_.find(asking_, part, after, kv.slot, model_.layers[number].heads);
        state_.kv_bytes_read += work_plan.kv_bytes();
        attend_.attend({asking_, part, after.table, work_plan.work(), kv.slot, work_plan.q_heads(), model_.threads,
                        kv.scale, at_.q, at_.attended, at_.lse, merge});
      });
      merge = true;
    }
    if (observed((int64_t)number))
      clock_.measure(Operator::observe, [&] {
        observe(attend_, attended(model_, step_, (int64_t)number, at_.q, at_.lse), *step_.observer);
      });
  }

  bool observed(int64_t number) const { return step_.observer && step_.observer->asks(number); }

  // From here on nobody looks at the other rows.
  void narrow() {
    if (step_.num_wanted == rows_) return;
    keep_wanted(at_.x, model_.width());
    rows_ = step_.num_wanted;
    const Rows& all = step_.rows;
    for (int64_t i = 0; i < rows_; i++) wanted_positions_.push_back(all.positions[step_.wanted[i]]);
    for (int32_t b = 0; b <= all.seqs; b++)
      wanted_seq_rows_.push_back(
          (int32_t)(std::lower_bound(step_.wanted, step_.wanted + rows_, all.seq_rows[b]) - step_.wanted));
    asking_ = {wanted_positions_.data(), wanted_seq_rows_.data(), (int32_t)rows_, all.seqs};
    work_plans_.clear();
  }

  // Of what was computed for all rows. `wanted` ascends, so rows only move towards the front.
  void keep_wanted(float* values, int64_t width) const {
    if (step_.num_wanted == rows_) return;
    for (int64_t i = 0; i < step_.num_wanted; i++)
      std::memmove(values + i * width, values + step_.wanted[i] * width, (size_t)width * sizeof(float));
  }

  const DecoderModel& model_;
  const DecoderStep& step_;
  DecoderState& state_;
  OperatorClock& clock_;
  const LinearKernels& linear_;
  const OpsKernels& ops_;
  const AttendKernels& attend_;
  WorkPlans work_plans_;
  const DecoderBuffers at_;
  int64_t rows_;
  Rows asking_;  // whose queries attend
  std::vector<int32_t> wanted_positions_, wanted_seq_rows_;
  const float* pending_ = nullptr;
};

bool all_below(const int64_t* index, int64_t count, int64_t end) {
  return std::all_of(index, index + count, [end](int64_t i) { return 0 <= i && i < end; });
}

bool ascend(const int64_t* index, int64_t count) {
  return std::adjacent_find(index, index + count, std::greater_equal<int64_t>()) == index + count;
}

bool suits(const PageLayout& layout, const DecoderLayer& layer) {
  const bool divides = layout.heads > 0 && layer.heads % layout.heads == 0;
  return divides && layout.k_dim == layer.head_dim && layout.v_dim == layer.head_dim;
}

const char* find_kv_fault(const DecoderLayer& layer, const LayerKv& kv, const DecoderStep& step) {
  if (kv.group < 0 || kv.group >= (int64_t)step.groups.size() || kv.slot < 0) return "a layer is of no layer group";
  const BoundGroup& group = *step.groups[kv.group];
  for (const Part& part : group.parts)
    if (!suits(part, layer) || kv.slot >= part.slots) return "a layer reads a part that does not suit it";
  if (!kv.owns) return nullptr;
  if (group.writes.empty()) return "a layer has no place for its own KV";
  for (const BoundWrites& writes : group.writes)
    if (!suits(writes.layout, layer) || writes.layout.heads != layer.kv_heads || kv.slot >= writes.slots)
      return "a layer writes to pages that do not suit it";
  return nullptr;
}

}  // namespace

const char* find_fault(const DecoderModel& model, const DecoderStep& step) {
  if (step.tokens && !all_below(step.tokens, step.rows.rows, model.embed.outputs))
    return "a token is outside of the vocabulary";
  if (step.wanted) {
    if (!all_below(step.wanted, step.num_wanted, step.rows.rows)) return "a row is wanted that is not there";
    if (!ascend(step.wanted, step.num_wanted)) return "wanted rows must ascend";
  }
  const int64_t layers = (int64_t)model.layers.size();
  if (step.first < 0 || step.first > step.last || step.last > layers) return "there are no such layers";
  if (step.first == step.last) return nullptr;
  if (step.kv->size() != model.layers.size()) return "the plan is for another number of layers";
  const int32_t* positions = step.rows.positions;
  const int64_t end = step.rows.rows ? *std::max_element(positions, positions + step.rows.rows) + 1LL : 0;
  for (int64_t n = step.first; n < step.last; n++) {
    const DecoderLayer& layer = model.layers[n];
    if (layer.rope < 0 || layer.rope >= (int64_t)step.ropes.size()) return "a layer's RoPE table is missing";
    const RopeTable& table = step.ropes[layer.rope];
    if (end > table.positions || 2 * table.half > layer.head_dim) return "a RoPE table is too short or too wide";
    if (const char* fault = find_kv_fault(layer, (*step.kv)[n], step)) return fault;
    if (!step.observer) continue;
    if (const char* fault = find_fault(*step.observer, attended(model, step, n, nullptr, nullptr))) return fault;
  }
  return nullptr;
}

void run_decoder(const DecoderModel& model, const DecoderStep& step, DecoderState& state) {
  Pass(model, step, state).run();
}

}  // namespace kvloom
