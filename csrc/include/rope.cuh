// Rotation of four channel pairs by a table's (cos, sin), which the caller computed in double and rounded once.
#pragma once

#include "casts.cuh"

namespace la {

// x[2i], x[2i+1] turned by turn[2i] = cos, turn[2i+1] = sin; back by the same angle when INVERSE.
template <bool INVERSE>
LA_HD void rotate(float (&x)[8], const float (&turn)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const float c = turn[i], s = INVERSE ? -turn[i + 1] : turn[i + 1];
    const float a = x[i], b = x[i + 1];
    x[i] = a * c - b * s;
    x[i + 1] = a * s + b * c;
  }
}

LA_HD void load8(const float* from, float (&x)[8]) {  // 32 bytes, two accesses of 16
  const float4* at = reinterpret_cast<const float4*>(from);
#ifdef __CUDA_ARCH__
  const float4 a = __ldg(at), b = __ldg(at + 1);  // tables, taps and weights: nothing writes them
#else
  const float4 a = at[0], b = at[1];
#endif
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

}  // namespace la
