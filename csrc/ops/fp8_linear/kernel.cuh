// out = epilogue(sum over K of a8 * w8): persistent, clusters of two blocks, one warpgroup copies, two multiply.
//
// A block makes tiles of 128 x BN. Its third warpgroup keeps a ring of stages (128 bytes of K of both operands) full by
// tensor copies; warpgroups 0 and 1 multiply 64 rows each and write them out, independently, so that one may write
// while the other multiplies. The cluster's blocks share one operand: each copies half of it into both.
//
// full[s]   one arrival with the stage's bytes, by this block's copies and the other's.
// empty[s]  16 arrivals: the eight multiplying warps of both blocks, since a copy writes into both.
#pragma once
#include "device.cuh"
#include "hopper.cuh"

#include "epilogue.cuh"

namespace gemm8 {

constexpr int THREADS = 3 * WARPGROUP, MULTIPLYING_WARPS = 8, CLUSTER = 2;

struct Args {
  Epilogue e;
  const float* group_scale;  // [M, G], or null: one scale per row, left to the epilogue
  int K, G, band, side;
};

template <int BN>
struct Ring {
  static constexpr int A = BM * BK, W = BN * BK, STAGE = A + W;
  static constexpr int STAGES = 200 * 1024 / STAGE < 6 ? 200 * 1024 / STAGE : 6;
  static constexpr int BYTES = 1024 + STAGES * (STAGE + 2 * (int)sizeof(uint64_t));  // 1024: room to align

  uint8_t *a, *w;
  uint64_t *full, *empty;

