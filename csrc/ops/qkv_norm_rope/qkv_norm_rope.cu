// rotate(rms(q) * norm_q), rotate(rms(k) * norm_k), v: liveact_kernels/ops/qkv_norm_rope (reference.py, NOTES.md).
// A block keeps its part's norm weights in registers and walks tokens, reading the next while it computes this one.
#include <stdexcept>

#include "casts.cuh"
#include "device.cuh"
#include "reduce.cuh"
#include "registry.h"
#include "rope.cuh"

namespace qkv_norm_rope_op {

using la::Bf16;
constexpr int THREADS = 128, BLOCKS = 4;  // blocks on a multiprocessor: 128 registers a thread

struct Params {
  uint4* out[3];   // q, k, v [L, C]
  uint4* peer[3];  // a second place for the same rows, or null
  const uint4* qkv;
  const float* norm[2];
  const float* rope;
  int L, words, lanes;  // tokens; words of eight channels in a row and in a head
  float eps;
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

template <int N>
__device__ void store_row(const Params& p, int part, int token, const uint4 (&row)[N]) {
  const int64_t begin = static_cast<int64_t>(token) * p.words;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const int at = threadIdx.x + n * THREADS;
    if (at < p.words) {
      p.out[part][begin + at] = row[n];
      if (p.peer[part]) p.peer[part][begin + at] = row[n];
    }
  }
}

template <int N>
__device__ void copied(const Params& p, int first, int step) {
  uint4 row[N], next[N];
  load_row(p, 2, first, next);
  for (int token = first; token < p.L; token += step) {
#pragma unroll
    for (int n = 0; n < N; ++n) row[n] = next[n];
    if (token + step < p.L) load_row(p, 2, token + step, next);
    store_row(p, 2, token, row);
  }
}

// THREADS is a multiple of a head's words, so a thread has the same channels in every head and one rope vector.
template <int N>
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
    float x[8], sum = 0.f;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      Bf16::unpack(row[n], x);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += x[i] * x[i];
    }
    sum = la::block_sum<THREADS>(sum, sums + turnabout * (THREADS / 32));
    const float inverse = rsqrtf(sum / (8.f * p.words) + p.eps);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      Bf16::unpack(row[n], x);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] *= inverse * weight[n][i];
      la::rotate<false>(x, turn);
      row[n] = Bf16::pack(x);
    }
    store_row(p, part, token, row);
  }
}

// Blocks in threes (q, k, v), so that every multiprocessor has its share of copies.
template <int N>
__global__ void __launch_bounds__(THREADS, BLOCKS) qkv_norm_rope_kernel(const __grid_constant__ Params p) {
  const int part = blockIdx.x % 3, first = blockIdx.x / 3, step = gridDim.x / 3;
  if (part == 2) copied<N>(p, first, step);
  else normed<N>(p, part, first, step);
}

void qkv_norm_rope(uint4* q, uint4* k, uint4* v, uint4* k_peer, uint4* v_peer, const uint4* qkv, const float* norm_q,
                   const float* norm_k, const float* rope, int64_t L, int64_t H, int64_t D, float eps,
                   cudaStream_t stream) {
  const int words = static_cast<int>(H * D / 8), lanes = static_cast<int>(D / 8);
  if (D % 8 || lanes == 0 || THREADS % lanes || words > 5 * THREADS)
    throw std::invalid_argument("qkv_norm_rope: expected D of 8 * 2^n and at most 5120 channels");
  const Params p = {{q, k, v}, {nullptr, k_peer, v_peer}, qkv, {norm_q, norm_k}, rope, int(L), words, lanes, eps};
  const int64_t workers = (la::multiprocessors() * BLOCKS + 2) / 3;
  const dim3 grid(static_cast<unsigned>(3 * (L < workers ? L : workers)));
  const size_t shared = 2 * (THREADS / 32) * sizeof(float);
  const auto kernel = words > THREADS ? qkv_norm_rope_kernel<5> : qkv_norm_rope_kernel<1>;
  if (L) la::launch(kernel, grid, THREADS, shared, 1, stream, p);
}

LA_OP(qkv_norm_rope)

}  // namespace qkv_norm_rope_op
