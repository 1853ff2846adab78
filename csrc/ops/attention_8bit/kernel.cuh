// out = softmax(q k^T / sqrt(D)) v of 128 queries of one head: int8 scores, e4m3 probabilities and values.
//
// Warpgroups 0 and 1 attend 64 queries each and share nothing but the keys and values in the ring; the third one keeps
// the ring full. A warpgroup's scores of the next 128 keys are multiplied while it makes probabilities of these, and its
// products with the values while it scales the next scores: the tensor core and the special function units need about
// the same time here, so neither may wait for the other. The second warpgroup starts when the first has made its first
// probabilities: half a tile apart they want different units at the same time, and stay so (NOTES.md).
//
// q_full              the queries' bytes
// k_full, v_full [s]  one arrival with the stage's bytes; k_full also stands for the scales and the note
// k_empty, v_empty    8 arrivals: the warps that have read the stage
// begun               one arrival: the first warpgroup has made probabilities
#pragma once
#include "device.cuh"
#include "fragments.cuh"
#include "hopper.cuh"

#include "finish.cuh"

namespace attention8 {

constexpr int BM = 128, BN = 128, WARPGROUPS = BM / 64, THREADS = (WARPGROUPS + 1) * WARPGROUP, STAGES = 3;
constexpr int ONES = 8;  // rows of ones below V^T: their products are the sum of the probabilities
constexpr float LOG2_MOST = 8.807354922f;  // log2(448): the largest probability uses all of e4m3's range

// Memory slots or the block itself. width: tokens rounded up to 128, how far apart heads lie in scales and V^T.
struct Segment {
  const float *k_scale, *v_scale;  // [H, width], [H, width / 128]
  int keys, width;
  __host__ __device__ int tiles() const { return (keys + BN - 1) / BN; }
};

struct Maps {
  hopper::TensorMap q, k[2], v[2];  // of the memory and of the block
};

struct Args {
  Output o;
  const float* q_scale;  // [L, H]
  Segment memory, block;
  float scale2;  // log2(e) / sqrt(D)
};

// What the copying warp says of a stage.
struct Note {
  float ratio;  // the values' scale of the tile before / of this one
  int keys;     // of the tile that exist
};

struct Ring {
  static constexpr int Q = BM * D, K = BN * D, V = (D + ONES) * BN, SCALES = BN * sizeof(float);
  static constexpr int SUMS = BM * D * sizeof(float);
  static constexpr int BYTES = 1024 + Q + SUMS + STAGES * (K + V + SCALES + sizeof(Note) + 4 * hopper::BARRIER) + 2 * hopper::BARRIER;
  static constexpr int BEGUN = (4 * STAGES + 1) * hopper::BARRIER;  // from k_full

  uint8_t *q, *k, *v;
  float4* sums;
  float* scales;
  Note* notes;
  uint32_t k_full, k_empty, v_full, v_empty, q_full;  // of the first stage

