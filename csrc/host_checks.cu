// The pieces that kernels share, run on the host for tests/test_csrc.py: addresses are the CPU's, there is no stream.
#include <stdexcept>

#include "casts.cuh"
#include "ops/kv_compress/source.cuh"
#include "registry.h"
#include "rope.cuh"

namespace {

template <class Store>
void there_and_back(const float* x, void* codes, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += 8) {
    float eight[8];
    la::load8(x + i, eight);
    const auto word = Store::pack(eight);
    static_cast<typename Store::Word*>(codes)[i / 8] = word;
    Store::unpack(word, eight);
    for (int c = 0; c < 8; ++c) y[i + c] = eight[c];
  }
}

// n floats (a multiple of 8) -> codes of kind 0 bf16, 1 int8, 2 e4m3 -> the floats that the codes stand for.
void host_cast(const float* x, void* codes, float* y, int64_t n, int64_t kind) {
  if (kind == 0) there_and_back<la::Bf16>(x, codes, y, n);
  else if (kind == 1) there_and_back<la::Int8>(x, codes, y, n);
  else if (kind == 2) there_and_back<la::E4m3>(x, codes, y, n);
  else throw std::invalid_argument("host_cast: expected kind 0, 1 or 2");
}

template <class Store>
void scales(const float* largest, float* scale, float* inverse, int64_t n) {
  for (int64_t i = 0; i < n; ++i) scale[i] = Store::scale(largest[i]), inverse[i] = Store::inverse(scale[i]);
}

// Largest magnitudes of n groups -> their scales and what to multiply by, for codes of kind 1 int8 or 2 e4m3.
void host_scale(const float* largest, float* scale, float* inverse, int64_t n, int64_t kind) {
  if (kind == 1) scales<la::Int8>(largest, scale, inverse, n);
  else if (kind == 2) scales<la::E4m3>(largest, scale, inverse, n);
  else throw std::invalid_argument("host_scale: expected kind 1 or 2");
}

// x [n, 8] turned by (cos, sin) pairs turn [n, 8], in place.
void host_rotate(float* x, const float* turn, int64_t n, int64_t inverse) {
  for (int64_t i = 0; i < n; ++i) {
    float eight[8], angle[8];
    la::load8(x + 8 * i, eight), la::load8(turn + 8 * i, angle);
    if (inverse) la::rotate<true>(eight, angle);
    else la::rotate<false>(eight, angle);
    for (int c = 0; c < 8; ++c) x[8 * i + c] = eight[c];
  }
}

// rows [tokens, count, 2]: which of an entry's sources, and which token of it, each tap of each output reads.
void host_sources(int64_t* rows, int64_t tokens, int64_t count, int64_t raster) {
  for (int64_t j = 0; j < tokens; ++j) {
    kv_compress_op::Source at(int(j), int(count), int(tokens), raster != 0);
    for (int64_t tap = 0; tap < count; ++tap, at.next(int(tokens), raster != 0)) *rows++ = at.nth, *rows++ = at.row;
  }
}

}  // namespace

LA_OP(host_cast)
LA_OP(host_scale)
LA_OP(host_rotate)
LA_OP(host_sources)
