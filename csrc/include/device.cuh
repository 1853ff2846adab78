// What only a GPU has: the launch, dynamic shared memory, the cluster's barrier, the warp's reductions.
// tests/cuda_on_cpu has a file of this name that runs the same kernels as fibers on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace la {

// Enqueue kernel(args...); grid.x is cut into clusters of `cluster` blocks. Errors show in cudaGetLastError.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, unsigned cluster, cudaStream_t stream,
            const A&... args) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &attribute, config.numAttrs = cluster > 1;
  (void)cudaLaunchKernelEx(&config, kernel, args...);
}

// Multiprocessors of the current device, asked once per device.
inline int multiprocessors() {
  static int counts[64] = {};
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= 64) return 1;
  if (counts[device] == 0 &&
      cudaDeviceGetAttribute(&counts[device], cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    return 1;
  return counts[device];
}

#ifdef __CUDACC__

template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char la_shared[];
  return reinterpret_cast<T*>(la_shared);
}

// All threads of the cluster arrive, then all may pass; what was read or written before stays before. Not the aligned
// forms: lanes of a warp may come here from different branches.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
// The same without order of memory, for what was only read: a value that has come is not changed by who stores later. A
// release would wait in MEMBARs for the stores of every earlier chunk. tests/test_csrc_sass.py: the loads have returned.
__device__ __forceinline__ void cluster_arrive_read() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

#endif

}  // namespace la
