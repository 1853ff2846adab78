// The window's end-of-block update in one launch: liveact_kernels/ops/kv_compress (reference.py, NOTES.md).
// A cluster owns some heads of the keys or of the values. It walks the schedule in order and tokens upwards; where an
// entry reads memory, all its blocks have read a chunk before any of them stores one, so outputs may overwrite sources.
// In temporal order too: entries cut the tokens into chunks of two sizes, so blocks store rows that others read.
#include <stdexcept>

#include "casts.cuh"
#include "device.cuh"
#include "reduce.cuh"
#include "registry.h"
#include "rope.cuh"
#include "source.cuh"

namespace kv_compress_op {

using la::Bf16;
constexpr int THREADS = 256, CLUSTER = 8;

struct Side {  // keys or values
  void *out, *peer, *mem;  // peer: a second place for the same rows, or null
  float *out_scale, *peer_scale, *mem_scale;
  const void* fresh;  // the block's own rows: bf16, or codes with scales
  const float* fresh_scale;
  const float* taps;
};

struct Params {
  Side side[2];
  const float* rope;
  Entry entry[ENTRIES];
  int entries, tokens, memory, heads, lanes;  // memory: rows of the window that are in mem; lanes: threads to a head
  bool raster, overlaps;                      // overlaps: another thread's output may overwrite what this one reads
};

// Slots of which the block's own rows are codes of the same kind.
template <class Store>
struct Codes : Store {};
template <class Store>
constexpr bool FRESH_CODES = false;
template <class Store>
constexpr bool FRESH_CODES<Codes<Store>> = true;

// Where an output's sources lie, known before its loads, so that all of them may be in flight together.
enum class In { BLOCK, MEMORY, EITHER };

// Eight channels of HEADS heads of a window row as floats. Memory needs plain loads: this kernel writes it.
template <class Store, int HEADS, In IN>
__device__ void read(const Params& p, const Side& s, int row, int head, int lane, float (&x)[HEADS][8]) {
  const bool old = IN == In::MEMORY || (IN == In::EITHER && row < p.memory);
  const unsigned at = ((old ? row : row - p.memory) * p.heads + head) * p.lanes + lane;
  const uint4* fresh = static_cast<const uint4*>(s.fresh);
  if constexpr (FRESH_CODES<Store>) {
    const auto* from = static_cast<const typename Store::Word*>(old ? s.mem : s.fresh);
    const float* scales = (old ? s.mem_scale : s.fresh_scale) + unsigned((old ? row : row - p.memory) * p.heads + head);
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      Store::unpack(from[at + h * p.lanes], x[h]);
      const float scale = scales[h];
#pragma unroll
      for (int i = 0; i < 8; ++i) x[h][i] *= scale;
    }
  } else if constexpr (IN == In::BLOCK) {
#pragma unroll
    for (int h = 0; h < HEADS; ++h) Bf16::unpack(__ldg(fresh + at + h * p.lanes), x[h]);
  } else if constexpr (Store::MOST == 0) {
    const uint4* from = old ? static_cast<const uint4*>(s.mem) : fresh;
#pragma unroll
    for (int h = 0; h < HEADS; ++h) Bf16::unpack(from[at + h * p.lanes], x[h]);
  } else if (old) {
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      Store::unpack(static_cast<const typename Store::Word*>(s.mem)[at + h * p.lanes], x[h]);
      const float scale = s.mem_scale[unsigned(row * p.heads + head + h)];
#pragma unroll
      for (int i = 0; i < 8; ++i) x[h][i] *= scale;
    }
  } else {
    read<Store, HEADS, In::BLOCK>(p, s, row, head, lane, x);
  }
}

