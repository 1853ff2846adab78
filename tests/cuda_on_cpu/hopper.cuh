// The CPU's side of csrc/include/hopper.cuh, on the fibers of device.cuh. Copies are carried out late and in random
// order, products as late as their wait allows, and threads stall: a missing wait or an early release reads the wrong
// bytes, and a barrier that nobody completes is an error, not a hang. Layouts are written from the PTX ISA, apart from
// the kernels' own index maps.
#pragma once

#include <cuda_fp8.h>

#include <map>
#include <random>

#include "device.cuh"

inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline void __syncwarp() { cpu::wait_at(cpu::At::WARP); }
inline uint32_t __shfl_xor_sync(unsigned all, uint32_t word, int mask) {
  float x;
  std::memcpy(&x, &word, 4);
  x = __shfl_xor_sync(all, x, mask);
  std::memcpy(&word, &x, 4);
  return word;
}

namespace hopper {

struct TensorMap {
  const uint8_t* base;
  int rank;
  int64_t sizes[4], pitch[4];  // in bytes where they are adjacent
  int box[4];
};

struct Barrier {
  int arrivals, pending;
  int64_t bytes = 0;
  uint32_t phase = 0;
};

struct Copy {
  TensorMap map;  // by value: the lane that asked may be gone when the copy is made
  uint32_t to, bar;
  int at[4];
  unsigned block;
  uint32_t bytes = 0;  // more than 0: so many from map.base, as they lie
};

// d (64 x n over the warpgroup) = or += a w^T: float sums of e4m3 products, or integers of int8 ones.
struct Product {
  void* d;
  uint64_t a, w;  // operands in shared memory
  const uint32_t* words;  // a's four words where it is in registers, else null
  int n;
  bool add;
  enum { E4M3, INT8, BF16 } kind;
};
constexpr int WIDEST = 32;  // numbers of a row of one product: 32 bytes

// What the engines of one cluster hold; made anew when a launch or its next cluster begins.
struct Engines {
  std::map<std::pair<unsigned, uint32_t>, Barrier> barriers;
  std::vector<Copy> copies;
  std::map<const cpu::Fiber*, std::vector<std::vector<Product>>> groups;  // the last is still open
  std::map<const cpu::Fiber*, std::vector<std::pair<float*, const float*>>> words;
  std::mt19937 random{7};
  int idle = 0;  // turns since something happened
  int bits = 0;  // of a product's sum; 0: all that float32 has
};
inline Engines engines;
inline const bool prepared = [] {
  cpu::afresh = [] {
    engines.barriers.clear(), engines.copies.clear(), engines.groups.clear(), engines.words.clear();
    engines.idle = 0;
  };
  return true;
}();
extern "C" inline void __attribute__((used)) keep_bits(int bits) { engines.bits = bits; }

inline unsigned rank_of(const cpu::Fiber& f) {
  return unsigned(&f - cpu::cluster->fibers.data()) / cpu::cluster->threads;
}
inline uint8_t* memory_of(unsigned rank) {
  return cpu::cluster->fibers[rank * cpu::cluster->threads].shared;
}

inline Barrier& barrier(unsigned rank, uint32_t address) {
  const cpu::Fiber* first = &cpu::cluster->fibers[rank * cpu::cluster->threads];
  if (std::all_of(first, first + cpu::cluster->threads, [](const cpu::Fiber& f) { return f.done; }))
    throw std::runtime_error("a barrier is used after its block has ended");
  const auto found = engines.barriers.find({rank, address});
  if (found == engines.barriers.end()) throw std::runtime_error("a barrier is used before it is initialised");
  return found->second;
}

inline void settle(Barrier& b) {
  if (b.pending < 0) throw std::runtime_error("a barrier has more arrivals than it was made for");
  if (b.pending == 0 && b.bytes == 0) ++b.phase, b.pending = b.arrivals;
}

// Swizzles of 128 and 64 bytes: bits 4-6 of an address are mixed with bits 7-9, bits 4-5 with bits 7-8.
inline uint32_t swizzled(uint32_t address, int width) { return address ^ (address >> 7 & (width / 16 - 1)) << 4; }

inline void carry_out(const Copy& c) {
  uint8_t* memory = memory_of(c.block);
  Barrier& b = barrier(c.block, c.bar);
  const TensorMap& m = c.map;
  if (c.bytes) {
    std::memcpy(memory + c.to, m.base, c.bytes);
    b.bytes -= c.bytes;
    return settle(b);
  }
  const int width = m.box[0];
  uint32_t to = c.to;
  for (int i3 = 0; i3 < m.box[3]; ++i3)
    for (int i2 = 0; i2 < m.box[2]; ++i2)
      for (int i1 = 0; i1 < m.box[1]; ++i1) {
        const int64_t at[4] = {0, c.at[1] + i1, c.at[2] + i2, c.at[3] + i3};
        bool inside = true;
        const uint8_t* from = m.base;
        for (int d = 1; d < 4; ++d) inside = inside && at[d] >= 0 && at[d] < m.sizes[d], from += at[d] * m.pitch[d];
        for (int k = 0; k < width; k += 16, to += 16)
          for (int i = 0; i < 16; ++i) {
            const int64_t column = c.at[0] + k + i;
            memory[swizzled(to, width) + i] = inside && column >= 0 && column < m.sizes[0] ? from[column] : 0;
          }
      }
  b.bytes -= to - c.to;
  settle(b);
}

// Let the others run for a turn; now and then a copy lands. Throws when nothing has happened for long.
inline void turn() {
  if (!engines.copies.empty() && engines.random() % 512 == 0) {
    const size_t n = engines.random() % engines.copies.size();
    const Copy c = engines.copies[n];
    engines.copies.erase(engines.copies.begin() + n);
    carry_out(c);
    engines.idle = 0;
  }
  if (++engines.idle > 200000) throw std::runtime_error("deadlock: a barrier's phase never ends");
  cpu::wait_at(cpu::At::NOWHERE);
}

inline void stall() {
  for (int turns = engines.random() % 4; turns > 0; --turns) turn();
}

// The sum of one product instruction as the tensor core makes it: each term cut to `bits` bits of the largest one.
inline float cut_sum(float acc, const float* x, const float* y, int bits) {
  float top = std::fabs(acc);
  for (int k = 0; k < WIDEST; ++k) top = std::max(top, std::fabs(x[k] * y[k]));
  if (top == 0) return 0;
  const float unit = std::ldexp(1.f, std::ilogb(top) + 1 - bits);
  float sum = std::trunc(acc / unit) * unit;
  for (int k = 0; k < 32; ++k) sum += std::trunc(x[k] * y[k] / unit) * unit;
  return sum;
}

// 32 bytes of an operand's row, as they lie in shared memory.
inline void read_row(uint8_t* to, uint64_t descriptor, int row) {
  const int swizzle = int(descriptor >> 62), width = swizzle == 1 ? 128 : 64;
  if (swizzle != 1 && swizzle != 2) throw std::runtime_error("an operand is in no swizzle of 128 or 64 bytes");
  const uint8_t* memory = memory_of(rank_of(*cpu::now));
  const uint32_t start = (descriptor & 0x3fff) << 4, eight_rows = (descriptor >> 32 & 0x3fff) << 4;
  if (start % (8 * width) / width) throw std::runtime_error("an operand does not start with the swizzle's first row");
  const uint32_t at = start + row / 8 * eight_rows + row % 8 * width;
  for (int k = 0; k < 32; k += 16) std::memcpy(to + k, memory + swizzled(at + k, width), 16);
}

// The same of a left operand in registers: lane t of a quad has columns 4 t .. of 16, in words 0 (row g) and 1 (row
// g + 8), and of the next 16 in words 2 and 3. `group`, `index`: which product it is of those that this lane has issued.
inline void gather_row(uint8_t* to, int half, size_t group, size_t index) {
  const cpu::Fiber* quad = cpu::now - threadIdx.x % 4;
  for (int k = 0; k < 32; ++k) {
    const Product& p = engines.groups.at(quad + k % 16 / 4)[group][index];
    to[k] = uint8_t(p.words[k / 16 * 2 + half] >> 8 * (k % 4));
  }
}

// A row's numbers; returns how many there are.
inline int numbers(float* to, const uint8_t* bytes, int kind) {
  static const std::vector<float> value = [] {
    std::vector<float> v(256);
    for (int i = 0; i < 256; ++i) v[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(i, __NV_E4M3)));
    return v;
  }();
  if (kind == Product::BF16) {
    for (int k = 0; k < 16; ++k) {
      const uint32_t word = (uint32_t(bytes[2 * k]) | uint32_t(bytes[2 * k + 1]) << 8) << 16;
      std::memcpy(to + k, &word, 4);
    }
    return 16;
  }
  for (int k = 0; k < 32; ++k) to[k] = kind == Product::INT8 ? float(int8_t(bytes[k])) : value[bytes[k]];
  return 32;
}

