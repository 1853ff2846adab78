// out = bias + sum over 3 x 3 pixels, KT frames and C channels of x w (+ residual): a product whose left operand is
// never gathered but copied in boxes of pixels. Persistent; one warpgroup copies, two multiply.
//
// A block makes 256 pixels of a frame, a patch of pw x 256 / pw, by BN channels. A stage of its ring is one time tap, 32
// channels and one horizontal tap: the patch's pixels shifted by that tap, with a row more above and below, and the
// weights of the three vertical taps. A vertical tap is where in the patch a product begins, and what lies outside the
// frame the copy engine fills with zeros. So a pixel is fetched ten times and not 27.
//
// BN = FEW: a stage has all three horizontal taps, of the patch that begins a pixel to the left, as columns of one product;
// a pixel's output is then the sum of three neighbouring pixels' columns, and a patch makes two pixels fewer than it has.
//
// UP: x is enlarged to twice its size, each pixel four times, before the convolution. A 64-pixel product then has the
// outputs of one parity (even or odd row, even or odd column) of a patch of 64 pixels of x, and a stage has two patches,
// for the two parities of columns.
//
// full[s]   one arrival with the stage's bytes
// empty[s]  8 arrivals: the multiplying warps
#pragma once
#include "device.cuh"
#include "hopper.cuh"

#include "epilogue.cuh"
#include "maps.cuh"

namespace conv {

constexpr int THREADS = 3 * WARPGROUP, MULTIPLYING_WARPS = 8;
constexpr int WIDEST = 32, MOST = 384;  // pixels across a patch; output channels, whose biases fit in shared memory

struct Maps {
  hopper::TensorMap x, prev, w;
};

struct Args {
  Output e;
  Shape s;
  Grid grid;
  bool history;  // prev exists
};

template <int BN, bool UP>
struct Ring {
  static constexpr int PATCH = UP ? 64 : PIXELS, PATCHES = UP ? 2 : 1;
  static constexpr int BOX = BN == FEW ? 8 : BN;  // rows of w at a time
  static constexpr int A = (PATCH + 2 * WIDEST) * ROW, W = BN * ROW, STAGE = PATCHES * A + 3 * W;  // the largest patch
  static constexpr int STAGES = 224 * 1024 / STAGE < 8 ? 224 * 1024 / STAGE : 8;
  static constexpr int BYTES = 1024 + STAGES * (STAGE + 2 * BARRIER) + MOST * sizeof(float);  // 1024: to align

  uint8_t* stages;  // each: patches, then the weights of the three vertical taps
  float* bias;      // of all channels
  uint32_t full, empty;

  __device__ explicit Ring(uint8_t* memory) {
    stages = memory + (1024 - hopper::shared_address(memory) % 1024) % 1024;
    bias = reinterpret_cast<float*>(stages + STAGES * STAGE);
    full = hopper::shared_address(bias + MOST);
    empty = full + STAGES * BARRIER;
  }
  __device__ void init() const {
    for (int s = 0; s < STAGES; ++s) {
      hopper::barrier_init(full + s * BARRIER, 1);
      hopper::barrier_init(empty + s * BARRIER, MULTIPLYING_WARPS);
    }
    hopper::barrier_init_done();
  }
  __device__ void fetch(const bf16* from, int N) const {
    for (int n = threadIdx.x; n < N; n += THREADS) bias[n] = __bfloat162float(from[n]);
  }
};

// One lane's work: every stage of every tile.
template <int BN, bool UP>
__device__ __forceinline__ void copy_tiles(const Maps& maps, const Ring<BN, UP>& ring, const Args& g) {
  using R = Ring<BN, UP>;
  const Shape& s = g.s;
  const uint32_t bytes = R::PATCHES * (R::PATCH + 2 * s.pw()) * ROW + 3 * R::W;
  Turn<R::STAGES> turn;
  for (Walk walk(g.grid, blockIdx.x, gridDim.x); walk.here; walk.next()) {
    const Origin& o = walk.at;
    for (int t = first_tap(s, o.frame, g.history); t < s.KT; ++t) {
      const int source = o.frame + t - (s.KT - 1);
      const hopper::TensorMap* frames = source < 0 ? &maps.prev : &maps.x;
      const int frame = source < 0 ? source + s.KT - 1 : source;
      for (int c = 0; c < s.C; c += BK)
        for (int dx = 0; dx < (BN == FEW ? 1 : 3); ++dx, turn.next()) {
          const uint32_t bar = ring.full + turn.stage * BARRIER;
          uint8_t* to = ring.stages + turn.stage * R::STAGE;
          hopper::barrier_wait(ring.empty + turn.stage * BARRIER, turn.parity ^ 1);  // a fresh barrier counts as one phase done
          hopper::barrier_expect(bar, bytes);
          for (int p = 0; p < R::PATCHES; ++p)
            hopper::copy_box(frames, to + p * R::A, bar, 2 * c, o.x + (UP ? shift(dx, p) : dx - 1), o.y - 1, frame);
          for (int tap = BN == FEW ? 0 : dx, n = 0; tap < 9; tap += BN == FEW ? 1 : 3, ++n)  // three or nine boxes
            hopper::copy_box(&maps.w, to + R::PATCHES * R::A + n * R::BOX * ROW, bar, 2 * ((tap * s.KT + t) * s.C + c),
                             o.n, false);
        }
    }
  }
}

// What a multiplying warpgroup needs in every step, made once: low words of its operands in stage 0, and the barriers.
template <int BN, bool UP>
struct View {
  using R = Ring<BN, UP>;
  static constexpr uint32_t STAGE = R::STAGE / 16, W = R::W / 16;  // operands count in 16 bytes
  static constexpr uint32_t NEXT = (UP ? R::A : 64 * ROW) / 16;    // from the first product's pixels to the second's
  uint32_t a[3], w, full, empty;  // a: of each vertical tap