  __device__ explicit Ring(uint8_t* memory) {
    a = memory + (1024 - hopper::shared_address(memory) % 1024) % 1024;  // one block of the 128-byte swizzle
    w = a + STAGES * A;
    full = reinterpret_cast<uint64_t*>(w + STAGES * W);
    empty = full + STAGES;
  }
  __device__ void init() {
    for (int s = 0; s < STAGES; ++s) {
      hopper::barrier_init(full + s, 1);
      hopper::barrier_init(empty + s, CLUSTER * MULTIPLYING_WARPS);
    }
    hopper::barrier_init_done();
  }
};

// Where a warp stands in the ring: stage, and the parity of the phase its full barrier will complete.
template <int STAGES>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

// A tile of 2 * HALF rows as two boxes: both for this block, or one for both blocks, `rank` saying which.
template <int HALF>
__device__ __forceinline__ void copy_tile(const hopper::TensorMap* map, uint8_t* to, uint64_t* bar, int k, int row,
                                          bool shared, int rank) {
  for (int half = 0; half < 2; ++half)
    if (!shared || half == rank) hopper::copy_box(map, to + half * HALF * BK, bar, k, row + half * HALF, shared);
}

template <int BN>
__device__ void copy_tiles(const hopper::TensorMap* a, const hopper::TensorMap* w, Ring<BN> ring, const Args& g,
                           int rank) {
  const Walk walk(g.e.M, g.e.N, BN, g.band, g.side);
  Turn<Ring<BN>::STAGES> turn;
  for (int t = blockIdx.x / CLUSTER; t < walk.tiles(); t += gridDim.x / CLUSTER) {
    const Origin o = origin(walk, t, rank);
    for (int k = 0; k < g.K; k += BK, turn.next()) {
      uint64_t* bar = ring.full + turn.stage;
      hopper::barrier_wait(ring.empty + turn.stage, turn.parity ^ 1);  // a fresh barrier counts as one phase done
      hopper::barrier_expect(bar, Ring<BN>::STAGE);
      copy_tile<BM / 2>(a, ring.a + turn.stage * Ring<BN>::A, bar, k, o.m, g.side, rank);
      copy_tile<BN / 2>(w, ring.w + turn.stage * Ring<BN>::W, bar, k, o.n, !g.side, rank);
    }
  }
}

// This warp has read the stage. Lanes 0 and 1 tell the two blocks.
__device__ __forceinline__ void release(uint64_t* empty) {
  if (threadIdx.x % 32 < CLUSTER) hopper::barrier_arrive(empty, threadIdx.x % 32);
}

// One step of K for N columns of w: sum (64 x N) = a (64 x 128) w^T, plus sum when `add`.
template <int N>
__device__ __forceinline__ void multiply(float (&sum)[N / 2], const uint8_t* a, const uint8_t* w, bool add) {
  const uint64_t left = operand(hopper::shared_address(a)), right = operand(hopper::shared_address(w));
  hopper::products_begin();
#pragma unroll
  for (int k = 0; k < BK / 32; ++k) hopper::wgmma<N>(sum, left + 2 * k, right + 2 * k, add || k > 0);  // 32 bytes on
  hopper::products_commit();
}

// acc += sums of at most 128 of K, each scaled: the tensor core keeps too few bits to sum all of K (NOTES.md).
template <int BN>
__device__ __forceinline__ void sum_promoted(Ring<BN> ring, Turn<Ring<BN>::STAGES>& turn, const Args& g,
                                             const Place& at, float (&acc)[BN / 2]) {
  constexpr int N = BN > 160 ? BN / 2 : BN;  // registers: a fresh sum must fit beside acc
  const int steps = ceil_div(g.K, BK), per_group = g.group_scale ? g.K / g.G / BK : 1;
  const float* scales[2];
  float scale[2] = {1.f, 1.f};
  for (int h = 0; h < 2; ++h) scales[h] = g.group_scale + (size_t)min(at.row[h], g.e.M - 1) * g.G;
  for (int step = 0; step < steps; ++step, turn.next()) {
    if (g.group_scale)
      for (int h = 0; h < 2; ++h) scale[h] = __ldg(scales[h] + step / per_group);
    hopper::barrier_wait(ring.full + turn.stage, turn.parity);
#pragma unroll
    for (int part = 0; part < BN / N; ++part) {
      float fresh[N / 2];
      multiply<N>(fresh, ring.a + turn.stage * Ring<BN>::A + threadIdx.x / WARPGROUP * 64 * BK,
                  ring.w + turn.stage * Ring<BN>::W + part * N * BK, false);
      hopper::products_wait<0>(fresh);
      if (part == BN / N - 1) release(ring.empty + turn.stage);
#pragma unroll
      for (int i = 0; i < N / 2; ++i) acc[part * N / 2 + i] += fresh[i] * scale[i / 2 % 2];
    }
  }
}

// acc = all of K in the tensor core; one step stays in flight while the next is issued.
template <int BN>
__device__ __forceinline__ void sum_fast(Ring<BN> ring, Turn<Ring<BN>::STAGES>& turn, const Args& g,
                                         float (&acc)[BN / 2]) {
  int before = 0;
  for (int k = 0; k < g.K; k += BK, turn.next()) {
    hopper::barrier_wait(ring.full + turn.stage, turn.parity);
    multiply<BN>(acc, ring.a + turn.stage * Ring<BN>::A + threadIdx.x / WARPGROUP * 64 * BK,
                 ring.w + turn.stage * Ring<BN>::W, k > 0);
    hopper::products_wait<1>(acc);
    if (k > 0) release(ring.empty + before);
    before = turn.stage;
  }
  hopper::products_wait<0>(acc);
  release(ring.empty + before);
}

template <int BN, bool PROMOTE, class Out>
__device__ void multiply_tiles(Ring<BN> ring, const Args& g, int rank) {
  const Walk walk(g.e.M, g.e.N, BN, g.band, g.side);
  Turn<Ring<BN>::STAGES> turn;
  for (int t = blockIdx.x / CLUSTER; t < walk.tiles(); t += gridDim.x / CLUSTER) {
    const Origin o = origin(walk, t, rank);
    const int m = o.m + threadIdx.x / WARPGROUP * 64, thread = threadIdx.x % WARPGROUP;
    const Place at(m, o.n, thread);
    prefetch_x<BN>(Out{}, g.e, m, o.n, thread);
    float acc[BN / 2];
    if constexpr (PROMOTE) {
#pragma unroll
      for (int i = 0; i < BN / 2; ++i) acc[i] = 0.f;
      sum_promoted<BN>(ring, turn, g, at, acc);
    } else {
      sum_fast<BN>(ring, turn, g, acc);
    }
    finish<BN>(Out{}, g.e, at, acc);
  }
}

__device__ __forceinline__ void cluster_sync() {
  la::cluster_arrive();
  la::cluster_wait();
}

template <int BN, bool PROMOTE, class Out>
__global__ void __launch_bounds__(THREADS, 1)
    gemm(const __grid_constant__ hopper::TensorMap a, const __grid_constant__ hopper::TensorMap w,
         const __grid_constant__ Args g) {
  Ring<BN> ring(la::shared_memory<uint8_t>());
  const int rank = hopper::cluster_rank();
  if (threadIdx.x == 0) ring.init();
  cluster_sync();  // no copy and no arrival before both blocks' barriers are there
  if (threadIdx.x / WARPGROUP == 2) {
    hopper::give_registers<40>();
    if (threadIdx.x / 32 == MULTIPLYING_WARPS && hopper::one_lane()) copy_tiles<BN>(&a, &w, ring, g, rank);
    __syncwarp();
  } else {
    hopper::take_registers<232>();
    multiply_tiles<BN, PROMOTE, Out>(ring, g, rank);
  }
  cluster_sync();  // a block must not end while the other still writes to it
}

}  // namespace gemm8