inline void multiply(const Product& p, size_t group, size_t index) {
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  uint8_t codes[32];
  float a[2][WIDEST] = {}, w[WIDEST] = {};
  for (int h = 0; h < 2; ++h) {
    if (p.words) gather_row(codes, h, group, index);
    else read_row(codes, p.a, 16 * warp + lane / 4 + 8 * h);
    numbers(a[h], codes, p.kind);
  }
  for (int j = 0; j < p.n / 8; ++j)
    for (int c = 0; c < 2; ++c) {
      read_row(codes, p.w, 8 * j + 2 * (lane % 4) + c);
      const int count = numbers(w, codes, p.kind);
      for (int h = 0; h < 2; ++h) {
        const int i = 4 * j + 2 * h + c;
        if (p.kind == Product::INT8) {
          int& d = static_cast<int*>(p.d)[i];
          if (!p.add) d = 0;
          for (int k = 0; k < count; ++k) d += int(a[h][k] * w[k]);
          continue;
        }
        float& d = static_cast<float*>(p.d)[i];
        if (!p.add) d = 0;
        if (engines.bits) d = cut_sum(d, a[h], w, engines.bits);
        else for (int k = 0; k < count; ++k) d += a[h][k] * w[k];
      }
    }
}

template <int RANK>
TensorMap tensor_map(const std::string& what, const void* base, const int64_t (&sizes)[RANK],
                     const int64_t (&pitch)[RANK - 1], const int (&box)[RANK]) {
  TensorMap m = {static_cast<const uint8_t*>(base), RANK, {1, 1, 1, 1}, {1, 0, 0, 0}, {1, 1, 1, 1}};
  for (int d = 0; d < RANK; ++d) {
    m.sizes[d] = sizes[d], m.box[d] = box[d];
    if (d) m.pitch[d] = pitch[d - 1];
    if (d && pitch[d - 1] % 16) throw std::runtime_error(what + ": a pitch is no multiple of 16 bytes");
    if (box[d] < 1 || box[d] > 256) throw std::runtime_error(what + ": a box has 1 to 256 in each dimension");
  }
  if (box[0] != 64 && box[0] != 128) throw std::runtime_error(what + ": a swizzled row has 64 or 128 bytes");
  return m;
}
inline TensorMap tensor_map(const std::string& what, const void* base, int64_t rows, int64_t columns, int box_rows) {
  return tensor_map<2>(what, base, {columns, rows}, {columns}, {128, box_rows});
}
template <class Kernel>
int resident_clusters(Kernel, unsigned, int, unsigned) {
  return 1 << 20;
}

