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
  static constexpr int VECTORS = Vectors<BN>::FLOATS * sizeof(float);  // of a warp
  static constexpr int BYTES = 1024 + STAGES * (STAGE + 2 * BARRIER) + MULTIPLYING_WARPS * VECTORS;  // 1024: to align

  uint8_t *a, *w, *vectors;
  uint32_t full, empty;  // addresses of the first stage's barriers; a stage further is BARRIER further

  __device__ explicit Ring(uint8_t* memory) {
    a = memory + (1024 - hopper::shared_address(memory) % 1024) % 1024;  // one block of the 128-byte swizzle
    w = a + STAGES * A;
    full = hopper::shared_address(w + STAGES * W);
    empty = full + STAGES * BARRIER;
    vectors = w + STAGES * (W + 2 * BARRIER);
  }
  __device__ void init() {
    for (int s = 0; s < STAGES; ++s) {
      hopper::barrier_init(full + s * BARRIER, 1);
      hopper::barrier_init(empty + s * BARRIER, CLUSTER * MULTIPLYING_WARPS);
    }
    hopper::barrier_init_done();
  }
};

// A tile of 2 * HALF rows as two boxes: both for this block, or one for both blocks, `rank` saying which.
template <int HALF>
__device__ __forceinline__ void copy_tile(const hopper::TensorMap* map, uint8_t* to, uint32_t bar, int k, int row,
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
      const uint32_t bar = ring.full + turn.stage * BARRIER;
      hopper::barrier_wait(ring.empty + turn.stage * BARRIER, turn.parity ^ 1);  // a fresh barrier counts as one phase done
      hopper::barrier_expect(bar, Ring<BN>::STAGE);
      copy_tile<BM / 2>(a, ring.a + turn.stage * Ring<BN>::A, bar, k, o.m, g.side, rank);
      copy_tile<BN / 2>(w, ring.w + turn.stage * Ring<BN>::W, bar, k, o.n, !g.side, rank);
    }
  }
}

// What a multiplying warpgroup needs of the ring in every step, made once: its operands' low words in stage 0, and the
// barriers. A stage further is a constant further.
template <int BN>
struct View {
  static constexpr uint32_t A = Ring<BN>::A / 16, W = Ring<BN>::W / 16;  // operands count in 16 bytes
  uint32_t a, w, full, empty;

  __device__ explicit View(const Ring<BN>& ring)
      : a(low(ring.a + threadIdx.x / WARPGROUP * 64 * BK)), w(low(ring.w)), full(hopper::kept(ring.full)),
        empty(hopper::kept(ring.empty)) {}
  __device__ static uint32_t low(const uint8_t* p) {
    return hopper::kept((uint32_t)operand(hopper::shared_address(p)));
  }
  __device__ __forceinline__ void wait(int stage, uint32_t parity) const {
    hopper::barrier_wait(full + stage * BARRIER, parity);
  }
  // This warp has read the stage. Lanes 0 and 1 tell the two blocks.
  __device__ __forceinline__ void release(int stage) const {
    if (threadIdx.x % 32 < CLUSTER) hopper::barrier_arrive(empty + stage * BARRIER, threadIdx.x % 32);
  }
};

// One step of K for N columns of w: sum (64 x N) = a (64 x 128) w^T, plus sum when `add`; a and w low words of operands.
template <int N>
__device__ __forceinline__ void multiply(float (&sum)[N / 2], uint32_t a, uint32_t w, bool add) {
  constexpr uint64_t HIGH = operand(0) >> 32 << 32;
  hopper::products_begin();
#pragma unroll
  for (int k = 0; k < BK / 32; ++k)
    hopper::wgmma<N>(sum, HIGH | (a + 2 * k), HIGH | (w + 2 * k), add || k > 0);  // 32 bytes on
  hopper::products_commit();
}

// acc += sums of at most 128 of K, each scaled: the tensor core keeps too few bits to sum all of K (NOTES.md).
template <int BN>
__device__ __forceinline__ void sum_promoted(const View<BN>& view, Turn<Ring<BN>::STAGES>& turn, const Args& g,
                                             const Place& at, float (&acc)[BN / 2]) {
  constexpr int N = BN > 160 ? BN / 2 : BN;  // registers: a fresh sum must fit beside acc
  const int steps = ceil_div(g.K, BK), per_group = g.group_scale ? g.K / g.G / BK : 1;
  const float* scales[2];
  float scale[2] = {1.f, 1.f};
  for (int h = 0; h < 2; ++h) scales[h] = g.group_scale + (size_t)min(at.row[h], g.e.M - 1) * g.G;
  for (int step = 0, left = 0; step < steps; ++step, --left, turn.next()) {
    if (g.group_scale && left == 0) {  // counted down: a division would stand on every step's critical path
      left = per_group;
      for (int h = 0; h < 2; ++h) scale[h] = __ldg(scales[h]++);
    }
    view.wait(turn.stage, turn.parity);
#pragma unroll
    for (int part = 0; part < BN / N; ++part) {
      float fresh[N / 2];
      multiply<N>(fresh, view.a + turn.stage * View<BN>::A, view.w + turn.stage * View<BN>::W + part * N * BK / 16,
                  false);
      hopper::products_wait<0>(fresh);
      if (part == BN / N - 1) view.release(turn.stage);
#pragma unroll
      for (int i = 0; i < N / 2; ++i) acc[part * N / 2 + i] += fresh[i] * scale[i / 2 % 2];
    }
  }
}

// acc = all of K in the tensor core; one step stays in flight while the next is issued.
template <int BN>
__device__ __forceinline__ void sum_fast(const View<BN>& view, Turn<Ring<BN>::STAGES>& turn, const Args& g,
                                         float (&acc)[BN / 2]) {
  int before = 0;
  for (int k = 0; k < g.K; k += BK, turn.next()) {
    view.wait(turn.stage, turn.parity);
    multiply<BN>(acc, view.a + turn.stage * View<BN>::A, view.w + turn.stage * View<BN>::W, k > 0);
    hopper::products_wait<1>(acc);
    if (k > 0) view.release(before);
    before = turn.stage;
  }
  hopper::products_wait<0>(acc);
  view.release(before);
}

template <int BN, bool PROMOTE, class Out>
__device__ void multiply_tiles(const View<BN> view, const Vectors<BN> of, const Args& g, int rank) {
  const Walk walk(g.e.M, g.e.N, BN, g.band, g.side);
  Turn<Ring<BN>::STAGES> turn;
  for (int t = blockIdx.x / CLUSTER; t < walk.tiles(); t += gridDim.x / CLUSTER) {
    const Origin o = origin(walk, t, rank);
    const int m = o.m + threadIdx.x / WARPGROUP * 64, thread = threadIdx.x % WARPGROUP;
    const Place at(m, o.n, thread);
    of.fetch(Out{}, g.e, o.n);
    prefetch_x<BN>(Out{}, g.e, m, o.n, thread);
    float acc[BN / 2];
    if constexpr (PROMOTE) {
#pragma unroll
      for (int i = 0; i < BN / 2; ++i) acc[i] = 0.f;
      sum_promoted<BN>(view, turn, g, at, acc);
    } else {
      sum_fast<BN>(view, turn, g, acc);
    }
    of.wait();
    finish<BN>(Out{}, g.e, of, at, acc);
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
    const Vectors<BN> of{reinterpret_cast<float*>(ring.vectors + threadIdx.x / 32 * Ring<BN>::VECTORS)};
    multiply_tiles<BN, PROMOTE, Out>(View<BN>(ring), of, g, rank);
  }
  cluster_sync();  // a block must not end while the other still writes to it
}

}  // namespace gemm8
