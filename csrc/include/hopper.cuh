// The sm_90a instructions of a GEMM, one function each: barriers in shared memory, tensor copies, warpgroup products
// (PTX ISA: mbarrier, cp.async.bulk.tensor, wgmma, setmaxnreg). tests/cuda_on_cpu has a file of this name that runs the
// same kernels on the CPU, so a kernel that uses this has no assembly of its own.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "device.cuh"

namespace hopper {

using TensorMap = CUtensorMap;

// cuTensorMapEncodeTiled belongs to the driver: asked for at run time, so that nothing links to libcuda.
inline auto encoder(const std::string& what) {
  static const auto encode = [&] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult status;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status);
    if (error != cudaSuccess || !found)
      throw std::runtime_error(what + ": the driver offers no tensor maps: " + cudaGetErrorString(error));
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  return encode;
}

// Bytes in RANK dimensions, the first of them adjacent, the others `pitch` bytes apart (multiples of 16); copied in boxes
// whose rows of 64 or 128 bytes are swizzled over their own width. Outside the tensor they are 0. Throws what the driver
// says against it, after `what`, the op and the argument.
template <int RANK>
TensorMap tensor_map(const std::string& what, const void* base, const int64_t (&sizes)[RANK],
                     const int64_t (&pitch)[RANK - 1], const int (&box)[RANK]) {
  TensorMap map;
  cuuint64_t size[RANK], apart[RANK - 1];
  cuuint32_t boxes[RANK], steps[RANK];
  std::string shape;
  for (int i = 0; i < RANK; ++i) {
    size[i] = (cuuint64_t)sizes[i], boxes[i] = (cuuint32_t)box[i], steps[i] = 1;
    shape = std::to_string(sizes[i]) + (i ? ", " : "") + shape;
  }
  for (int i = 0; i < RANK - 1; ++i) apart[i] = (cuuint64_t)pitch[i];
  const CUresult result =
      encoder(what)(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, RANK, const_cast<void*>(base), size, apart, boxes, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, box[0] == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw std::runtime_error(what + ": no tensor map of [" + shape + "] bytes: driver error " + std::to_string(result));
  return map;
}

// The same of a matrix [rows, columns] whose columns are adjacent, in boxes of [box_rows, 128].
inline TensorMap tensor_map(const std::string& what, const void* base, int64_t rows, int64_t columns, int box_rows) {
  return tensor_map<2>(what, base, {columns, rows}, {columns}, {128, box_rows});
}

// Ask for the dynamic shared memory of a kernel, and how many clusters of it run at a time: a persistent kernel that
// starts more would make the rest wait for a whole turn. Asked once per thread, kernel and device; 0 after an error,
// which the launch repeats.
template <class... P>
int resident_clusters(void (*kernel)(P...), unsigned threads, int bytes, unsigned cluster) {
  static thread_local std::map<std::pair<const void*, int>, int> known;
  int device = 0;
  (void)cudaGetDevice(&device);
  int& count = known[{(const void*)kernel, device}];
  if (count) return count;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster, attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(cluster), config.blockDim = dim3(threads), config.dynamicSmemBytes = bytes;
  config.attrs = &attribute, config.numAttrs = 1;
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess ||
      cudaOccupancyMaxActiveClusters(&count, kernel, &config) != cudaSuccess)
    count = 0;
  return count;
}

#ifdef __CUDACC__

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}

__device__ __forceinline__ bool one_lane() {
  uint32_t yes;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(yes));
  return yes;
}

template <int REGISTERS>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// A value that all lanes share, in a register for good: without this the compiler makes addresses anew in every step.
__device__ __forceinline__ uint32_t kept(uint32_t x) { return __shfl_sync(0xffffffffu, x, 0); }

// The same value, of which the compiler knows nothing: what is made of it inside a loop stays there, instead of in
// registers all the while.
__device__ __forceinline__ uint32_t unknown(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

// 2^x and 1 / x to 2 units in the last place; what would be subnormal is 0, and no range is handled apart.
__device__ __forceinline__ float fast_exp2(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
__device__ __forceinline__ float fast_reciprocal(float x) {
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}

// Four numbers as e4m3 codes, the first one lowest; to nearest even, saturating.
__device__ __forceinline__ uint32_t e4m3_word(float a, float b, float c, float d) {
  uint32_t word;
  asm("{\n.reg .b16 low, high;\ncvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\ncvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n}"
      : "=r"(word)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return word;
}

// ---- barriers in shared memory, by address ---------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(uint32_t bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

// Makes the initialised barriers visible to the other block and to the copy engine.
__device__ __forceinline__ void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(bar), "r"(parity)
        : "memory");
  } while (!done);
}

// One arrival that also announces how many bytes the copy engine will bring in this phase.
__device__ __forceinline__ void barrier_expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
               : "memory");
}