  __device__ explicit Ring(uint8_t* memory) {
    q = memory + (1024 - hopper::shared_address(memory) % 1024) % 1024;  // one block of the 128-byte swizzle
    k = q + Q, v = k + STAGES * K;
    sums = reinterpret_cast<float4*>(v + STAGES * V);
    scales = reinterpret_cast<float*>(sums + SUMS / sizeof(float4));
    notes = reinterpret_cast<Note*>(scales + STAGES * BN);
    k_full = hopper::shared_address(notes + STAGES);
    k_empty = k_full + STAGES * hopper::BARRIER, v_full = k_empty + STAGES * hopper::BARRIER;
    v_empty = v_full + STAGES * hopper::BARRIER, q_full = v_empty + STAGES * hopper::BARRIER;
  }
  __device__ void init() const {
    for (int s = 0; s < STAGES; ++s) {
      hopper::barrier_init(k_full + s * hopper::BARRIER, 1), hopper::barrier_init(v_full + s * hopper::BARRIER, 1);
      hopper::barrier_init(k_empty + s * hopper::BARRIER, WARPGROUPS * 4);
      hopper::barrier_init(v_empty + s * hopper::BARRIER, WARPGROUPS * 4);
    }
    hopper::barrier_init(q_full, 1), hopper::barrier_init(k_full + BEGUN, 1);
    hopper::barrier_init_done();
  }
  // The copies never write these rows; swizzling moves nothing where all is the same.
  __device__ void fill_ones() const {
    constexpr int WORDS = ONES * BN / 4;
    for (int i = threadIdx.x; i < STAGES * WORDS; i += THREADS)
      reinterpret_cast<uint32_t*>(v + i / WORDS * V + D * BN)[i % WORDS] = 0x38383838;  // 1 in e4m3
    hopper::shared_written();
  }
};

// One lane's work: all tiles of keys and values, memory first.
__device__ __forceinline__ void copy_tiles(const Maps& maps, const Ring& ring, const Args& g, int m, int head) {
  hopper::barrier_expect(ring.q_full, Ring::Q);
  hopper::copy_box(&maps.q, ring.q, ring.q_full, head * D, m, false);
  hopper::Turn<STAGES> turn;
  float unit = 1.f;
  for (int part = 0; part < 2; ++part) {
    const Segment& s = part ? g.block : g.memory;
    const float* k_scale = s.k_scale + (size_t)head * s.width;
    const float* v_scale = s.v_scale + (size_t)head * (s.width / BN);
    for (int first = 0; first < s.keys; first += BN, turn.next()) {
      const float here = __ldg(v_scale + first / BN);
      const uint32_t at = turn.stage * hopper::BARRIER;
      hopper::barrier_wait(ring.k_empty + at, turn.parity ^ 1);  // a fresh barrier counts as one phase done
      // No division: its rare path is a call, whose registers this warp has given away.
      ring.notes[turn.stage] = {unit * hopper::fast_reciprocal(here), min(BN, s.keys - first)};
      hopper::barrier_expect(ring.k_full + at, Ring::K + Ring::SCALES);
      hopper::copy_box(&maps.k[part], ring.k + turn.stage * Ring::K, ring.k_full + at, head * D, first, false);
      hopper::copy_row(k_scale + first, ring.scales + turn.stage * BN, ring.k_full + at, Ring::SCALES);
      hopper::barrier_wait(ring.v_empty + at, turn.parity ^ 1);
      hopper::barrier_expect(ring.v_full + at, D * BN);
      hopper::copy_box(&maps.v[part], ring.v + turn.stage * Ring::V, ring.v_full + at, first, head * D, false);
      unit = here;
    }
  }
}

// What a warpgroup needs of the ring in every step, made once.
struct View {
  uint32_t q, k, v;  // low words of operands, of stage 0
  uint32_t k_full, k_empty, v_full, v_empty;
  const float* scales;  // this lane's first pair
  const Note* notes;

  __device__ explicit View(const Ring& ring)
      : q(low(ring.q + threadIdx.x / WARPGROUP * 64 * D)), k(low(ring.k)), v(low(ring.v)),
        k_full(hopper::kept(ring.k_full)), k_empty(hopper::kept(ring.k_empty)), v_full(hopper::kept(ring.v_full)),
        v_empty(hopper::kept(ring.v_empty)), scales(ring.scales + threadIdx.x % 4 * 2), notes(ring.notes) {}
  __device__ static uint32_t low(const uint8_t* p) {
    return hopper::kept((uint32_t)hopper::operand(hopper::shared_address(p)));
  }
  // One lane of each warp says that the warp has read the stage.
  __device__ __forceinline__ static void release(uint32_t empty, int stage) {
    if (threadIdx.x % 32 == 0) hopper::barrier_arrive(empty + stage * hopper::BARRIER);
  }
};

constexpr uint64_t HIGH = hopper::operand(0) >> 32 << 32;  // of every operand
constexpr int STEP = 32 / 16;  // from one product's 32 bytes to the next, as operands count

// s (64 x 128) = q k^T of the stage's keys, exact. Committed, not awaited.
__device__ __forceinline__ void multiply_keys(const View& view, int stage, int (&s)[BN / 2]) {
  hopper::products_begin();
#pragma unroll
  for (int i = 0; i < D / 32; ++i)
    hopper::wgmma<BN>(s, HIGH | (view.q + i * STEP), HIGH | (view.k + stage * (Ring::K / 16) + i * STEP), i > 0);
  hopper::products_commit();
}

// sum (64 x 128, and the sum of probabilities eight times) = p v of the stage's values, plus sum when `add`. Likewise.
__device__ __forceinline__ void multiply_values(const View& view, int stage, const uint32_t (&p)[BN / 8],
                                                float (&sum)[(D + ONES) / 2], bool add) {
  hopper::products_begin();
#pragma unroll
  for (int i = 0; i < BN / 32; ++i)
    hopper::wgmma<D + ONES>(sum, p + 4 * i, HIGH | (view.v + stage * (Ring::V / 16) + i * STEP), add || i > 0);
  hopper::products_commit();
}

// The running state of a thread's two rows.
//
// The tensor core keeps some 14 bits while it sums e4m3 products, so `sum` takes at most GROUP tiles and then goes to
// float32 in shared memory: registers for both, beside the scores of two tiles, there are none.
struct State {
  float sum[(D + ONES) / 2];  // of the tiles since the last flush, in units of the last tile's values
  float top[2];               // largest score, in units of log2
  float total[2];             // of probabilities up to the last flush
  float fade[2], unit[2];     // what total, and what is in shared memory, is worth by now: the product of all factors
};
constexpr int GROUP = 2;

// Scores times their keys' scales, in place of s; keys that do not exist: never the largest, probability 0.
__device__ __forceinline__ void scale_scores(const View& view, int stage, int keys, const int (&s)[BN / 2],
                                             float (&u)[BN / 2]) {
#pragma unroll
  for (int j = 0; j < BN / 8; ++j) {
    const float2 scale = *reinterpret_cast<const float2*>(view.scales + stage * BN + 8 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) u[4 * j + i] = (float)s[4 * j + i] * (i % 2 ? scale.y : scale.x);
  }
  if (keys < BN)  // the last tile of a segment
#pragma unroll
    for (int i = 0; i < BN / 2; ++i)
      if (hopper::fragment_column(threadIdx.x, i) >= keys) u[i] = -INFINITY;
}

// Raise top to the largest of u; fade: what is left of earlier sums.
__device__ __forceinline__ void raise_top(const float (&u)[BN / 2], const float (&q_scale)[2], float (&top)[2],
                                          float (&fade)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float best = u[2 * h];
#pragma unroll
    for (int i = 0; i < BN / 2; ++i)
      if (i / 2 % 2 == h) best = fmaxf(best, u[i]);
    for (int bit = 1; bit <= 2; ++bit) best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, bit));
    const float now = fmaxf(top[h], best * q_scale[h]);
    fade[h] = hopper::fast_exp2(top[h] - now);
    top[h] = now;
  }
}

