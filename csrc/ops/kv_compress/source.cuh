// Which row of the window an output of an entry reads. Host and device: tests compare it with the reference's reshapes.
#pragma once

#include "casts.cuh"

namespace kv_compress_op {

constexpr int TAPS = 5, ENTRIES = 8;

struct Entry {
  int32_t slot, count, reads_memory;
  int32_t source[TAPS];
};

// Raster: output j reads flat rows count*j + tap of the sources put end to end. Temporal: row j of source `tap`.
struct Source {
  int nth, row;

  LA_HD Source(int j, int count, int tokens, bool raster) {
    nth = raster ? j * count / tokens : 0;
    row = raster ? j * count - nth * tokens : j;
  }

  LA_HD void next(int tokens, bool raster) {
    if (!raster) ++nth;
    else if (++row == tokens) row = 0, ++nth;
  }
};

}  // namespace kv_compress_op
