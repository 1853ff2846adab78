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
template <int BN, bool UP>
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
        const bool here = y < high && x < wide && (BN != FEW || (row & (1 << s.pw_bits) - 1) < made(s, BN));
        at[m][h] = here ? ((o.frame * high + y) * wide + x) * s.N + o.n : -1;
      }
  }
  __device__ __forceinline__ bool inside(int m, int h) const { return at[m][h] >= 0; }
};

// A warpgroup's part of the residual into L2 while it multiplies: lines of 64 bytes.
template <int BN, bool UP>
__device__ __forceinline__ void prefetch(const Output& e, const Place<BN, UP>& at) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < ceil_div(BN, 32); i += 4)
        if (at.inside(m, h) && (at.q + i) * 32 < BN) hopper::prefetch_l2(e.residual + at.at[m][h] + 32 * (at.q + i));
}

// The residual of 32 channels of two of a thread's pixels as they lie in memory, eight channels a lane, on their way while
// something else is done; 0 outside the frame. Parts count the channels of product 0, then those of product 1.
template <int BN, bool RESIDUAL>
struct Ahead {
  static constexpr int PARTS = 2 * (BN / 32);
  uint32_t x[RESIDUAL ? 2 : 1][4];

  template <bool UP>
  __device__ __forceinline__ void load(const Output& e, const Place<BN, UP>& at, int part) {
    if constexpr (RESIDUAL && BN != FEW)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int m = part / (BN / 32), c = part % (BN / 32);
        uint4 got = make_uint4(0, 0, 0, 0);
        if (at.inside(m, h)) got = *reinterpret_cast<const uint4*>(e.residual + at.at[m][h] + 32 * c + 8 * at.q);
        x[h][0] = got.x, x[h][1] = got.y, x[h][2] = got.z, x[h][3] = got.w;
      }
  }
};

// 32 channels of two pixels at a time. The four lanes that hold a pixel exchange words, so that each reads and writes 16
// bytes. bias: in shared memory, of this tile's channels.
template <int BN, bool RESIDUAL, bool UP>
__device__ __forceinline__ void finish(const Output& e, const Shape&, const Place<BN, UP>& at, const float* bias,
                                       Ahead<BN, RESIDUAL>& ahead, const float (&acc)[2][BN / 2]) {
#pragma unroll
  for (int part = 0; part < ahead.PARTS; ++part) {
    const int m = part / (BN / 32), c = part % (BN / 32);
    uint32_t y[2][4];
    Ahead<BN, RESIDUAL> now = ahead;
    if (part + 1 < ahead.PARTS) ahead.load(e, at, part + 1);
    if constexpr (RESIDUAL)
#pragma unroll
      for (int h = 0; h < 2; ++h) hopper::quad_transpose(now.x[h], at.q);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 b = hopper::read_pair(bias + 32 * c + 8 * j + 2 * at.q);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float* v = acc[m] + 16 * c + 4 * j + 2 * h;
        float2 sum = {v[0] + b.x, v[1] + b.y};
        if constexpr (RESIDUAL) {
          const float2 add = unpacked(now.x[h][j]);
          sum.x += add.x, sum.y += add.y;
        }
        y[h][j] = packed(sum.x, sum.y);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      hopper::quad_transpose(y[h], at.q);
      hopper::store_words(e.out + at.at[m][h] + 32 * c + 8 * at.q, y[h], at.inside(m, h));
    }
  }
}

// At most eight channels: each lane has two of a pixel, for each horizontal tap. A patch is 16 pixels wide, so a warp's 16
// rows are one row of it: tap dx of the pixel in row g + 8 h is in row g + 8 h + dx, of another lane of the warp.
template <bool RESIDUAL>
__device__ __forceinline__ void finish(const Output& e, const Shape& s, const Place<FEW, false>& at, const float* bias,
                                       Ahead<FEW, RESIDUAL>&, const float (&acc)[2][FEW / 2]) {
  const int n = 2 * at.q, row = threadIdx.x % 32 / 4;
  float sum[8], add[8] = {};
#pragma unroll
  for (int i = 0; RESIDUAL && i < 8; ++i)
    if (n + i % 2 < s.N && at.inside(i / 4, i / 2 % 2))
      add[i] = __bfloat162float(e.residual[at.at[i / 4][i / 2 % 2] + n + i % 2]);
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      sum[4 * m + c] = acc[m][c], sum[4 * m + 2 + c] = acc[m][2 + c];
#pragma unroll
      for (int dx = 1; dx < 3; ++dx) {
        const int from = (row + dx) % 8 * 4 + at.q;
        const float upper = __shfl_sync(0xffffffffu, acc[m][4 * dx + c], from);
        const float lower = __shfl_sync(0xffffffffu, acc[m][4 * dx + 2 + c], from);
        sum[4 * m + c] += row + dx < 8 ? upper : lower;
        sum[4 * m + 2 + c] += lower;  // past the last row: a pixel that this tile does not make
      }
    }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (n + i % 2 < s.N && at.inside(i / 4, i / 2 % 2))
      e.out[at.at[i / 4][i / 2 % 2] + n + i % 2] = __float2bfloat16_rn(sum[i] + bias[n + i % 2] + add[i]);
}

}  // namespace conv
