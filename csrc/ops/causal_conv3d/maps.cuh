// Where things are: the walk over tiles, the stages of a tile, the pixels of a fragment.
#pragma once
#include "fragments.cuh"

#define LA_HD __host__ __device__ __forceinline__

namespace conv {

constexpr int PIXELS = 256;      // of a block's tile: two warpgroups of two 64-pixel products each
constexpr int BK = 32, ROW = 64;  // channels of a stage, and their bytes: one swizzled row
constexpr int FEW = 24;  // columns of a tile for at most 8 output channels: 8 for each horizontal tap
using hopper::BARRIER, hopper::fragment_column, hopper::fragment_row, hopper::Turn, hopper::WARPGROUP;

LA_HD constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Frames of H x W pixels and C channels, N channels out; a tile's patch is pw pixels wide, a power of two. Of an upsampling
// convolution a tile is the 2 x 2 outputs of a quarter of the pixels.
struct Shape {
  int F, H, W, C, N, KT, pw_bits;
  LA_HD int pw() const { return 1 << pw_bits; }
};

struct Origin {
  int frame, y, x, n;  // in pixels and channels
};

// Pixels across a patch that a tile makes: the sums of FEW columns want their right neighbours'.
LA_HD int made(const Shape& s, int bn) { return bn == FEW ? s.pw() - 2 : s.pw(); }

// How many tiles there are; made on the host, since a kernel would keep all of it in registers.
struct Grid {
  int frames, parts, columns, inside;  // parts of the channels; tiles of a row and of a frame
  int bn, high, wide;                  // channels and pixels that a tile makes

  Grid(const Shape& s, int bn, int patch)
      : frames(s.F), parts(ceil_div(s.N, bn)), columns(ceil_div(s.W, made(s, bn))),
        inside(parts * columns * ceil_div(s.H, patch >> s.pw_bits)), bn(bn), high(patch >> s.pw_bits),
        wide(made(s, bn)) {}
};

// The tiles of one block. All blocks make `width` neighbouring tiles of a frame, then the same ones of every other frame,
// before they go on: what a tap reads of earlier frames is still in L2. Channels change fastest. The last tiles of the
// frames may be fewer, and go to the blocks in turn.
struct Walk {
  const Grid& g;
  int block, width, first, within;  // first tile of those `width`; place among them and their copies in other frames
  bool here;                        // there is a tile
  Origin at;

  LA_HD Walk(const Grid& g, int block, int width) : g(g), block(block), width(width), first(0), within(block) { find(); }
  LA_HD void next() {
    if (g.inside - first < width) within += width;
    else if (++at.frame < g.frames) return;  // no division
    else first += width, within = block;
    find();
  }

 private:
  LA_HD void find() {
    const int count = g.inside - first < width ? g.inside - first : width;
    here = within < g.frames * count;
    if (!here) return;
    const int tile = first + within % count, pixel = tile / g.parts;
    at = {within / count, pixel / g.columns * g.high, pixel % g.columns * g.wide, tile % g.parts * g.bn};
  }
};

// The time taps of a frame that read something: before the first frame there may be nothing.
LA_HD int first_tap(const Shape& s, int frame, bool history) { return history ? 0 : s.KT - 1 > frame ? s.KT - 1 - frame : 0; }
LA_HD int steps(const Shape& s, int bn, int frame, bool history) {
  return (s.KT - first_tap(s, frame, history)) * (s.C / BK) * (bn == FEW ? 1 : 3);
}

// What a tap (0, 1 or 2) of an enlarged picture reads for outputs of one parity: pixels from the output's own.
LA_HD constexpr int shift(int tap, int parity) { return (tap + parity + 1) / 2 - 1; }

}  // namespace conv
