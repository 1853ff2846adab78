// Where things are: the walk over tiles.
#pragma once
#include "fragments.cuh"

#define LA_HD __host__ __device__ __forceinline__

namespace gemm8 {

constexpr int BM = 128;        // rows of a block's tile: two warpgroups of 64
constexpr int BK = 128;        // bytes, and e4m3 values, of K per step: one swizzled row; the most summed unpromoted
using hopper::fragment_row, hopper::operand, hopper::quad_transpose, hopper::BARRIER, hopper::Turn, hopper::WARPGROUP;

LA_HD int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Two blocks of a cluster work on neighbouring tiles and share one operand: w when one stands below the other
// (`side` 0), a when they stand side by side (`side` 1).
struct Walk {
  int rows, columns;  // of the matrix, in tiles of a cluster
  int band, side, bn;

  LA_HD Walk(int M, int N, int bn, int band, int side)
      : rows(ceil_div(M, side ? BM : 2 * BM)), columns(ceil_div(N, side ? 2 * bn : bn)), band(band), side(side),
        bn(bn) {}
  LA_HD int tiles() const { return rows * columns; }
};

struct Origin {
  int m, n;
};

// Origin of the tile of block `rank` in cluster tile t. Bands of `band` cluster rows, walked down and then right, keep
// the operands of the tiles in flight in L2.
LA_HD Origin origin(const Walk& w, int t, int rank) {
  const int b = t / (w.band * w.columns), within = t % (w.band * w.columns);
  const int height = w.rows - b * w.band < w.band ? w.rows - b * w.band : w.band;
  const int i = b * w.band + within % height, j = within / height;
  return w.side ? Origin{i * BM, (2 * j + rank) * w.bn} : Origin{(2 * i + rank) * BM, j * w.bn};
}

}  // namespace gemm8