// Probabilities, packed as the left operand of the next product: V^T's order of tokens (common/mma_order.py) makes
// every lane's scores its operand.
__device__ __forceinline__ void exponentials(const float (&u)[BN / 2], const float (&q_scale)[2], const float (&top)[2],
                                             uint32_t (&p)[BN / 8]) {
  const float least[2] = {LOG2_MOST - top[0], LOG2_MOST - top[1]};
#pragma unroll
  for (int i = 0; i < BN / 8; ++i) {  // word i: rows g, g + 8 of 16 keys, then of the next 16
    const int h = i % 2;
    const float* x = u + i / 2 * 8 + h * 2;
    const auto at = [&](float x) { return hopper::fast_exp2(x * q_scale[h] + least[h]); };
    p[i] = hopper::e4m3_word(at(x[0]), at(x[1]), at(x[4]), at(x[5]));
  }
}

// sum to shared memory: 16 bytes a thread at a time, so that no two meet in a bank.
__device__ __forceinline__ void flush(State& state, float4* kept) {
#pragma unroll
  for (int i = 0; i < D / 8; ++i) {
    float4 x = kept[i * WARPGROUP];
    x.x = x.x * state.unit[0] + state.sum[4 * i], x.y = x.y * state.unit[0] + state.sum[4 * i + 1];
    x.z = x.z * state.unit[1] + state.sum[4 * i + 2], x.w = x.w * state.unit[1] + state.sum[4 * i + 3];
    kept[i * WARPGROUP] = x;
  }
  for (int h = 0; h < 2; ++h) {
    state.total[h] = state.total[h] * state.fade[h] + state.sum[D / 2 + 2 * h];
    state.fade[h] = state.unit[h] = 1.f;
  }
}

// Where the warpgroup stands: the tile whose scores are there, its stage.
struct Walk {
  hopper::Turn<STAGES> turn;
  int tile = 0, before = 0;  // stage of the tile before
};

