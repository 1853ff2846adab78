// From a warpgroup's sums to its pixels of the output: bias and residual in float32, one rounding to bf16.
#pragma once
#include <cuda_bf16.h>

#include "hopper.cuh"
#include "maps.cuh"

namespace conv {

using bf16 = __nv_bfloat16;

struct Output {
  bf16* out;             // [F, HO, WO, N]
  const bf16* bias;      // [N]
  const bf16* residual;  // like out, or null
};

__device__ __forceinline__ uint32_t packed(float a, float b) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
  return reinterpret_cast<const uint32_t&>(two);
}
__device__ __forceinline__ float2 unpacked(uint32_t w) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(w));
}

// Where a thread's four pixels begin in the output, in numbers, at its tile's first channel: h = 0, 1 of product m = 0, 1;
// -1 outside the frame.
template <bool UP>
struct Place {
  int at[2][2];
  int q;  // lane of its quad

  __device__ Place(const Shape& s, const Origin& o) {
    const int thread = hopper::unknown(threadIdx.x), group = thread / WARPGROUP;
    const int wide = UP ? 2 * s.W : s.W, high = UP ? 2 * s.H : s.H;
    q = thread % 4;
    for (int m = 0; m < 2; ++m)
      for (int h = 0; h < 2; ++h) {
        const int row = fragment_row(thread % WARPGROUP, 2 * h) + (UP ? 0 : 64 * (2 * group + m));
        int y = o.y + (row >> s.pw_bits), x = o.x + (row & (1 << s.pw_bits) - 1);
        if (UP) y = 2 * y + group, x = 2 * x + m;
        at[m][h] = y < high && x < wide ? ((o.frame * high + y) * wide + x) * s.N + o.n : -1;
      }
  }
  __device__ __forceinline__ bool inside(int m, int h) const { return at[m][h] >= 0; }
};

// A warpgroup's part of the residual into L2 while it multiplies.
template <int BN>
__device__ __forceinline__ void prefetch(const Output& e, const Place<false>& at) {
  if (!e.residual) return;
  for (int m = 0; m < 2; ++m)
    for (int h = 0; h < 2; ++h)
      for (int i = at.q; i < BN / 32; i += 4)  // lines of 64 bytes
        if (at.inside(m, h)) hopper::prefetch_l2(e.residual + at.at[m][h] + 32 * i);
}

// 32 channels of a thread's pixel as they lie in memory, eight a lane; 0 where there is no residual.
template <bool UP>
__device__ __forceinline__ void load(const Output& e, const Place<UP>& at, int m, int h, int channel, uint32_t (&x)[4]) {
  uint4 got = make_uint4(0, 0, 0, 0);
  if (!UP && e.residual && at.inside(m, h))
    got = *reinterpret_cast<const uint4*>(e.residual + at.at[m][h] + channel + 8 * at.q);
  x[0] = got.x, x[1] = got.y, x[2] = got.z, x[3] = got.w;
}

// 32 channels at a time: the four lanes that hold a pixel exchange words, so that each reads and writes 16 bytes.
template <int BN, bool UP>
__device__ __forceinline__ void finish(const Output& e, const Place<UP>& at, int n, const float (&acc)[2][BN / 2]) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int c = 0; c < BN / 32; ++c) {
      uint32_t bias[4], x[2][4];  // on their way before one is looked at
#pragma unroll
      for (int h = 0; h < 2; ++h) load(e, at, m, h, 32 * c, x[h]);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        bias[j] = *reinterpret_cast<const uint32_t*>(e.bias + n + 32 * c + 8 * j + 2 * at.q);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t y[4];
        if (!UP && e.residual) hopper::quad_transpose(x[h], at.q);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float* v = acc[m] + 16 * c + 4 * j + 2 * h;
          const float2 add = unpacked(x[h][j]), shift = unpacked(bias[j]);
          y[j] = packed(v[0] + shift.x + add.x, v[1] + shift.y + add.y);
        }
        hopper::quad_transpose(y, at.q);
        if (at.inside(m, h)) hopper::store_words(e.out + at.at[m][h] + 32 * c + 8 * at.q, y);
      }
    }
}

// At most eight channels: each lane has two of a pixel.
__device__ __forceinline__ void finish(const Output& e, const Place<false>& at, int N, const float (&acc)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int n = fragment_column(threadIdx.x, i % 4), m = i / 4, h = i / 2 % 2;
    if (n >= N || !at.inside(m, h)) continue;
    const int mine = at.at[m][h] + n;
    const float add = e.residual ? __bfloat162float(e.residual[mine]) : 0.f;
    e.out[mine] = __float2bfloat16_rn(acc[m][i % 4] + __bfloat162float(e.bias[n]) + add);
  }
}

}  // namespace conv
