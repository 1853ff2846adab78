// The fp8_linear ops' entry point: checks, tensor maps, the choice among the compiled tiles, the launch.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernel.cuh"
#include "registry.h"

namespace gemm8 {
namespace {

void require(bool holds, const char* expected, int64_t got) {
  if (!holds)
    throw std::invalid_argument(std::string("fp8_linear: expected ") + expected + ", got " + std::to_string(got));
}

using Kernel = void (*)(hopper::TensorMap, hopper::TensorMap, Args);
struct Compiled {
  int kind, bn, promote, bytes;
  Kernel kernel;
};
template <int BN, bool PROMOTE, class Out>
constexpr Compiled compiled(int kind) {
  return {kind, BN, PROMOTE, Ring<BN>::BYTES, gemm<BN, PROMOTE, Out>};
}
enum Kind { BF16, F32, CODES };
const Compiled KERNELS[] = {
    compiled<256, true, bf16>(BF16),  compiled<160, true, bf16>(BF16),  compiled<128, true, bf16>(BF16),
    compiled<256, false, bf16>(BF16), compiled<160, false, bf16>(BF16), compiled<128, false, bf16>(BF16),
    compiled<256, true, e4m3>(CODES), compiled<128, true, e4m3>(CODES), compiled<256, false, e4m3>(CODES),
    compiled<128, false, e4m3>(CODES), compiled<128, true, float>(F32),
};

void check(const Args& g, Kind kind, bool promote, const void* a8, const void* w8) {
  const auto& [out, out_scale, row_scale, w_scale, b, x, gate, M, N] = g.e;
  const int columns = kind == CODES ? GROUP : 8;
  require(M > 0, "M of 1 or more", M);
  require(g.K > 0 && g.K % 16 == 0, "K a multiple of 16", g.K);
  require(N > 0 && N % columns == 0, kind == CODES ? "N a multiple of 128" : "N a multiple of 8", N);
  require(g.G == 1 || g.K % (g.G * BK) == 0, "a_scale of one group or of groups that 128 divides", g.G);
  require(g.G == 1 || promote, "promote=1 with grouped a_scale", promote);
  require(g.band > 0, "band of 1 or more", g.band);
  require(g.side == 0 || g.side == 1, "side 0 or 1", g.side);
  for (const void* p : {a8, w8, (const void*)out, x, (const void*)w_scale, (const void*)b, (const void*)gate})
    require((uintptr_t)p % 16 == 0, "a8, w8, out, x, w_scale, b and gate aligned to 16 bytes", (int64_t)(uintptr_t)p);
}

}  // namespace
}  // namespace gemm8

// out [M, N] of `kind` (0 bf16, 1 float32, 2 e4m3 of GELU with out_scale [M, N / 128]); a8 [M, K], a_scale [M, G],
// w8 [N, K], w_scale [N]; b [N], x [M, N] like out and gate [N] may be null. bn, promote, band, side: NOTES.md;
// sms: how many multiprocessors to fill.
static void fp8_linear(void* out, float* out_scale, const void* a8, const float* a_scale, const void* w8,
                       const float* w_scale, const float* b, const void* x, const float* gate, int64_t M, int64_t N,
                       int64_t K, int64_t G, int64_t kind, int64_t bn, int64_t promote, int64_t band, int64_t side,
                       int64_t sms, cudaStream_t stream) {
  using namespace gemm8;
  const bool grouped = G != 1;
  const Args g{{out, out_scale, grouped ? nullptr : a_scale, w_scale, b, x, gate, (int)M, (int)N},
               grouped ? a_scale : nullptr, (int)K, (int)G, (int)band, (int)side};
  check(g, (Kind)kind, promote, a8, w8);
  const auto found = std::find_if(std::begin(KERNELS), std::end(KERNELS), [&](const Compiled& c) {
    return c.kind == kind && c.bn == bn && c.promote == promote;
  });
  require(found != std::end(KERNELS), "a compiled tile for this output, NOTES.md, as bn", bn);
  const auto a = hopper::tensor_map("fp8_linear: a8", a8, M, K, BM / 2);
  const auto w = hopper::tensor_map("fp8_linear: w8", w8, N, K, (int)bn / 2);
  const int tiles = Walk((int)M, (int)N, (int)bn, (int)band, (int)side).tiles();
  const int resident = hopper::resident_clusters(found->kernel, THREADS, found->bytes, CLUSTER);
  const int clusters = std::max(1, std::min({tiles, resident, (int)sms / CLUSTER}));
  la::launch(found->kernel, dim3(CLUSTER * clusters), THREADS, found->bytes, CLUSTER, stream, a, w, g);
}
LA_OP(fp8_linear)
