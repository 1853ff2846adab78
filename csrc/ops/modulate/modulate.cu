// e4m3 codes of LayerNorm(x) * mul + add, one scale per row: liveact_kernels/ops/modulate (reference.py, NOTES.md).
// A block keeps mul and add in shared memory and walks rows, reading the next while it computes this one.
#include <stdexcept>

#include "casts.cuh"
#include "device.cuh"
#include "reduce.cuh"
#include "registry.h"

namespace modulate_op {

using la::Bf16;
constexpr int THREADS = 128, WARPS = THREADS / 32, WORDS = 5;  // words of eight channels that a thread can hold
constexpr int BLOCKS = 5;                                      // on a multiprocessor: 40 KB each at 5120 channels

struct Params {
  uint2* out;      // [L, C] codes
  float* scale;    // [L]
  const uint4* x;  // [L, C]
  const float *mul, *add;
  int L, words;      // rows; words in a row
  float eps, share;  // share: 1 / channels
};

// A vector as [word / THREADS, half, thread] of four floats: threads side by side in each half, so that no two lanes of a
// read meet in a bank.
template <int N>
__device__ void fill(const Params& p, const float* from, float4* to) {
  for (int i = threadIdx.x; i < 2 * p.words; i += THREADS) {
    const int word = i / 2;
    to[(word / THREADS * 2 + i % 2) * THREADS + word % THREADS] = __ldg(reinterpret_cast<const float4*>(from) + i);
  }
}

template <int N>
__device__ void load_row(const Params& p, int token, uint4 (&row)[N]) {
  const uint4* from = p.x + static_cast<int64_t>(token) * p.words + threadIdx.x;
#pragma unroll
  for (int n = 0; n < N; ++n)
    row[n] = n * THREADS + static_cast<int>(threadIdx.x) < p.words ? __ldg(from + n * THREADS) : make_uint4(0, 0, 0, 0);
}

// Three sums or maxima of the block per row, each with slots of its own: between two uses of the same ones every thread
// passes the barriers of the others.
template <int N>
__global__ void __launch_bounds__(THREADS, BLOCKS) modulate_quant_kernel(const __grid_constant__ Params p) {
  float4* mul = la::shared_memory<float4>();
  float4* add = mul + 2 * N * THREADS;
  float* slots = reinterpret_cast<float*>(add + 2 * N * THREADS);
  fill<N>(p, p.mul, mul), fill<N>(p, p.add, add);
  __syncthreads();
  uint4 next[N];
  load_row(p, blockIdx.x, next);
  for (int token = blockIdx.x; token < p.L; token += gridDim.x) {
    float x[N][8], sum = 0.f, most = 0.f;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      Bf16::unpack(next[n], x[n]);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += x[n][i];
    }
    if (token + static_cast<int>(gridDim.x) < p.L) load_row(p, token + gridDim.x, next);
    const float mean = la::block_sum<THREADS>(sum, slots) * p.share;
    sum = 0.f;
#pragma unroll
    for (int n = 0; n < N; ++n)
      if (n * THREADS + static_cast<int>(threadIdx.x) < p.words)  // padding is no variance
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          x[n][i] -= mean;
          sum += x[n][i] * x[n][i];
        }
    const float inverse = rsqrtf(la::block_sum<THREADS>(sum, slots + WARPS) * p.share + p.eps);
#pragma unroll
    for (int n = 0; n < N; ++n)
      if (n * THREADS + static_cast<int>(threadIdx.x) < p.words)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float4 m = mul[(2 * n + half) * THREADS + threadIdx.x], a = add[(2 * n + half) * THREADS + threadIdx.x];
          float(&y)[8] = x[n];
          y[4 * half] = y[4 * half] * inverse * m.x + a.x, y[4 * half + 1] = y[4 * half + 1] * inverse * m.y + a.y;
          y[4 * half + 2] = y[4 * half + 2] * inverse * m.z + a.z, y[4 * half + 3] = y[4 * half + 3] * inverse * m.w + a.w;
#pragma unroll
          for (int i = 4 * half; i < 4 * half + 4; ++i) most = fmaxf(most, fabsf(y[i]));
        }
    const float scale = fmaxf(la::block_max<THREADS>(most, slots + 2 * WARPS) * (1.f / la::E4m3::MOST), la::SCALE_FLOOR);
    const float per_code = la::reciprocal(scale);
    if (threadIdx.x == 0) p.scale[token] = scale;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int at = threadIdx.x + n * THREADS;
#pragma unroll
      for (int i = 0; i < 8; ++i) x[n][i] *= per_code;
      if (at < p.words) p.out[static_cast<int64_t>(token) * p.words + at] = la::E4m3::pack(x[n]);
    }
  }
}

void modulate_quant(uint2* x8, float* x_scale, const uint4* x, const float* mul, const float* add, int64_t L, int64_t C,
                    float eps, cudaStream_t stream) {
  const int64_t words = C / 8, blocks = la::multiprocessors() * BLOCKS;
  if (C % 8 || C == 0 || words > WORDS * THREADS)
    throw std::invalid_argument("modulate_quant: expected channels in multiples of 8, at most 5120");
  const Params p = {x8, x_scale, x, mul, add, int(L), int(words), eps, 1.f / C};
  const bool few = words <= THREADS;
  const size_t shared = 4 * (few ? 1 : WORDS) * THREADS * sizeof(float4) + 3 * WARPS * sizeof(float);
  const auto kernel = few ? modulate_quant_kernel<1> : modulate_quant_kernel<WORDS>;
  if (L) la::launch(kernel, dim3(static_cast<unsigned>(L < blocks ? L : blocks)), THREADS, shared, 1, stream, p);
}

LA_OP(modulate_quant)

}  // namespace modulate_op
