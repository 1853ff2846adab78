// The fp8_linear ops' entry point: checks, tensor maps, the choice among the compiled tiles, the launch.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernel.cuh"
#include "registry.h"

namespace gemm8 {
namespace {

void require(bool holds, const std::string& expected) {
  if (!holds) throw std::invalid_argument("fp8_linear: expected " + expected);
}

using Kernel = void (*)(hopper::TensorMap, hopper::TensorMap, Args);
struct Compiled {
  int kind, bn, promote, bytes;
  Kernel kernel;
};
template <int BN, bool PROMOTE, class Out> constexpr Compiled compiled(int kind) {
  return {kind, BN, PROMOTE, Ring<BN>::BYTES, gemm<BN, PROMOTE, Out>};
}
enum Kind { BF16, F32, CODES };
const Compiled KERNELS[] = {
    compiled<256, true, bf16>(BF16),  compiled<160, true, bf16>(BF16),  compiled<128, true, bf16>(BF16),
    compiled<256, false, bf16>(BF16), compiled<160, false, bf16>(BF16), compiled<128, false, bf16>(BF16),
    compiled<256, true, e4m3>(CODES), compiled<128, true, e4m3>(CODES), compiled<256, false, e4m3>(CODES),
    compiled<128, false, e4m3>(CODES), compiled<128, true, float>(F32),
};

void check(const Args& g, int kind, bool promote) {
  const auto& [out, out_scale, row_scale, w_scale, b, x, gate, M, N] = g.e;
  require(M > 0 && g.K > 0 && g.K % 16 == 0, "M > 0 and K a multiple of 16, got M=" + std::to_string(M) + ", K=" + std::to_string(g.K));
  require(N > 0 && N % (kind == CODES ? GROUP : 8) == 0, "N a multiple of " + std::to_string(kind == CODES ? GROUP : 8) + ", got " + std::to_string(N));
  require(g.G == 1 || g.K % (g.G * BK) == 0, "one a_scale per token or groups that 128 divides, got K=" + std::to_string(g.K) + ", G=" + std::to_string(g.G));
  require(g.G == 1 || promote, "promote=1 with grouped a_scale, got promote=0");
  require(g.band > 0 && (g.side == 0 || g.side == 1), "band > 0 and side 0 or 1, got band=" + std::to_string(g.band) + ", side=" + std::to_string(g.side));
  for (const void* p : {(const void*)out, x, (const void*)w_scale, (const void*)b, (const void*)gate})
    require((uintptr_t)p % 16 == 0, "out, x, w_scale, b and gate aligned to 16 bytes");
}

}  // namespace
}  // namespace gemm8

// out [M, N] of `kind` (0 bf16, 1 float32, 2 e4m3 of GELU with out_scale [M, N / 128]); a8 [M, K], a_scale [M, G],
// w8 [N, K], w_scale [N]; b [N], x [M, N] like out and gate [N] may be null. bn, promote, band, side: NOTES.md; sms: how
// many multiprocessors to fill.
static void fp8_linear(void* out, float* out_scale, const void* a8, const float* a_scale, const void* w8,
                       const float* w_scale, const float* b, const void* x, const float* gate, int64_t M, int64_t N,
                       int64_t K, int64_t G, int64_t kind, int64_t bn, int64_t promote, int64_t band, int64_t side,
                       int64_t sms, cudaStream_t stream) {
  using namespace gemm8;
  Args g{{out, out_scale, G == 1 ? a_scale : nullptr, w_scale, b, x, gate, (int)M, (int)N},
         G == 1 ? nullptr : a_scale, (int)K, (int)G, (int)band, (int)side};
  check(g, (int)kind, promote);
  require((uintptr_t)a8 % 16 == 0 && (uintptr_t)w8 % 16 == 0, "a8 and w8 aligned to 16 bytes");
  const auto found = std::find_if(std::begin(KERNELS), std::end(KERNELS), [&](const Compiled& c) {
    return c.kind == kind && c.bn == bn && c.promote == promote;
  });
  require(found != std::end(KERNELS), "a compiled tile, got kind=" + std::to_string(kind) + ", bn=" + std::to_string(bn) +
                                   ", promote=" + std::to_string(promote));
  const auto a = hopper::tensor_map("fp8_linear: a8", a8, M, K, BM / 2);
  const auto w = hopper::tensor_map("fp8_linear: w8", w8, N, K, (int)bn / 2);
  const int tiles = Walk((int)M, (int)N, (int)bn, (int)band, (int)side).tiles();
  const int resident = hopper::resident_clusters(found->kernel, THREADS, found->bytes, CLUSTER);
  const int clusters = std::max(1, std::min({tiles, resident, (int)sms / CLUSTER}));
  la::launch(found->kernel, dim3(CLUSTER * clusters), THREADS, found->bytes, CLUSTER, stream, a, w, g);
}
LA_OP(fp8_linear)