inline uint32_t cluster_rank() { return rank_of(*cpu::now); }
inline uint32_t shared_address(const void* p) {
  return uint32_t(static_cast<const uint8_t*>(p) - memory_of(cluster_rank()));
}
inline bool one_lane() { return threadIdx.x % 32 == 0; }
template <int>
void give_registers() {}
template <int>
void take_registers() {}

inline uint32_t kept(uint32_t x) { return x; }
inline uint32_t unknown(uint32_t x) { return x; }
inline uint32_t e4m3_word(float a, float b, float c, float d) {
  const float x[4] = {a, b, c, d};
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word |= uint32_t(__nv_cvt_float_to_fp8(x[i], __NV_SATFINITE, __NV_E4M3)) << 8 * i;
  return word;
}
inline float fast_exp2(float x) { return std::exp2(x); }
inline float fast_reciprocal(float x) { return 1 / x; }

inline void barrier_init(uint32_t bar, uint32_t arrivals) {
  engines.barriers[{cluster_rank(), bar}] = {int(arrivals), int(arrivals)};
}
inline void barrier_init_done() {}
inline void barrier_wait(uint32_t bar, uint32_t parity) {
  while (barrier(cluster_rank(), bar).phase % 2 == parity) turn();
  engines.idle = 0;
}
inline void barrier_expect(uint32_t bar, uint32_t bytes) {
  Barrier& b = barrier(cluster_rank(), bar);
  b.bytes += bytes, --b.pending;
  settle(b);
}
inline void barrier_arrive(uint32_t bar, uint32_t rank) {
  stall();
  Barrier& b = barrier(rank, bar);
  --b.pending;
  settle(b);
}

