// From a warpgroup's sums to its 64 rows of the output: scales, bias, GELU and quantise, (gated) residual.
//
// A thread's sums lie in pairs of columns, eight columns apart (maps.cuh). Global memory wants 16 adjacent bytes of a
// thread, so the four lanes that hold a row exchange words: lane q gives away three of its four and then holds a run.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "hopper.cuh"
#include "maps.cuh"

namespace gemm8 {

using bf16 = __nv_bfloat16;
using e4m3 = __nv_fp8_storage_t;

constexpr int GROUP = 128;  // columns that share a scale of the quantised output

struct Epilogue {
  void* out;         // [M, N]
  float* out_scale;  // [M, N / GROUP], quantised output only
  const float* row_scale;  // [M] or null
  const float* w_scale;    // [N]
  const float* b;          // [N] or null
  const void* x;           // [M, N] like out, or null
  const float* gate;       // [N] or null
  int M, N;
};

// What a tile's columns need, in shared memory, a copy for each warp: fetched while the tile is multiplied, since a load
// from L2 at the end would be waited for again and again. Three times BN floats.
template <int BN>
struct Vectors {
  static constexpr int FLOATS = 3 * BN;
  float* mine;

  // All lanes of the warp call. Past N something finite is read, and never written.
  template <class Out>
  __device__ __forceinline__ void fetch(Out, const Epilogue& e, int n) const {
    constexpr int COUNT = sizeof(Out) == 1 ? 2 : 3;  // codes have no gate
    const float* const from[] = {e.w_scale, e.b, e.gate};
    __syncwarp();  // every lane has read the last tile's
#pragma unroll
    for (int v = 0; v < COUNT; ++v)
#pragma unroll
      for (int i = 0; i < ceil_div(BN, 128); ++i) {
        const int at = 128 * i + threadIdx.x % 32 * 4;
        const float missing = v == 1 ? 0.f : 1.f;
        if (at >= BN) continue;
        if (from[v]) hopper::copy_words(mine + v * BN + at, from[v] + min(n + at, e.N - 4));
        else *reinterpret_cast<float4*>(mine + v * BN + at) = make_float4(missing, missing, missing, missing);
      }
  }
  __device__ __forceinline__ void wait() const {
    hopper::words_wait();
    __syncwarp();
  }
  __device__ __forceinline__ float2 pair(int v, int at) const {
    return *reinterpret_cast<const float2*>(mine + v * BN + at);
  }
  __device__ __forceinline__ float2 scale(int at) const { return pair(0, at); }
  __device__ __forceinline__ float2 bias(int at) const { return pair(1, at); }
  __device__ __forceinline__ float2 gate(int at) const { return pair(2, at); }
};

// x (1 + tanh(u)) / 2 as x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3): no cancellation, and a denominator
// past 2^126 gives the right limit, 0. -2 u log2(e) is one polynomial: five instructions and two of the slow pipe.
__device__ __forceinline__ float gelu_tanh(float x) {
  constexpr float LINEAR = -2.302208198f, CUBIC = -0.1029432396f;
  const float power = x * (CUBIC * (x * x) + LINEAR);
  return x * hopper::fast_reciprocal(1.f + hopper::fast_exp2(power));
}

__device__ __forceinline__ uint32_t packed(float a, float b) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
  return reinterpret_cast<const uint32_t&>(two);
}
__device__ __forceinline__ float2 unpacked(uint32_t w) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(w));
}

// One thread's view: rows row[0] and row[1] = row[0] + 8, lane q of its quad, columns from `column`.
struct Place {
  int row[2], column, q;
  __device__ Place(int m, int n, int thread)
      : row{m + fragment_row(thread, 0), m + fragment_row(thread, 2)}, column(n), q(thread % 4) {}
};

__device__ __forceinline__ void load_row_scales(const Epilogue& e, const Place& at, float (&rows)[2]) {
  for (int h = 0; h < 2; ++h) rows[h] = e.row_scale && at.row[h] < e.M ? __ldg(e.row_scale + at.row[h]) : 1.f;
}

// acc * row scale * column scale + bias for the four values of a group of eight columns.
__device__ __forceinline__ void affine(const float (&rows)[2], float2 scale, float2 bias, float* v) {
  for (int h = 0; h < 2; ++h) {
    v[2 * h] = v[2 * h] * rows[h] * scale.x + bias.x;
    v[2 * h + 1] = v[2 * h + 1] * rows[h] * scale.y + bias.y;
  }
}

// 32 columns of x as they lie in memory, eight columns a lane.
struct Chunk {
  uint4 x[2];

  __device__ __forceinline__ void load(const Epilogue& e, const Place& at, int column) {
    const int mine = column + 8 * at.q;
    for (int h = 0; h < 2; ++h)
      if (e.x && at.row[h] < e.M && mine < e.N)
        x[h] = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(e.x) + (size_t)at.row[h] * e.N + mine);
      else x[h] = make_uint4(0, 0, 0, 0);
  }
};

// A warpgroup's 64 rows of x into L2 while it multiplies.
template <int BN>
__device__ __forceinline__ void prefetch_x(bf16, const Epilogue& e, int m, int n, int thread) {
  constexpr int LINES = BN * 2 / 64;  // of 64 bytes: 160 columns are no whole number of 128
  for (int i = thread; e.x && i < 64 * LINES; i += WARPGROUP) {
    const int row = m + i / LINES, column = n + i % LINES * 32;
    if (row < e.M && column < e.N) hopper::prefetch_l2(static_cast<const bf16*>(e.x) + (size_t)row * e.N + column);
  }
}
template <int BN, class Out>
__device__ __forceinline__ void prefetch_x(Out, const Epilogue&, int, int, int) {}