// One arrival at the same barrier of block `rank` of the cluster. Without qualifiers, as a release among this block's
// threads: .release.cluster puts two MEMBARs and an ERRBAR into the loop, and nothing here is published by it. A stage
// that was only read is given back, and the copy that then writes it is ordered by the barrier itself.
__device__ __forceinline__ void barrier_arrive(uint32_t bar, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(bar),
      "r"(rank)
      : "memory");
}

// One arrival at a barrier of this block.
__device__ __forceinline__ void barrier_arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

// What this thread wrote to shared memory is there for the copy engine and the tensor cores, after the next barrier.
__device__ __forceinline__ void shared_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- copies ----------------------------------------------------------------------------------------------------

// 16 adjacent bytes to global memory, if `here`: one instruction and no branch, which the compiler would otherwise make
// several of, with all that may be kept across a store that may not happen.
__device__ __forceinline__ void store_words(void* to, const uint32_t (&w)[4], bool here) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n@p st.global.v4.b32 [%0], {%1, %2, %3, %4};\n}" ::"l"(to),
               "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"((int)here)
               : "memory");
}

// Two floats of shared memory, read at each use: the compiler would keep what is read twice in registers meanwhile.
__device__ __forceinline__ float2 read_pair(const float* from) {
  float2 pair;
  asm volatile("ld.volatile.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(shared_address(from)));
  return pair;
}

__device__ __forceinline__ void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// 16 bytes from global to shared memory, not waited for; words_wait waits for all of this thread's.
__device__ __forceinline__ void copy_words(float* to, const float* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void words_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// The map's box at (row, column) into shared memory; `both` writes it at the same place of both blocks and completes
// the same barrier of each.
__device__ __forceinline__ void copy_box(const TensorMap* map, void* to, uint32_t bar, int column, int row,
                                         bool both) {
  if (both)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
        "l"(map), "r"(bar), "r"(column), "r"(row), "h"((uint16_t)3)
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
        "l"(map), "r"(bar), "r"(column), "r"(row)
        : "memory");
}

// The box of a map of four dimensions, `first` the innermost.
__device__ __forceinline__ void copy_box(const TensorMap* map, void* to, uint32_t bar, int first, int second, int third,
                                         int fourth) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(bar), "r"(first), "r"(second), "r"(third), "r"(fourth)
      : "memory");
}

// `bytes` adjacent bytes; both addresses and the count are multiples of 16.
__device__ __forceinline__ void copy_row(const void* from, void* to, uint32_t bar, uint32_t bytes) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(bar)
               : "memory");
}