// Fold one tile into the state. `here` are its scores; `next` becomes those of the tile after it. Of the tile before, whose
// probabilities p still has, the products with its values run at the start, as this one's do at the end.
__device__ __forceinline__ void fold(const View& view, int tiles, const float (&q_scale)[2], float4* kept, Walk& walk,
                                     State& state, int (&here)[BN / 2], int (&next)[BN / 2], uint32_t (&p)[BN / 8]) {
  const int stage = walk.turn.stage, tile = walk.tile;
  const uint32_t parity = walk.turn.parity;
  float u[BN / 2], fade[2];
  const Note note = view.notes[stage];
  scale_scores(view, stage, note.keys, here, u);
  raise_top(u, q_scale, state.top, fade);

  hopper::products_wait<0>(state.sum, p);
  if (tile > 0) View::release(view.v_empty, walk.before);
  if (++walk.tile < tiles) {
    View::release(view.k_empty, stage);
    walk.turn.next();
  }  // after the last tile its own scores are made again, and nobody looks
  walk.before = stage;
  hopper::barrier_wait(view.k_full + walk.turn.stage * hopper::BARRIER, walk.turn.parity);
  multiply_keys(view, walk.turn.stage, next);

  const bool fresh = tile % GROUP == 0;
  if (fresh && tile > 0) flush(state, kept);
  for (int h = 0; h < 2; ++h) {
    const float unit = fade[h] * note.ratio;
    state.fade[h] *= fade[h], state.unit[h] *= unit;
    for (int i = 0; i < 2; ++i) state.sum[D / 2 + 2 * h + i] *= fade[h];
#pragma unroll
    for (int i = 0; i < D / 2; ++i)
      if (i / 2 % 2 == h) state.sum[i] *= unit;
  }
  exponentials(u, q_scale, state.top, p);
  if (tile == 0 && threadIdx.x == 0) hopper::barrier_arrive(view.k_full + Ring::BEGUN);
  hopper::barrier_wait(view.v_full + stage * hopper::BARRIER, parity);
  multiply_values(view, stage, p, state.sum, !fresh);
  hopper::products_wait<1>(next);
}

template <class Out>
__device__ __forceinline__ void attend(const View view, const Ring& ring, const Args& g, int m, int head) {
  const int tiles = g.memory.tiles() + g.block.tiles();
  float4* kept = ring.sums + threadIdx.x / WARPGROUP * (D / 8 * WARPGROUP) + threadIdx.x % WARPGROUP;
  State state;
  float q_scale[2];
  {
    const Place at(m + threadIdx.x / WARPGROUP * 64, head, threadIdx.x % WARPGROUP);
    for (int h = 0; h < 2; ++h)
      q_scale[h] = at.row[h] < g.o.L ? __ldg(g.q_scale + at.at(g.o, h)) * g.scale2 : 1.f;
  }
#pragma unroll
  for (int i = 0; i < D / 8; ++i) kept[i * WARPGROUP] = make_float4(0.f, 0.f, 0.f, 0.f);
  for (int h = 0; h < 2; ++h) state.total[h] = 0.f, state.top[h] = -INFINITY, state.fade[h] = state.unit[h] = 1.f;
#pragma unroll
  for (int i = 0; i < (D + ONES) / 2; ++i) state.sum[i] = 0.f;

  Walk walk;
  int a[BN / 2], b[BN / 2];
  uint32_t p[BN / 8] = {};
  hopper::barrier_wait(ring.q_full, 0);
  if (threadIdx.x / WARPGROUP > 0) hopper::barrier_wait(view.k_full + Ring::BEGUN, 0);
  hopper::barrier_wait(view.k_full, 0);
  multiply_keys(view, 0, a);
  hopper::products_wait<0>(a);
  while (true) {  // two at a time: which registers hold a tile's scores must not depend on the trip
    fold(view, tiles, q_scale, kept, walk, state, a, b, p);
    if (walk.tile == tiles) break;
    fold(view, tiles, q_scale, kept, walk, state, b, a, p);
    if (walk.tile == tiles) break;
  }
  hopper::products_wait<0>(state.sum, p);
  const Place at(m + threadIdx.x / WARPGROUP * 64, head, threadIdx.x % WARPGROUP);
  const float unit = __ldg(g.block.v_scale + (size_t)head * (g.block.width / BN) + g.block.tiles() - 1);
  float y[D / 2];
  for (int h = 0; h < 2; ++h) state.total[h] = unit / (state.total[h] * state.fade[h] + state.sum[D / 2 + 2 * h]);
#pragma unroll
  for (int i = 0; i < D / 8; ++i) {
    const float4 x = kept[i * WARPGROUP];
    const float old[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int n = 0; n < 4; ++n)
      y[4 * i + n] = (old[n] * state.unit[n / 2] + state.sum[4 * i + n]) * state.total[n / 2];
  }
  finish(Out{}, g.o, at, y);
}

template <class Out>
__global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Maps maps, const __grid_constant__ Args g) {
  const Ring ring(la::shared_memory<uint8_t>());
  const int m = blockIdx.x * BM, head = blockIdx.y;
  if (threadIdx.x == 0) ring.init();
  ring.fill_ones();
  __syncthreads();
  if (threadIdx.x / WARPGROUP == WARPGROUPS) {
    hopper::give_registers<24>();
    if (threadIdx.x / 32 == WARPGROUPS * 4 && hopper::one_lane()) copy_tiles(maps, ring, g, m, head);
  } else {
    hopper::take_registers<240>();
    attend<Out>(View(ring), ring, g, m, head);
  }
}

}  // namespace attention8