// bf16: 32 columns at a time; x of the next 32 is on its way meanwhile.
template <int BN>
__device__ __forceinline__ void finish(bf16, const Epilogue& e, const Vectors<BN>& of, const Place& at,
                                       float (&acc)[BN / 2]) {
  float rows[2];
  load_row_scales(e, at, rows);
  Chunk next;
  next.load(e, at, at.column);
#pragma unroll
  for (int c = 0; c < BN / 32; ++c) {
    const Chunk now = next;
    const int column = at.column + 32 * c, mine = column + 8 * at.q;
    if (c + 1 < BN / 32) next.load(e, at, column + 32);
    uint32_t x[2][4], y[2][4];
    for (int h = 0; h < 2; ++h) {
      x[h][0] = now.x[h].x, x[h][1] = now.x[h].y, x[h][2] = now.x[h].z, x[h][3] = now.x[h].w;
      if (e.x) quad_transpose(x[h], at.q);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float* v = acc + 16 * c + 4 * j;
      const int own = 32 * c + 8 * j + 2 * at.q;
      affine(rows, of.scale(own), of.bias(own), v);
      const float2 gate = of.gate(own);
      for (int h = 0; h < 2; ++h) {
        const float2 add = unpacked(x[h][j]);
        y[h][j] = packed(v[2 * h] * gate.x + add.x, v[2 * h + 1] * gate.y + add.y);
      }
    }
    for (int h = 0; h < 2; ++h) {
      quad_transpose(y[h], at.q);
      if (at.row[h] < e.M && mine < e.N)
        *reinterpret_cast<uint4*>(static_cast<bf16*>(e.out) + (size_t)at.row[h] * e.N + mine) =
            make_uint4(y[h][0], y[h][1], y[h][2], y[h][3]);
    }
  }
}

// float32: a quad's pairs are 32 adjacent bytes already.
template <int BN>
__device__ __forceinline__ void finish(float, const Epilogue& e, const Vectors<BN>& of, const Place& at,
                                       float (&acc)[BN / 2]) {
  float rows[2];
  load_row_scales(e, at, rows);
#pragma unroll
  for (int j = 0; j < BN / 8; ++j) {
    const int own = 8 * j + 2 * at.q, mine = at.column + own;
    if (mine >= e.N) continue;
    affine(rows, of.scale(own), of.bias(own), acc + 4 * j);
    const float2 gate = of.gate(own);
    for (int h = 0; h < 2; ++h) {
      if (at.row[h] >= e.M) continue;
      const size_t i = (size_t)at.row[h] * e.N + mine;
      const float2 add = e.x ? *reinterpret_cast<const float2*>(static_cast<const float*>(e.x) + i) : float2{};
      *reinterpret_cast<float2*>(static_cast<float*>(e.out) + i) =
          make_float2(acc[4 * j + 2 * h] * gate.x + add.x, acc[4 * j + 2 * h + 1] * gate.y + add.y);
    }
  }
}

// 64 columns of codes of one row: words of two pairs, eight columns apart, become 16 adjacent bytes a lane.
__device__ __forceinline__ void store_codes(const Epilogue& e, const Place& at, int column, int h, const float* v,
                                            float inverse) {
  uint32_t w[4];
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const float *near = v + 8 * n + 2 * h, *far = near + 4;
    const float2 low = {near[0] * inverse, near[1] * inverse}, high = {far[0] * inverse, far[1] * inverse};
    w[n] = __nv_cvt_float2_to_fp8x2(low, __NV_SATFINITE, __NV_E4M3) |
           (uint32_t)__nv_cvt_float2_to_fp8x2(high, __NV_SATFINITE, __NV_E4M3) << 16;
  }
  quad_transpose(w, at.q);
  if (at.row[h] < e.M && column < e.N)
    *reinterpret_cast<uint4*>(static_cast<e4m3*>(e.out) + (size_t)at.row[h] * e.N + column + 16 * at.q) =
        make_uint4((w[0] & 0xffff) | w[1] << 16, (w[2] & 0xffff) | w[3] << 16, w[0] >> 16 | (w[1] & 0xffff0000),
                   w[2] >> 16 | (w[3] & 0xffff0000));
}

// e4m3 of GELU: 128 columns at a time, one scale per row; four lanes hold all of a row's 128.
template <int BN>
__device__ __forceinline__ void finish(e4m3, const Epilogue& e, const Vectors<BN>& of, const Place& at,
                                       float (&acc)[BN / 2]) {
  float rows[2];
  load_row_scales(e, at, rows);
#pragma unroll
  for (int g = 0; g < BN / GROUP; ++g) {
    const int column = at.column + GROUP * g;
    float* v = acc + g * GROUP / 2;
    float top[2] = {0.f, 0.f};
#pragma unroll
    for (int j = 0; j < GROUP / 8; ++j) {
      const int own = GROUP * g + 8 * j + 2 * at.q;
      affine(rows, of.scale(own), of.bias(own), v + 4 * j);
      for (int i = 0; i < 4; ++i) {
        v[4 * j + i] = gelu_tanh(v[4 * j + i]);
        top[i / 2] = fmaxf(top[i / 2], fabsf(v[4 * j + i]));
      }
    }
    for (int h = 0; h < 2; ++h) {
      for (int bit = 1; bit <= 2; ++bit) top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], bit));
      const float scale = fmaxf(top[h] / 448.f, 1e-12f);
      if (at.q == 0 && at.row[h] < e.M && column < e.N)
        e.out_scale[(size_t)at.row[h] * (e.N / GROUP) + column / GROUP] = scale;
      store_codes(e, at, column, h, v, 1.f / scale);
      store_codes(e, at, column + 64, h, v + 32, 1.f / scale);
    }
  }
}

}  // namespace gemm8