// Output j of an entry: sources un-rotated, weighted, summed, rotated to the slot. taps [TAPS, HEADS, 2, lanes] of four:
// lanes side by side in each half, or two lanes of a quarter warp would want the same banks.
template <class Store, bool KEYS, int HEADS, int COUNT, In IN>
__device__ void folded(const Params& p, const Side& s, const Entry& entry, const float* taps, int j, int head, int lane,
                       float (&y)[HEADS][8]) {
  float turn[8], x[HEADS][8], weight[8];
  Source at(j, COUNT, p.tokens, p.raster);
#pragma unroll
  for (int tap = 0; tap < COUNT; ++tap, at.next(p.tokens, p.raster)) {
    const int row = entry.source[at.nth] * p.tokens + at.row;
    if (KEYS) la::load8(p.rope + unsigned(row * p.lanes + lane) * 8, turn);
    read<Store, HEADS, IN>(p, s, row, head, lane, x);
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      if (KEYS) la::rotate<true>(x[h], turn);
      if (COUNT > 1) {
        const float4* w = reinterpret_cast<const float4*>(taps) + (tap * HEADS + h) * 2 * p.lanes + lane;
        *reinterpret_cast<float4*>(weight) = w[0], *reinterpret_cast<float4*>(weight + 4) = w[p.lanes];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) y[h][i] = COUNT > 1 ? y[h][i] + weight[i] * x[h][i] : x[h][i];
    }
  }
  if (KEYS) {
    la::load8(p.rope + unsigned((entry.slot * p.tokens + j) * p.lanes + lane) * 8, turn);
#pragma unroll
    for (int h = 0; h < HEADS; ++h) la::rotate<false>(y[h], turn);
  }
}

template <int COUNT>
__device__ bool all_in_memory(const Params& p, const Entry& entry, int j) {
  bool all = true;
  Source at(j, COUNT, p.tokens, p.raster);
#pragma unroll
  for (int tap = 0; tap < COUNT; ++tap, at.next(p.tokens, p.raster))
    all &= entry.source[at.nth] * p.tokens < p.memory;
  return all;
}

template <class Store, int HEADS>
__device__ void write(const Params& p, void* out, float* out_scale, int row, int head, int lane,
                      const float (&y)[HEADS][8], const float (&scale)[HEADS]) {
  auto* at = static_cast<typename Store::Word*>(out) + unsigned((row * p.heads + head) * p.lanes + lane);
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    at[h * p.lanes] = Store::pack(y[h]);
    if (Store::MOST > 0 && lane == 0) out_scale[unsigned(row * p.heads + head + h)] = scale[h];
  }
}

// Entry e for this cluster's heads, a chunk of THREADS / lanes outputs per block at a time, or two where one has too few
// loads to hide their latency. Threads past the end repeat the last output and do not store it.
template <class Store, bool KEYS, int HEADS, int COUNT, bool OLD>
__device__ void walked(const Params& p, const Side& s, int e, const float* taps) {
  constexpr int EACH = COUNT == 1 && !OLD ? 2 : 1;
  const int lane = threadIdx.x % p.lanes, head = blockIdx.y * HEADS, rows = THREADS / p.lanes;
  const Entry& entry = p.entry[e];
  for (int begin = 0; begin < p.tokens; begin += EACH * rows * gridDim.x) {
    const int first = begin + EACH * rows * blockIdx.x + threadIdx.x / p.lanes;
    float y[EACH][HEADS][8] = {}, scale[EACH][HEADS];
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
      const int j = min(first + n * rows, p.tokens - 1);
      if constexpr (!OLD) folded<Store, KEYS, HEADS, COUNT, In::BLOCK>(p, s, entry, taps, j, head, lane, y[n]);
      else if (Store::MOST > 0 && all_in_memory<COUNT>(p, entry, j))  // codes and bf16 are loads of two kinds
        folded<Store, KEYS, HEADS, COUNT, In::MEMORY>(p, s, entry, taps, j, head, lane, y[n]);
      else folded<Store, KEYS, HEADS, COUNT, In::EITHER>(p, s, entry, taps, j, head, lane, y[n]);
    }
    if (OLD && p.overlaps) la::cluster_arrive_read();
#pragma unroll
    for (int n = 0; n < EACH; ++n) la::coded<Store, HEADS>(p.lanes, y[n], scale[n]);
    if (OLD && p.overlaps) la::cluster_wait();
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
      const int j = first + n * rows, to = e * p.tokens + j;
      if (j >= p.tokens) continue;
      write<Store, HEADS>(p, s.out, s.out_scale, to, head, lane, y[n], scale[n]);
      if (s.peer) write<Store, HEADS>(p, s.peer, s.peer_scale, to, head, lane, y[n], scale[n]);
    }
  }
}

