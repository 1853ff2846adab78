// The CPU's side of csrc/include/device.cuh, included before everything else: a kernel's threads run as fibers, one
// cluster of blocks at a time, every block's shared memory full of NaN at its start. A warp runs until a barrier stops
// it, in rising or falling order of threads, so that what a barrier should have kept apart happens far too early.
// Nothing here stands for wgmma, TMA or mbarrier.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include <vector_functions.h>
#include <vector_types.h>

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct CUstream_st;

namespace cpu {

enum class At { NOWHERE, BLOCK, WARP, CLUSTER };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  uint3 thread, block;
  unsigned char* shared = nullptr;
  At waits = At::NOWHERE;
  bool done = false;
  int arrivals = 0, passed = 0;  // the cluster's barrier
  uint32_t lane = 0;  // what this lane offers to the others of its warp
};

struct Cluster {
  std::vector<Fiber> fibers;
  unsigned threads = 0;  // of a block
  dim3 grid, block;
  ucontext_t scheduler;
  std::function<void()> body;
};

inline int broken = 0;  // which of the ways to break the kernel, compiled into one library, is in effect; 0: none
extern "C" inline void __attribute__((used)) break_at(int way) { broken = way; }

inline void (*afresh)() = nullptr;  // forgets what other engines hold, before a cluster begins

inline Cluster* cluster = nullptr;
inline Fiber* now = nullptr;
inline bool falling = false;  // order of threads

inline void wait_at(At place) {
  now->waits = place;
  swapcontext(&now->context, &cluster->scheduler);
}

inline std::exception_ptr thrown;  // by a thread: it cannot leave its fiber by itself

inline void enter() {
  try {
    cluster->body();
  } catch (...) {
    thrown = std::current_exception();
  }
  now->done = true;
  swapcontext(&now->context, &cluster->scheduler);
}

// Let go the fibers first .. last if every one of them waits at `place`.
inline bool release(Cluster& c, size_t first, size_t last, At place) {
  for (size_t i = first; i < last; ++i)
    if (c.fibers[i].waits != place) return false;
  for (size_t i = first; i < last; ++i) c.fibers[i].waits = At::NOWHERE;
  return true;
}

// Run a warp until each of its fibers is done or waits for other warps; false when there was nothing to run.
inline bool run_warp(Cluster& c, size_t first, size_t last) {
  bool any = false;
  do {
    for (size_t i = first; i < last; ++i) {
      now = &c.fibers[falling ? first + last - 1 - i : i];
      if (now->done || now->waits != At::NOWHERE) continue;
      swapcontext(&c.scheduler, &now->context);
      any = true;
    }
  } while (release(c, first, last, At::WARP));
  return any;
}

inline bool release_blocks(Cluster& c) {
  bool any = false;
  int least = c.fibers[0].arrivals;
  for (const Fiber& f : c.fibers) least = std::min(least, f.arrivals);
  for (Fiber& f : c.fibers)
    if (f.waits == At::CLUSTER && f.passed < f.arrivals && f.arrivals <= least)
      f.waits = At::NOWHERE, ++f.passed, any = true;
  for (size_t b = 0; b < c.fibers.size(); b += c.threads) any |= release(c, b, b + c.threads, At::BLOCK);
  return any;
}

inline void run(Cluster& c) {
  const size_t warps_of_block = (c.threads + 31) / 32, warps = c.fibers.size() / c.threads * warps_of_block;
  cluster = &c;
  for (;;) {
    bool ran = false, done = true;
    for (size_t i = 0; i < warps; ++i) {
      const size_t w = falling ? warps - 1 - i : i, block = w / warps_of_block * c.threads;
      const size_t first = block + w % warps_of_block * 32, last = std::min(first + 32, block + c.threads);
      ran |= run_warp(c, first, last);
      if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
    }
    for (const Fiber& f : c.fibers) done &= f.done;
    if (done) return;
    if (!release_blocks(c) && !ran)
      throw std::runtime_error("deadlock: not every thread reaches the barrier that others wait at");
  }
}

inline void prepare(Cluster& c, uint3 first, unsigned blocks, std::vector<std::vector<unsigned char>>& shared) {
  constexpr size_t STACK = 64 << 10;
  if (afresh) afresh();
  c.fibers.resize(blocks * c.threads);
  for (auto& s : shared) std::fill(s.begin(), s.end(), 0xFF);  // NaN: what no thread wrote, nobody should read
  for (size_t i = 0; i < c.fibers.size(); ++i) {
    Fiber& f = c.fibers[i];
    const unsigned b = i / c.threads;
    f.thread = {unsigned(i % c.threads), 0, 0}, f.block = {first.x + b, first.y, first.z}, f.shared = shared[b].data();
    f.waits = At::NOWHERE, f.done = false, f.arrivals = f.passed = 0;
    if (!f.stack) f.stack.reset(new char[STACK]);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = STACK, f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
  }
}

inline float from_lane(float x, unsigned lane) {
  Fiber* warp = now - now->thread.x % 32;
  std::memcpy(&now->lane, &x, 4);
  wait_at(At::WARP);
  const uint32_t bits = warp[lane].lane;
  wait_at(At::WARP);
  std::memcpy(&x, &bits, 4);
  return x;
}

}  // namespace cpu

#define threadIdx (::cpu::now->thread)
#define blockIdx (::cpu::now->block)
#define gridDim (::cpu::cluster->grid)
#define blockDim (::cpu::cluster->block)

using std::max;
using std::min;

inline void __syncthreads() { cpu::wait_at(cpu::At::BLOCK); }
inline float __shfl_xor_sync(unsigned, float x, int mask) { return cpu::from_lane(x, threadIdx.x % 32 ^ mask); }
inline float __shfl_sync(unsigned, float x, int lane) { return cpu::from_lane(x, lane); }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
template <class T>
T __ldg(const T* p) {
  return *p;
}

namespace la {

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, unsigned blocks, CUstream_st*,
            const A&... args) {
  if (grid.x % blocks) throw std::runtime_error("the grid does not divide into clusters");
  cpu::Cluster c;
  c.threads = threads, c.grid = grid, c.block = dim3(threads), c.body = [&] { kernel(args...); };
  std::vector<std::vector<unsigned char>> memories(blocks, std::vector<unsigned char>(shared + 16));
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; x += blocks) {
        cpu::prepare(c, {x, y, z}, blocks, memories);
        cpu::run(c);
      }
}

inline int multiprocessors() { return 1; }  // few blocks, so that they walk

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(cpu::now->shared) + 15) & ~uintptr_t(15));
}

inline void cluster_arrive() { ++cpu::now->arrivals; }
inline void cluster_arrive_read() { cluster_arrive(); }
inline void cluster_wait() { cpu::wait_at(cpu::At::CLUSTER); }

}  // namespace la
