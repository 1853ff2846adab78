// The entry points of causal_conv3d and upsample_conv: checks, tensor maps, the choice among the compiled tiles, the launch.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernel.cuh"
#include "registry.h"

namespace conv {
namespace {

void require(const char* op, bool holds, const char* expected, int64_t got) {
  if (!holds) throw std::invalid_argument(std::string(op) + ": expected " + expected + ", got " + std::to_string(got));
}

// 3, 4 or 5 for patches that are 8, 16 or 32 pixels wide.
int bits(const char* op, int64_t pw) {
  require(op, pw == 8 || pw == 16 || pw == 32, "pw 8, 16 or 32", pw);
  return pw == 8 ? 3 : pw == 16 ? 4 : 5;
}

void check(const char* op, const Shape& s, int enlarged, std::initializer_list<const void*> pointers) {
  require(op, s.F > 0, "F of 1 or more", s.F);
  require(op, s.H > 0, "H of 1 or more", s.H);
  require(op, s.W > 0, "W of 1 or more", s.W);
  require(op, s.C > 0 && s.C % BK == 0, "C a multiple of 32", s.C);
  require(op, s.KT == 1 || s.KT == 3, "KT 1 or 3", s.KT);
  const int64_t count = (int64_t)s.F * s.H * s.W * enlarged * s.N;
  require(op, count < 1ll << 31, "an output of fewer than 2^31 numbers", count);
  for (const void* p : pointers)
    require(op, (uintptr_t)p % 16 == 0, "tensors aligned to 16 bytes", (int64_t)(uintptr_t)p);
}

// Frames [F, H, W, C] as boxes of 32 channels, pw pixels and `rows` rows.
hopper::TensorMap frames_map(const std::string& what, const void* base, int64_t frames, const Shape& s, int rows) {
  const int64_t line = (int64_t)2 * s.C;
  return hopper::tensor_map<4>(what, base, {line, s.W, s.H, frames}, {line, line * s.W, line * s.W * s.H},
                               {ROW, s.pw(), rows, 1});
}

template <int BN, bool UP>
void start(const std::string& op, const void* x, const void* prev, const void* w, const Output& e, const Shape& s,
           int64_t sms, cudaStream_t stream) {
  using R = Ring<BN, UP>;
  const Args g{e, s, Grid(s, BN, R::PATCH), prev && s.KT > 1};
  const int rows = R::PATCH / s.pw() + 2;
  const int64_t line = (int64_t)2 * 9 * s.KT * s.C;
  Maps maps;
  maps.x = frames_map(op + ": x", x, s.F, s, rows);
  maps.prev = g.history ? frames_map(op + ": prev", prev, s.KT - 1, s, rows) : maps.x;  // without it never read
  maps.w = hopper::tensor_map<2>(op + ": w", w, {line, s.N}, {line}, {ROW, R::BOX});
  const int resident = hopper::resident_clusters(kernel<BN, UP>, THREADS, R::BYTES, 1);
  const int blocks = std::max(1, std::min({g.grid.frames * g.grid.inside, resident, (int)sms}));
  la::launch(kernel<BN, UP>, dim3(blocks), THREADS, R::BYTES, 1, stream, maps, g);
}

}  // namespace
}  // namespace conv

// bf16: out [F, H, W, N], x [F, H, W, C], w [N, 3, 3, KT, C], bias [N]; prev [KT - 1, H, W, C] and residual like out may
// be null. pw: pixels across a tile, NOTES.md; sms: how many multiprocessors to fill.
static void causal_conv3d(void* out, const void* x, const void* w, const void* bias, const void* prev,
                          const void* residual, int64_t F, int64_t H, int64_t W, int64_t C, int64_t N, int64_t KT,
                          int64_t pw, int64_t sms, cudaStream_t stream) {
  using namespace conv;
  const char* op = "causal_conv3d";
  const Output e{(bf16*)out, (const bf16*)bias, (const bf16*)residual};
  const Shape s{(int)F, (int)H, (int)W, (int)C, (int)N, (int)KT, bits(op, pw)};
  check(op, s, 1, {out, x, w, bias, prev, residual});
  require(op, N > 0 && N <= MOST && (N <= 8 || N % 96 == 0), "N of 1 to 8, 96, 192, 288 or 384", N);
  require(op, N > 8 || pw == 16, "pw 16 with 8 output channels or fewer", pw);
  if (N <= 8) start<FEW, false>(op, x, prev, w, e, s, sms, stream);
  else if (N % 192) start<96, false>(op, x, prev, w, e, s, sms, stream);
  else start<192, false>(op, x, prev, w, e, s, sms, stream);
}
LA_OP(causal_conv3d)

// bf16: out [F, 2 H, 2 W, N], x [F, H, W, C], w [N, 3, 3, C], bias [N].
static void upsample_conv(void* out, const void* x, const void* w, const void* bias, int64_t F, int64_t H, int64_t W,
                          int64_t C, int64_t N, int64_t pw, int64_t sms, cudaStream_t stream) {
  using namespace conv;
  const char* op = "upsample_conv";
  const Output e{(bf16*)out, (const bf16*)bias, nullptr};
  const Shape s{(int)F, (int)H, (int)W, (int)C, (int)N, 1, bits(op, pw)};
  check(op, s, 4, {out, x, w, bias});
  require(op, N > 0 && N <= MOST && N % 96 == 0, "N of 96, 192, 288 or 384", N);
  if (N % 192) start<96, true>(op, x, nullptr, w, e, s, sms, stream);
  else start<192, true>(op, x, nullptr, w, e, s, sms, stream);
}
LA_OP(upsample_conv)