  __device__ View(const R& ring, int pw) : full(hopper::kept(ring.full)), empty(hopper::kept(ring.empty)) {
    const int group = threadIdx.x / WARPGROUP;  // UP: parity of rows
    w = low(ring.stages + R::PATCHES * R::A);
    for (int dy = 0; dy < 3; ++dy)
      a[dy] = low(ring.stages + (UP ? (shift(dy, group) + 1) * pw : group * 128 + dy * pw) * ROW);
  }
  __device__ static uint32_t low(const uint8_t* p) {
    return hopper::kept((uint32_t)hopper::operand<ROW>(hopper::shared_address(p)));
  }
  __device__ __forceinline__ void wait(int stage, uint32_t parity) const {
    hopper::barrier_wait(full + stage * BARRIER, parity);
  }
  // One lane of each warp says that the warp has read the stage.
  __device__ __forceinline__ void release(int stage) const {
    if (threadIdx.x % 32 == 0) hopper::barrier_arrive(empty + stage * BARRIER);
  }
};

// acc = the sum of all steps; the products of one step are in flight while the next are issued, and at the end the last
// ones, whose stage is returned.
template <int BN, bool UP>
__device__ __forceinline__ int sum(const View<BN, UP>& view, Turn<Ring<BN, UP>::STAGES>& turn, int steps,
                                   float (&acc)[2][BN / 2]) {
  using V = View<BN, UP>;
  constexpr uint64_t HIGH = hopper::operand<ROW>(0) >> 32 << 32;
  int before = 0;
  for (int step = 0; step < steps; ++step, turn.next()) {
    const uint32_t stage = turn.stage * V::STAGE;
    view.wait(turn.stage, turn.parity);
    hopper::products_begin();
#pragma unroll
    for (int dy = 0; dy < 3; ++dy)
#pragma unroll
      for (int k = 0; k < BK / 16; ++k)
#pragma unroll
        for (int m = 0; m < 2; ++m)
          hopper::wgmma_bf16<BN>(acc[m], HIGH | (view.a[dy] + stage + m * V::NEXT + 2 * k),
                                 HIGH | (view.w + stage + dy * V::W + 2 * k), step > 0 || dy > 0 || k > 0);
    hopper::products_commit();
    hopper::products_wait<1>(acc[0], acc[1]);
    if (step > 0) view.release(before);
    before = turn.stage;
  }
  return before;
}

template <int BN, bool UP, bool RESIDUAL>
__device__ __forceinline__ void multiply_tiles(const View<BN, UP> view, const float* bias, const Args& g) {
  Turn<Ring<BN, UP>::STAGES> turn;
  for (Walk walk(g.grid, blockIdx.x, gridDim.x); walk.here; walk.next()) {
    if constexpr (RESIDUAL) prefetch(g.e, Place<BN, UP>(g.s, walk.at));
    float acc[2][BN / 2];
    const int last = sum<BN, UP>(view, turn, steps(g.s, BN, walk.at.frame, g.history), acc);
    const Place<BN, UP> at(g.s, walk.at);
    Ahead<BN, RESIDUAL> ahead;
    ahead.load(g.e, at, 0);
    hopper::products_wait<0>(acc[0], acc[1]);
    view.release(last);
    finish(g.e, g.s, at, bias + walk.at.n, ahead, acc);
  }
}

template <int BN, bool UP>
__global__ void __launch_bounds__(THREADS, 1)
    kernel(const __grid_constant__ Maps maps, const __grid_constant__ Args g) {
  const Ring<BN, UP> ring(la::shared_memory<uint8_t>());
  if (threadIdx.x == 0) ring.init();
  ring.fetch(g.e.bias, g.s.N);
  __syncthreads();
  if (threadIdx.x / WARPGROUP == 2) {
    hopper::give_registers<24>();
    if (threadIdx.x / 32 == MULTIPLYING_WARPS && hopper::one_lane()) copy_tiles(maps, ring, g);
  } else {
    hopper::take_registers<240>();
    const View<BN, UP> view(ring, g.s.pw());
    if (!UP && g.e.residual) multiply_tiles<BN, UP, !UP>(view, ring.bias, g);
    else multiply_tiles<BN, UP, false>(view, ring.bias, g);
  }
}

}  // namespace conv