template <class Store, bool KEYS, int HEADS>
__device__ void updated(const Params& p, const Side& s) {
  float* taps = la::shared_memory<float>();
  const int width = HEADS * p.lanes * 8;
  for (int i = threadIdx.x; i < TAPS * width / 4; i += THREADS) {
    const int tap = i / (width / 4), at = i % (width / 4);
    const float* from = s.taps + int64_t(tap) * p.heads * p.lanes * 8 + blockIdx.y * width;
    const int half = at % 2, lane = at / 2 % p.lanes, head = at / 2 / p.lanes;
    reinterpret_cast<float4*>(taps)[((tap * HEADS + head) * 2 + half) * p.lanes + lane] =
        __ldg(reinterpret_cast<const float4*>(from) + at);
  }
  __syncthreads();
  for (int e = 0; e < p.entries; ++e) {
    const bool one = p.entry[e].count == 1, old = p.entry[e].reads_memory;
    if (one && old) walked<Store, KEYS, HEADS, 1, true>(p, s, e, taps);
    else if (one) walked<Store, KEYS, HEADS, 1, false>(p, s, e, taps);
    else if (old) walked<Store, KEYS, HEADS, TAPS, true>(p, s, e, taps);
    else walked<Store, KEYS, HEADS, TAPS, false>(p, s, e, taps);
  }
}

template <class Keys, class Values, int HEADS>
__global__ void __launch_bounds__(THREADS, 2) kv_compress_kernel(const __grid_constant__ Params p) {
  if (blockIdx.z == 0) updated<Keys, true, HEADS>(p, p.side[0]);
  else updated<Values, false, HEADS>(p, p.side[1]);
}

// schedule: on the host, per entry the slot, the number of sources (1 or TAPS) and TAPS source slots.
void kv_compress(void* k_out, void* v_out, float* k_out_scale, float* v_out_scale, void* k_peer, void* v_peer,
                 float* k_peer_scale, float* v_peer_scale, const void* k_new, const void* v_new, void* k_mem,
                 void* v_mem, float* k_scale, float* v_scale, const float* k_new_scale, const float* v_new_scale,
                 const float* taps, const float* taps_v, const float* rope,
                 const int64_t* schedule, int64_t entries, int64_t tokens, int64_t memory, int64_t H, int64_t D,
                 int64_t eight_bit, int64_t raster, cudaStream_t stream) {
  const int lanes = static_cast<int>(D / 8);
  if (D % 8 || lanes == 0 || 32 % lanes)
    throw std::invalid_argument("kv_compress: expected D of 8, 16, 32, 64, 128 or 256");
  if (entries > ENTRIES) throw std::invalid_argument("kv_compress: expected at most 8 entries of the schedule");
  Params p = {{{k_out, k_peer, k_mem, k_out_scale, k_peer_scale, k_scale, k_new, k_new_scale, taps},
               {v_out, v_peer, v_mem, v_out_scale, v_peer_scale, v_scale, v_new, v_new_scale,
                taps_v}},
              rope, {}, int(entries), int(tokens), int(memory), int(H), lanes, raster != 0, memory > 0};
  for (int e = 0; e < p.entries; ++e, schedule += 2 + TAPS) {
    Entry& entry = p.entry[e];
    entry.slot = int(schedule[0]), entry.count = int(schedule[1]);
    if (entry.count != 1 && entry.count != TAPS) throw std::invalid_argument("kv_compress: expected 1 or 5 sources");
    for (int i = 0; i < TAPS; ++i) {
      entry.source[i] = int(schedule[2 + i]);
      entry.reads_memory |= i < entry.count && schedule[2 + i] * tokens < memory;
    }
  }
  const unsigned heads = H % 4 ? 1 : 4, rows = THREADS / lanes;  // four heads share the rope rows that a thread reads
  const unsigned chunks = static_cast<unsigned>((tokens + rows - 1) / rows);
  const dim3 grid(p.overlaps ? CLUSTER : chunks, static_cast<unsigned>(H) / heads, 2);
  const size_t shared = TAPS * heads * D * sizeof(float);
  auto kernel = heads == 4 ? kv_compress_kernel<Bf16, Bf16, 4> : kv_compress_kernel<Bf16, Bf16, 1>;
  using la::Int8, la::E4m3;
  if (eight_bit && k_new_scale)
    kernel = heads == 4 ? kv_compress_kernel<Codes<Int8>, Codes<E4m3>, 4>
                        : kv_compress_kernel<Codes<Int8>, Codes<E4m3>, 1>;
  else if (eight_bit)
    kernel = heads == 4 ? kv_compress_kernel<Int8, E4m3, 4> : kv_compress_kernel<Int8, E4m3, 1>;
  if (tokens && entries) la::launch(kernel, grid, THREADS, shared, p.overlaps ? CLUSTER : 1, stream, p);
}

LA_OP(kv_compress)

}  // namespace kv_compress_op