inline void barrier_arrive(uint32_t bar) { barrier_arrive(bar, cluster_rank()); }
inline void shared_written() {}

inline void copy_row(const void* from, void* to, uint32_t bar, uint32_t bytes) {
  if (shared_address(to) % 16 || uintptr_t(from) % 16 || bytes % 16)
    throw std::runtime_error("a row is copied that is not in whole 16 bytes");
  engines.copies.push_back({{static_cast<const uint8_t*>(from)}, shared_address(to), bar, {}, cluster_rank(), bytes});
}
inline void ask(const TensorMap* map, void* to, Copy copy) {
  const uint32_t pattern = 8 * map->box[0];
  if (shared_address(to) % pattern)
    throw std::runtime_error("a swizzled box does not start at a multiple of " + std::to_string(pattern));
  engines.copies.push_back(copy);
}
inline void copy_box(const TensorMap* map, void* to, uint32_t bar, int column, int row, bool both) {
  if (map->rank != 2) throw std::runtime_error("a map of other than two dimensions is asked for two");
  for (unsigned block = 0; block < 2; ++block)
    if (both || block == cluster_rank()) ask(map, to, {*map, shared_address(to), bar, {column, row}, block});
}
inline void copy_box(const TensorMap* map, void* to, uint32_t bar, int first, int second, int third, int fourth) {
  if (map->rank != 4) throw std::runtime_error("a map of other than four dimensions is asked for four");
  ask(map, to, {*map, shared_address(to), bar, {first, second, third, fourth}, cluster_rank()});
}

inline void prefetch_l2(const void*) {}
inline float2 read_pair(const float* from) { return {from[0], from[1]}; }
inline void store_words(void* to, const uint32_t (&w)[4], bool here) {
  if (!here) return;
  if (reinterpret_cast<uintptr_t>(to) % 16) throw std::runtime_error("a store of 16 bytes is not aligned to them");
  std::memcpy(to, w, 16);
}

// Carried out at once or as late as its wait allows.
inline void copy_words(float* to, const float* from) {
  if (shared_address(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16)
    throw std::runtime_error("an asynchronous copy of 16 bytes is not aligned to them");
  if (engines.random() % 2) std::memcpy(to, from, 16);
  else engines.words[cpu::now].push_back({to, from});
}
inline void words_wait() {
  for (const auto& [to, from] : engines.words[cpu::now]) std::memcpy(to, from, 16);
  engines.words[cpu::now].clear();
}

inline void products_begin() {
  auto& groups = engines.groups[cpu::now];
  if (groups.empty()) groups.emplace_back();
}
template <int N>
void wgmma(float (&d)[N / 2], uint64_t a, uint64_t w, bool add) {
  engines.groups[cpu::now].back().push_back({d, a, w, nullptr, N, add, Product::E4M3});
}
template <int N>
void wgmma(float (&d)[N / 2], const uint32_t* a, uint64_t w, bool add) {
  engines.groups[cpu::now].back().push_back({d, 0, w, a, N, add, Product::E4M3});
}
template <int N>
void wgmma(int (&d)[N / 2], uint64_t a, uint64_t w, bool add) {
  engines.groups[cpu::now].back().push_back({d, a, w, nullptr, N, add, Product::INT8});
}
template <int N>
void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t w, bool add) {
  engines.groups[cpu::now].back().push_back({d, a, w, nullptr, N, add, Product::BF16});
}
inline void products_commit() { engines.groups[cpu::now].emplace_back(); }
template <int PENDING, class... T>
void products_wait(T&...) {
  stall();
  cpu::wait_at(cpu::At::WARP);  // wgmma's instructions are the whole warp's: no lane goes on alone
  auto& groups = engines.groups[cpu::now];
  const size_t ended = std::max(0, int(groups.size()) - 1 - PENDING);
  for (size_t g = 0; g < ended; ++g)
    for (size_t i = 0; i < groups[g].size(); ++i) multiply(groups[g][i], g, i);
  cpu::wait_at(cpu::At::WARP);  // registers of other lanes were read
  groups.erase(groups.begin(), groups.begin() + ended);
}

}  // namespace hopper
