// rotate(rms(q) * norm_q), rotate(rms(k) * norm_k), v: liveact_kernels/ops/qkv_norm_rope (reference.py, NOTES.md).
// A block keeps its part's norm weights in registers and walks tokens, reading the next while it computes this one.
#include <stdexcept>
#include <string>

#include "casts.cuh"
#include "device.cuh"
#include "reduce.cuh"
#include "registry.h"
#include "rope.cuh"

namespace qkv_norm_rope_op {

using la::Bf16;
constexpr int THREADS = 128, BLOCKS = 4;  // blocks on a multiprocessor: 128 registers a thread

struct Params {
  void* out[3];     // q, k, v [L, C]
  float* scale[3];  // of codes: one per token and head
  void* peer[3];    // a second place for the same rows, or null
  const uint4* qkv;
  const float* norm[2];
  const float* rope;
  int L, words, lanes, heads;  // tokens; words of eight channels in a row and in a head; heads
  float eps, share;     // share: 1 / channels
};

template <int N>
__device__ void load_row(const Params& p, int part, int token, uint4 (&row)[N]) {
  const uint4* from = p.qkv + (static_cast<int64_t>(token) * 3 + part) * p.words;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const int at = threadIdx.x + n * THREADS;
    row[n] = at < p.words ? __ldg(from + at) : make_uint4(0, 0, 0, 0);
  }
}

// Word n of this thread's part of a row.
template <class Store>
__device__ void store_word(const Params& p, int part, int token, int n, typename Store::Word word) {
  const int at = threadIdx.x + n * THREADS;
  const int64_t to = static_cast<int64_t>(token) * p.words + at;
  if (at >= p.words) return;
  static_cast<typename Store::Word*>(p.out[part])[to] = word;
  if (p.peer[part]) static_cast<typename Store::Word*>(p.peer[part])[to] = word;
}

// The same of eight floats. THREADS is a multiple of a head's words, so every thread has a whole head's lanes beside it.
template <class Store, int LANES>
__device__ void store_values(const Params& p, int part, int token, int n, float (&x)[1][8]) {
  float scale[1];
  la::coded<Store, 1, LANES>(p.lanes, x, scale);
  store_word<Store>(p, part, token, n, Store::pack(x[0]));
  const unsigned lanes = LANES ? LANES : p.lanes, head = threadIdx.x / lanes + n * (THREADS / lanes);
  if (Store::MOST > 0 && threadIdx.x % lanes == 0 && head < p.heads)
    p.scale[part][static_cast<int64_t>(token) * p.heads + head] = scale[0];
}

template <class Store, int N, int LANES>
__device__ void copied(const Params& p, int first, int step) {
  uint4 row[N], next[N];
  load_row(p, 2, first, next);
  for (int token = first; token < p.L; token += step) {
#pragma unroll
    for (int n = 0; n < N; ++n) row[n] = next[n];
    if (token + step < p.L) load_row(p, 2, token + step, next);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if constexpr (Store::MOST == 0) {
        store_word<Store>(p, 2, token, n, row[n]);
      } else {
        float x[1][8];
        Bf16::unpack(row[n], x[0]);
        store_values<Store, LANES>(p, 2, token, n, x);
      }
    }
  }
}

// THREADS is a multiple of a head's words, so a thread has the same channels in every head and one rope vector.
template <class Store, int N, int LANES>
__device__ void normed(const Params& p, int part, int first, int step) {
  float* sums = la::shared_memory<float>();
  float weight[N][8], turn[8];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const int at = threadIdx.x + n * THREADS;
    if (at < p.words) la::load8(p.norm[part] + 8 * at, weight[n]);
  }
  const int lane = threadIdx.x % p.lanes;
  uint4 row[N], next[N];
  load_row(p, part, first, next);
  for (int token = first, turnabout = 0; token < p.L; token += step, turnabout ^= 1) {
#pragma unroll
    for (int n = 0; n < N; ++n) row[n] = next[n];
    la::load8(p.rope + (static_cast<int64_t>(token) * p.lanes + lane) * 8, turn);
    if (token + step < p.L) load_row(p, part, token + step, next);
    float x[1][8], sum = 0.f;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      Bf16::unpack(row[n], x[0]);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += x[0][i] * x[0][i];
    }
    sum = la::block_sum<THREADS>(sum, sums + turnabout * (THREADS / 32));
    const float inverse = rsqrtf(sum * p.share + p.eps);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      Bf16::unpack(row[n], x[0]);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[0][i] *= inverse * weight[n][i];
      la::rotate<false>(x[0], turn);
      store_values<Store, LANES>(p, part, token, n, x);
    }
  }
}

// Blocks in threes (q, k, v), so that every multiprocessor has its share of copies.
template <class Keys, class Values, int N, int LANES>
__global__ void __launch_bounds__(THREADS, BLOCKS) qkv_norm_rope_kernel(const __grid_constant__ Params p) {
  const int part = blockIdx.x % 3, first = blockIdx.x / 3, step = gridDim.x / 3;
  if (part == 2) copied<Values, N, LANES>(p, first, step);
  else normed<Keys, N, LANES>(p, part, first, step);
}

template <class Keys, class Values>
void run(const char* op, const Params& p, int64_t D, cudaStream_t stream) {
  if (D % 8 || p.lanes == 0 || 32 % p.lanes || p.words > 5 * THREADS)
    throw std::invalid_argument(std::string(op) + ": expected D of 8, 16, 32, 64, 128 or 256 and at most 5120 channels");
  const int64_t workers = (la::multiprocessors() * BLOCKS + 2) / 3;
  const dim3 grid(static_cast<unsigned>(3 * (p.L < workers ? p.L : workers)));
  const size_t shared = 2 * (THREADS / 32) * sizeof(float);
  auto kernel = p.words > THREADS ? qkv_norm_rope_kernel<Keys, Values, 5, 0> : qkv_norm_rope_kernel<Keys, Values, 1, 0>;
  if constexpr (Keys::MOST > 0)  // the model's heads
    if (p.words > THREADS && p.lanes == 16) kernel = qkv_norm_rope_kernel<Keys, Values, 5, 16>;
  if (p.L) la::launch(kernel, grid, THREADS, shared, 1, stream, p);
}

void qkv_norm_rope(void* q, void* k, void* v, void* k_peer, void* v_peer, const uint4* qkv, const float* norm_q,
                   const float* norm_k, const float* rope, int64_t L, int64_t H, int64_t D, float eps,
                   cudaStream_t stream) {
  const Params p = {{q, k, v}, {}, {nullptr, k_peer, v_peer}, qkv, {norm_q, norm_k}, rope,
                    int(L), int(H * D / 8), int(D / 8), int(H), eps, 1.f / (H * D)};
  run<Bf16, Bf16>("qkv_norm_rope", p, D, stream);
}

void qkv_norm_rope_8bit(void* q, void* k, void* v, float* q_scale, float* k_scale, float* v_scale, const uint4* qkv,
                        const float* norm_q, const float* norm_k, const float* rope, int64_t L, int64_t H, int64_t D,
                        float eps, cudaStream_t stream) {
  const Params p = {{q, k, v}, {q_scale, k_scale, v_scale}, {}, qkv, {norm_q, norm_k}, rope,
                    int(L), int(H * D / 8), int(D / 8), int(H), eps, 1.f / (H * D)};
  run<la::Int8, la::E4m3>("qkv_norm_rope_8bit", p, D, stream);
}

LA_OP(qkv_norm_rope)
LA_OP(qkv_norm_rope_8bit)

}  // namespace qkv_norm_rope_op
