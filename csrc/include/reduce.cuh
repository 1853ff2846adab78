// Sums and maxima over the lanes of a warp, and codes with the scale that a maximum gives.
#pragma once

#include "casts.cuh"

namespace la {

// Eight channels of each of N heads become values that Store::pack turns into codes. A head belongs to `lanes`
// neighbouring lanes (a power of two, LANES where that is known); every one of them gets its scale. All 32 must call.
template <class Store, int N, int LANES = 0>
__device__ __forceinline__ void coded(int lanes, float (&y)[N][8], float (&scale)[N]) {
  if constexpr (Store::MOST > 0) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      scale[n] = 0.f;
#pragma unroll
      for (int i = 0; i < 8; ++i) scale[n] = fmaxf(scale[n], fabsf(y[n][i]));
    }
#pragma unroll
    for (int o = (LANES ? LANES : lanes) / 2; o; o /= 2) {
#pragma unroll
      for (int n = 0; n < N; ++n) scale[n] = fmaxf(scale[n], __shfl_xor_sync(0xFFFFFFFFu, scale[n], o));
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
      scale[n] = Store::scale(scale[n]);
      const float inverse = Store::inverse(scale[n]);
#pragma unroll
      for (int i = 0; i < 8; ++i) y[n][i] *= inverse;
    }
  }
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int o = 16; o; o /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, o));
  return x;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int o = 16; o; o /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, o);
  return x;
}

// Over the block, one barrier: `slots` holds one float per warp and must be another one in the next call.
template <int THREADS>
__device__ __forceinline__ float block_sum(float x, float* slots) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0.f;
#pragma unroll
  for (int w = 0; w < THREADS / 32; ++w) x += slots[w];
  return x;
}

// The largest of numbers that are 0 or more, likewise.
template <int THREADS>
__device__ __forceinline__ float block_max(float x, float* slots) {
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0.f;
#pragma unroll
  for (int w = 0; w < THREADS / 32; ++w) x = fmaxf(x, slots[w]);
  return x;
}

}  // namespace la
