// Eight channels as they lie in memory, and as floats. Host and device: tests run every code through the host side.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#define LA_HD __host__ __device__ __forceinline__

namespace la {

constexpr float SCALE_FLOOR = 1e-12f;  // a row of zeros keeps a finite scale

LA_HD uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

LA_HD float of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// Four low bytes, the first lowest.
LA_HD uint32_t low_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
#ifdef __CUDA_ARCH__
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
#else
  return (a & 0xFF) | (b & 0xFF) << 8 | (c & 0xFF) << 16 | d << 24;
#endif
}

// 1 / x of a normal number, to a unit of float32, which moves no code by more than one.
LA_HD float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
#else
  return 1.f / x;
#endif
}

struct Bf16 {
  using Word = uint4;                 // eight channels
  static constexpr float MOST = 0.f;  // stored as they are, without a scale

  static LA_HD void unpack(const Word& word, float (&x)[8]) {
    const uint32_t w[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      __nv_bfloat162_raw raw;
      raw.x = static_cast<unsigned short>(w[i]), raw.y = static_cast<unsigned short>(w[i] >> 16);
      const float2 two = __bfloat1622float2(__nv_bfloat162(raw));
      x[2 * i] = two.x, x[2 * i + 1] = two.y;
    }
  }

  static LA_HD Word pack(const float (&x)[8]) {
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162_raw raw = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      w[i] = raw.x | static_cast<uint32_t>(raw.y) << 16;
    }
    return make_uint4(w[0], w[1], w[2], w[3]);
  }
};

struct Int8 {
  using Word = uint2;
  static constexpr float MOST = 127.f;

  static LA_HD float scale(float largest) { return fmaxf(largest * (1.f / MOST), SCALE_FLOOR); }

  static LA_HD float inverse(float scale) { return reciprocal(scale); }

  static LA_HD void unpack(const Word& word, float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = static_cast<int8_t>((i < 4 ? word.x : word.y) >> (8 * (i & 3)));
  }

  // To nearest even, saturating. 1.5 * 2^23 leaves no room for a fraction: the sum's low byte is the code, without a
  // conversion, which has a slow pipe of its own.
  static LA_HD Word pack(const float (&x)[8]) {
    uint32_t code[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) code[i] = bits_of(fminf(fmaxf(x[i], -MOST), MOST) + 12582912.f);
    return make_uint2(low_bytes(code[0], code[1], code[2], code[3]), low_bytes(code[4], code[5], code[6], code[7]));
  }
};

struct E4m3 {
  using Word = uint2;
  static constexpr float MOST = 448.f;

  // largest / 448 rounded up to a power of two: 448 is 1.75 * 2^8, so a greater mantissa takes the next exponent.
  static LA_HD float scale(float largest) {
    const uint32_t up = (bits_of(fmaxf(largest, MOST * SCALE_FLOOR)) + 0x1FFFFF) & 0x7F800000;
    return largest > FLT_MAX ? largest : of_bits(up - (8u << 23));  // infinity is not hidden in a finite scale
  }

  static LA_HD float inverse(float scale) { return of_bits((254u << 23) - bits_of(scale)); }  // of a power of two

  static LA_HD void unpack(const Word& word, float (&x)[8]) {
    const uint32_t w[2] = {word.x, word.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      __nv_fp8x2_e4m3 two;
      two.__x = static_cast<__nv_fp8x2_storage_t>(w[i / 2] >> (16 * (i & 1)));
      const float2 pair = static_cast<float2>(two);
      x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    }
  }

  static LA_HD Word pack(const float (&x)[8]) {  // to nearest even, saturating
    uint32_t w[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = make_float2(x[2 * i], x[2 * i + 1]);
      w[i / 2] |= static_cast<uint32_t>(__nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3)) << (16 * (i & 1));
    }
    return make_uint2(w[0], w[1]);
  }
};

}  // namespace la
