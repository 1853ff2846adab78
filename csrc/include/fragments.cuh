// Where a warpgroup's products lie: the accumulator's fragment, an operand in shared memory, the turn of a ring.
#pragma once
#include <cstdint>

#include <hopper.cuh>  // not by quotes: tests/cuda_on_cpu has another one, which comes first on the path

namespace hopper {

constexpr int WARPGROUP = 128;  // threads
constexpr int BARRIER = sizeof(uint64_t);

// Accumulator value i of thread t in a warpgroup's 64 x n product (PTX ISA, wgmma "D fragment").
__host__ __device__ __forceinline__ int fragment_row(int t, int i) { return t / 32 * 16 + t % 32 / 4 + (i / 2) % 2 * 8; }
__host__ __device__ __forceinline__ int fragment_column(int t, int i) { return i / 4 * 8 + t % 4 * 2 + i % 2; }

// Shared-memory operand of wgmma: rows of WIDTH bytes, 128 or 64, swizzled over their width, eight rows to a block; it
// starts at a multiple of a block, or at 16 bytes within the first row of one.
// Bits 0-13 address / 16; 16-29 unused by swizzled rows (1); 32-45 stride of eight rows / 16; 62-63 the swizzle.
template <int WIDTH = 128>
__host__ __device__ __forceinline__ constexpr uint64_t operand(uint32_t shared_address) {
  static_assert(WIDTH == 128 || WIDTH == 64, "a swizzle of 128 or 64 bytes");
  return (uint64_t)((shared_address & 0x3ffff) >> 4) | 1ull << 16 | (uint64_t)(8 * WIDTH >> 4) << 32 |
         (WIDTH == 128 ? 1ull : 2ull) << 62;
}

// Where a warp stands in a ring of barriers: stage, and the parity of the phase that its full barrier completes next.
template <int STAGES>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

// Transpose 4 x 4 words over a quad: word j of lane q becomes word q of lane j. Its own inverse.
__device__ __forceinline__ void quad_transpose(uint32_t (&w)[4], int q) {
#pragma unroll
  for (int bit = 1; bit <= 2; ++bit)
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      uint32_t &low = w[bit == 1 ? 2 * n : n], &high = w[bit == 1 ? 2 * n + 1 : n + 2];
      const uint32_t got = __shfl_xor_sync(0xffffffffu, q & bit ? low : high, bit);
      if (q & bit) low = got;
      else high = got;
    }
}

}  // namespace hopper