// ---- warpgroup products ----------------------------------------------------------------------------------------

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// The compiler shall think that these are read and changed here.
template <int COUNT>
__device__ __forceinline__ void touch(float (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <class T, int COUNT>
__device__ __forceinline__ void touch(T (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// Until at most PENDING groups run; `of` are the registers that those which end have written or read.
template <int PENDING, class... T>
__device__ __forceinline__ void products_wait(T&... of) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
  (touch(of), ...);
}

#define NAMES(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define REGS(t) \
  "+f"(d[t##0]), "+f"(d[t##1]), "+f"(d[t##2]), "+f"(d[t##3]), "+f"(d[t##4]), "+f"(d[t##5]), "+f"(d[t##6]), \
      "+f"(d[t##7]), "+f"(d[t##8]), "+f"(d[t##9])
#define WGMMA_OF(shape, names, a, b, add, rest) \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned." shape " {" names "}, " a ", " b \
  ", p, 1, 1" rest ";\n}"
#define WGMMA(n, names, a, b, add) WGMMA_OF("m64n" n "k32.f32.e4m3.e4m3", names, a, b, add, "")
#define WGMMA_BF16(n, names, a, b, add) WGMMA_OF("m64n" n "k16.f32.bf16.bf16", names, a, b, add, ", 0, 0")

// d (64 x N over the warpgroup) = a (64 x 32) times b (N x 32) transposed, plus d when `add`; a and b shared-memory
// operands as PTX describes them.
template <int N>
__device__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add);

template <>
__device__ __forceinline__ void wgmma<128>(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(WGMMA("128", NAMES() NAMES(1) NAMES(2) NAMES(3) NAMES(4) NAMES(5) "%60,%61,%62,%63", "%64", "%65", "%66")
               : REGS(), REGS(1), REGS(2), REGS(3), REGS(4), REGS(5), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
               : "l"(a), "l"(b), "r"((int)add));
}
template <>
__device__ __forceinline__ void wgmma<160>(float (&d)[80], uint64_t a, uint64_t b, bool add) {
  asm volatile(WGMMA("160", NAMES() NAMES(1) NAMES(2) NAMES(3) NAMES(4) NAMES(5) NAMES(6)
                            "%70,%71,%72,%73,%74,%75,%76,%77,%78,%79", "%80", "%81", "%82")
               : REGS(), REGS(1), REGS(2), REGS(3), REGS(4), REGS(5), REGS(6), REGS(7)
               : "l"(a), "l"(b), "r"((int)add));
}
template <>
__device__ __forceinline__ void wgmma<256>(float (&d)[128], uint64_t a, uint64_t b, bool add) {
  asm volatile(WGMMA("256", NAMES() NAMES(1) NAMES(2) NAMES(3) NAMES(4) NAMES(5) NAMES(6) NAMES(7) NAMES(8) NAMES(9)
                            NAMES(10) NAMES(11) "%120,%121,%122,%123,%124,%125,%126,%127", "%128", "%129", "%130")
               : REGS(), REGS(1), REGS(2), REGS(3), REGS(4), REGS(5), REGS(6), REGS(7), REGS(8), REGS(9), REGS(10),
                 REGS(11), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]),
                 "+f"(d[126]), "+f"(d[127])
               : "l"(a), "l"(b), "r"((int)add));
}
// The same with a (64 x 32) in registers: words of four adjacent columns, of rows g and g + 8, then 16 columns on
// (PTX ISA, "A fragment" of 8-bit operands; g is a lane's quad). They must not change until the product has ended.
template <int N>
__device__ void wgmma(float (&d)[N / 2], const uint32_t* a, uint64_t b, bool add);

template <>
__device__ __forceinline__ void wgmma<136>(float (&d)[68], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(WGMMA("136", NAMES() NAMES(1) NAMES(2) NAMES(3) NAMES(4) NAMES(5)
                            "%60,%61,%62,%63,%64,%65,%66,%67", "{%68,%69,%70,%71}", "%72", "%73")
               : REGS(), REGS(1), REGS(2), REGS(3), REGS(4), REGS(5), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
                 "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}

// d (64 x N) = a (64 x 16) times b (N x 16) transposed of bf16, plus d when `add`; operands in shared memory, the 16
// channels adjacent.
template <int N>
__device__ void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool add);

template <>
__device__ __forceinline__ void wgmma_bf16<24>(float (&d)[12], uint64_t a, uint64_t b, bool add) {
  asm volatile(WGMMA_BF16("24", NAMES() "%10,%11", "%12", "%13", "%14")
               : REGS(), "+f"(d[10]), "+f"(d[11])
               : "l"(a), "l"(b), "r"((int)add));
}
template <>
__device__ __forceinline__ void wgmma_bf16<96>(float (&d)[48], uint64_t a, uint64_t b, bool add) {
  asm volatile(WGMMA_BF16("96", NAMES() NAMES(1) NAMES(2) NAMES(3) "%40,%41,%42,%43,%44,%45,%46,%47", "%48", "%49", "%50")
               : REGS(), REGS(1), REGS(2), REGS(3), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]),
                 "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
               : "l"(a), "l"(b), "r"((int)add));
}
template <>
__device__ __forceinline__ void wgmma_bf16<192>(float (&d)[96], uint64_t a, uint64_t b, bool add) {
  asm volatile(WGMMA_BF16("192", NAMES() NAMES(1) NAMES(2) NAMES(3) NAMES(4) NAMES(5) NAMES(6) NAMES(7) NAMES(8)
                                 "%90,%91,%92,%93,%94,%95", "%96", "%97", "%98")
               : REGS(), REGS(1), REGS(2), REGS(3), REGS(4), REGS(5), REGS(6), REGS(7), REGS(8), "+f"(d[90]),
                 "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
               : "l"(a), "l"(b), "r"((int)add));
}
#undef REGS
#undef WGMMA
#undef WGMMA_BF16
#undef WGMMA_OF

// int8 operands, exact sums.
#define REGS(t) \
  "+r"(d[t##0]), "+r"(d[t##1]), "+r"(d[t##2]), "+r"(d[t##3]), "+r"(d[t##4]), "+r"(d[t##5]), "+r"(d[t##6]), \
      "+r"(d[t##7]), "+r"(d[t##8]), "+r"(d[t##9])
template <int N>
__device__ void wgmma(int (&d)[N / 2], uint64_t a, uint64_t b, bool add);

template <>
__device__ __forceinline__ void wgmma<128>(int (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" NAMES() NAMES(1)
          NAMES(2) NAMES(3) NAMES(4) NAMES(5) "%60,%61,%62,%63}, %64, %65, p;\n}"
      : REGS(), REGS(1), REGS(2), REGS(3), REGS(4), REGS(5), "+r"(d[60]), "+r"(d[61]), "+r"(d[62]), "+r"(d[63])
      : "l"(a), "l"(b), "r"((int)add));
}
#undef NAMES
#undef REGS

#endif

}  // namespace hopper
