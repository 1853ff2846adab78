// Sums and maxima over the lanes of a warp.
#pragma once

namespace la {

// Over groups of `lanes` neighbouring lanes (a power of two); every lane gets the result. All 32 lanes must call.
__device__ __forceinline__ float lanes_max(float x, int lanes) {
  for (int o = lanes / 2; o; o /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, o));
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

}  // namespace la
