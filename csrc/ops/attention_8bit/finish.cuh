// From a warpgroup's attended values to its 64 rows of one head of the output: bf16, float32, or e4m3 and scales.
//
// A thread's values lie in pairs of columns, eight columns apart (fragments.cuh). The four lanes that hold a row
// exchange words, so that each stores 16 adjacent bytes.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "casts.cuh"
#include "fragments.cuh"
#include "hopper.cuh"

namespace attention8 {

using bf16 = __nv_bfloat16;
using e4m3 = __nv_fp8_storage_t;
using hopper::WARPGROUP;

constexpr int D = 128;  // channels of a head

struct Output {
  void* out;         // [L, H, D]
  float* out_scale;  // [L, H], e4m3 only
  int L, H;
};

// One thread's view: rows row[0] and row[1] = row[0] + 8 of the output, lane q of its quad.
struct Place {
  int row[2], head, q;
  __device__ Place(int m, int head, int thread)
      : row{m + hopper::fragment_row(thread, 0), m + hopper::fragment_row(thread, 2)}, head(head), q(thread % 4) {}
  __device__ size_t at(const Output& o, int h) const { return (size_t)row[h] * o.H + head; }  // in heads
};

__device__ __forceinline__ void store(void* to, const uint32_t (&w)[4]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(w[0], w[1], w[2], w[3]);
}

__device__ __forceinline__ void finish(bf16, const Output& o, const Place& at, const float (&y)[D / 2]) {
#pragma unroll
  for (int c = 0; c < D / 32; ++c)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const __nv_bfloat162 two = __floats2bfloat162_rn(y[16 * c + 4 * j + 2 * h], y[16 * c + 4 * j + 2 * h + 1]);
        w[j] = reinterpret_cast<const uint32_t&>(two);
      }
      hopper::quad_transpose(w, at.q);
      if (at.row[h] < o.L) store(static_cast<bf16*>(o.out) + at.at(o, h) * D + 32 * c + 8 * at.q, w);
    }
}

// A quad's pairs are 32 adjacent bytes already.
__device__ __forceinline__ void finish(float, const Output& o, const Place& at, const float (&y)[D / 2]) {
#pragma unroll
  for (int j = 0; j < D / 8; ++j)
    for (int h = 0; h < 2; ++h)
      if (at.row[h] < o.L)
        *reinterpret_cast<float2*>(static_cast<float*>(o.out) + at.at(o, h) * D + 8 * j + 2 * at.q) =
            make_float2(y[4 * j + 2 * h], y[4 * j + 2 * h + 1]);
}

// Words of two pairs, eight columns apart, become 16 adjacent bytes a lane.
__device__ __forceinline__ void finish(e4m3, const Output& o, const Place& at, const float (&y)[D / 2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float most = 0.f;
#pragma unroll
    for (int i = 0; i < D / 2; ++i)
      if (i / 2 % 2 == h) most = fmaxf(most, fabsf(y[i]));
    for (int bit = 1; bit <= 2; ++bit) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, bit));
    const float scale = fmaxf(most / la::E4m3::MOST, la::SCALE_FLOOR), inverse = 1.f / scale;
    if (at.q == 0 && at.row[h] < o.L) o.out_scale[at.at(o, h)] = scale;
#pragma unroll
    for (int c = 0; c < D / 64; ++c) {
      uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* x = y + 32 * c + 8 * j + 2 * h;
        w[j] = hopper::e4m3_word(x[0] * inverse, x[1] * inverse, x[4] * inverse, x[5] * inverse);
      }
      hopper::quad_transpose(w, at.q);
      const uint32_t run[4] = {(w[0] & 0xffff) | w[1] << 16, (w[2] & 0xffff) | w[3] << 16,
                               w[0] >> 16 | (w[1] & 0xffff0000), w[2] >> 16 | (w[3] & 0xffff0000)};
      if (at.row[h] < o.L) store(static_cast<e4m3*>(o.out) + at.at(o, h) * D + 64 * c + 16 * at.q, run);
    }
  }
}

}  // namespace attention8
