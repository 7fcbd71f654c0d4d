#include "ops.h"

#include <cmath>

#include "gates.h"
#include "parallel.h"

namespace kvloom {
namespace KV_ISA {
namespace {

// Rows are handed out by the block: single rows are too little work for that.
constexpr int64_t kBlockFloats = 16384;

template <class Body>
inline void for_rows(int64_t rows, int64_t width, int threads, const Body& body) {
  const int64_t size = width < kBlockFloats ? kBlockFloats / width : 1;
  parallel_for((rows + size - 1) / size, threads, [&](int64_t block) {
    for (int64_t r = block * size; r < rows && r < (block + 1) * size; r++) body(r);
  });
}

inline v16 load_some(const float* p, int64_t n) {
  v16 v = splat(0.0f);
  std::memcpy(&v, p, (size_t)n * 4);
  return v;
}

// Lane i sums the squares of the elements i, i + 16, ...; then the lanes are folded.
inline float sum_of_squares(const float* x, int64_t n) {
  v16 sum = splat(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sum = fma(load(x + i), load(x + i), sum);
  if (i < n) sum = fma(load_some(x + i, n - i), load_some(x + i, n - i), sum);
  return fold_sum(sum);
}

template <class Act>
inline void gate_mul(const GateArgs& a, const Act& act) {
  for_rows(a.rows, a.width, a.threads, [&](int64_t r) {
    const float *g = a.x + 2 * r * a.width, *u = g + a.width;
    float* out = a.out + r * a.width;
    int64_t i = 0;
    for (; i + 16 <= a.width; i += 16) store(out + i, act(load(g + i)) * load(u + i));
    if (i == a.width) return;
    const v16 rest = act(load_some(g + i, a.width - i)) * load_some(u + i, a.width - i);
    std::memcpy(out + i, &rest, (size_t)(a.width - i) * 4);
  });
}

// out may be x.
inline void norm_row(const float* x, const float* weight, float eps, float* out, int64_t width) {
  const float scale = 1.0f / std::sqrt(sum_of_squares(x, width) / (float)width + eps);
  for (int64_t i = 0; i < width; i++) out[i] = x[i] * scale * weight[i];
}

inline void rotate(float* x, const float* cos, const float* sin, int64_t half) {
  float *lo = x, *hi = x + half;
  for (int64_t i = 0; i < half; i++) {
    const float a = lo[i], b = hi[i];
    lo[i] = a * cos[i] - b * sin[i];
    hi[i] = b * cos[i] + a * sin[i];
  }
}

void rms_norm(const NormArgs& a) {
  for_rows(a.outer * a.inner, a.width, a.threads, [&](int64_t r) {
    float* x = a.x + r / a.inner * a.outer_stride + r % a.inner * a.inner_stride;
    if (a.add)
      for (int64_t i = 0; i < a.width; i++) x[i] += a.add[r * a.width + i];
    norm_row(x, a.weight, a.eps, a.out + r * a.width, a.width);
  });
}

void rope(const RopeArgs& a) {
  for_rows(a.tokens, a.heads * a.half, a.threads, [&](int64_t t) {
    const int64_t angle = a.positions[t] * a.half;
    for (int64_t h = 0; h < a.heads; h++)
      rotate(a.x + t * a.token_stride + h * a.head_stride, a.cos + angle, a.sin + angle, a.half);
  });
}

void split_heads(const SplitHeadsArgs& a) {
  for_rows(a.rows, (a.heads + 2 * a.kv_heads) * a.dim, a.threads, [&](int64_t t) {
    const float* from = a.qkv + t * (a.heads + 2 * a.kv_heads) * a.dim;
    const float *cos = a.cos + a.positions[t] * a.half, *sin = a.sin + a.positions[t] * a.half;
    const auto heads_to = [&](float* to, int64_t heads, const float* norm, float eps) {
      for (int64_t h = 0; h < heads; h++, from += a.dim, to += a.dim) {
        if (norm)
          norm_row(from, norm, eps, to, a.dim);
        else
          std::memcpy(to, from, (size_t)a.dim * 4);
        rotate(to, cos, sin, a.half);
      }
    };
    heads_to(a.q + t * a.heads * a.dim, a.heads, a.q_norm, a.q_eps);
    heads_to(a.k + t * a.kv_heads * a.dim, a.kv_heads, a.k_norm, a.k_eps);
    std::memcpy(a.v + t * a.kv_heads * a.dim, from, (size_t)(a.kv_heads * a.dim) * 4);
  });
}

// False only when none of x is above `limit` or NaN: infinities of both signs make it say true without need.
inline bool may_exceed(const float* x, int64_t n, float limit) {
  if (n % 16) return true;
  v16 top = splat(limit), sum = splat(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    top = vmax(load(x + i), top);
    sum = sum + load(x + i);
  }
  const float total = fold_sum(sum);
  return fold_max(top) > limit || total != total;
}

// Blocks that hold nothing larger than what was found, nearly all, are passed over without a look at single numbers.
inline int64_t first_largest(const float* x, int64_t n) {
  constexpr int64_t block = 1024;
  int64_t best = 0;
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t end = begin + block < n ? begin + block : n;
    if (begin > 0 && !may_exceed(x + begin, end - begin, x[best])) continue;
    for (int64_t i = begin; i < end; i++) {
      if (x[i] != x[i]) return i;
      if (x[i] > x[best]) best = i;
    }
  }
  return best;
}

void argmax(const ArgmaxArgs& a) {
  for_rows(a.rows, a.width, a.threads, [&](int64_t r) { a.out[r] = first_largest(a.x + r * a.width, a.width); });
}

void silu_mul(const GateArgs& args) {
  gate_mul(args, [](v16 x) { return silu(x); });
}

void gelu_tanh_mul(const GateArgs& args) {
  gate_mul(args, [](v16 x) { return gelu_tanh(x); });
}

}  // namespace

const OpsKernels ops_kernels = {rms_norm, rope, split_heads, silu_mul, gelu_tanh_mul, argmax};

}  // namespace KV_ISA
}  // namespace kvloom
