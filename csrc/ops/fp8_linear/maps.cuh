// Where things are: the walk over tiles, the accumulator's fragment, an operand in shared memory.
#pragma once
#include <cstdint>

#define LA_HD __host__ __device__ __forceinline__

namespace gemm8 {

constexpr int BM = 128;        // rows of a block's tile: two warpgroups of 64
constexpr int BK = 128;        // bytes, and e4m3 values, of K per step: one swizzled row; the most summed unpromoted
constexpr int WARPGROUP = 128;  // threads

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

// Accumulator value i of thread t in a warpgroup's 64 x n product (PTX ISA, wgmma "D fragment").
LA_HD int fragment_row(int t, int i) { return t / 32 * 16 + t % 32 / 4 + (i / 2) % 2 * 8; }
LA_HD int fragment_column(int t, int i) { return i / 4 * 8 + t % 4 * 2 + i % 2; }

// Shared-memory operand of wgmma: rows of 128 bytes in the 128-byte swizzle, eight rows (1024 bytes) to a block.
// Bits 0-13 address / 16; 16-29 unused by swizzled rows (1); 32-45 stride of eight rows / 16; 62-63 the swizzle.
LA_HD constexpr uint64_t operand(uint32_t shared_address) {
  return (uint64_t)((shared_address & 0x3ffff) >> 4) | 1ull << 16 | (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}

}  // namespace gemm8
