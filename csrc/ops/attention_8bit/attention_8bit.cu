// attention_8bit's entry point: checks, tensor maps, the launch.
#include <cmath>
#include <stdexcept>
#include <string>

#include "kernel.cuh"
#include "registry.h"

namespace attention8 {
namespace {

void require(bool holds, const char* expected, int64_t got) {
  if (!holds)
    throw std::invalid_argument(std::string("attention_8bit: expected ") + expected + ", got " + std::to_string(got));
}

enum Kind { BF16, F32, CODES };

Maps maps_of(const void* q, const void* const (&k)[2], const void* const (&v)[2], const Args& g) {
  const int64_t wide = (int64_t)g.o.H * D;
  Maps maps;
  maps.q = hopper::tensor_map("attention_8bit: q", q, g.o.L, wide, BM);
  const Segment* parts[2] = {&g.memory, &g.block};
  for (int i = 0; i < 2; ++i) {
    const int from = parts[i]->keys ? i : 1;  // without memory its maps are never read
    const Segment& s = *parts[from];
    maps.k[i] = hopper::tensor_map(from ? "attention_8bit: k_new" : "attention_8bit: k_mem", k[from], s.keys, wide, BN);
    maps.v[i] = hopper::tensor_map(from ? "attention_8bit: v_new" : "attention_8bit: v_mem", v[from], wide, s.width, D);
  }
  return maps;
}

template <class Out>
void start(const Maps& maps, const Args& g, cudaStream_t stream) {
  (void)hopper::resident_clusters(kernel<Out>, THREADS, Ring::BYTES, 1);  // asks for the shared memory, once
  la::launch(kernel<Out>, dim3((g.o.L + BM - 1) / BM, g.o.H), THREADS, Ring::BYTES, 1, stream, maps, g);
}

}  // namespace
}  // namespace attention8

// out [L, H, 128] of `kind` (0 bf16, 1 float32, 2 e4m3 with out_scale [L, H]); q [L, H, 128] int8, q_scale [L, H]; of the
// memory (keys 0 and null without) and of the block: k [keys, H, 128] int8, k_scale [H, width], v [H, 128, width] e4m3,
// v_scale [H, width / 128], width being keys rounded up to 128.
static void attention_8bit(void* out, float* out_scale, const void* q, const float* q_scale, const void* k_new,
                           const float* k_new_scale, const void* v_new, const float* v_new_scale, const void* k_mem,
                           const float* k_mem_scale, const void* v_mem, const float* v_mem_scale, int64_t L, int64_t H,
                           int64_t R, int64_t P, int64_t kind, cudaStream_t stream) {
  using namespace attention8;
  require(L > 0, "L of 1 or more", L);
  require(R > 0, "R of 1 or more", R);
  require(P >= 0, "P of 0 or more", P);
  require(H > 0 && H < 65536, "H of 1 to 65535", H);
  require(kind >= BF16 && kind <= CODES, "kind 0, 1 or 2", kind);
  for (const void* p : {q, k_new, v_new, k_mem, v_mem, (const void*)k_new_scale, (const void*)k_mem_scale, (const void*)out})
    require((uintptr_t)p % 16 == 0, "q, k, v, k scales and out aligned to 16 bytes", (int64_t)(uintptr_t)p);
  const auto width = [](int64_t keys) { return (int)((keys + BN - 1) / BN * BN); };
  const Args g{{out, out_scale, (int)L, (int)H}, q_scale, {k_mem_scale, v_mem_scale, (int)P, width(P)},
               {k_new_scale, v_new_scale, (int)R, width(R)}, (float)(M_LOG2E / std::sqrt((double)D))};
  const Maps maps = maps_of(q, {k_mem, k_new}, {v_mem, v_new}, g);
  if (kind == BF16) start<bf16>(maps, g, stream);
  else if (kind == F32) start<float>(maps, g, stream);
  else start<e4m3>(maps, g, stream);
}
LA_OP(attention_8bit)
