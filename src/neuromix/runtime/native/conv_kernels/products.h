// Products of real inputs and float weights.
#pragma once

#include "vectors.h"

namespace nmx {
namespace {  // see vectors.h

// As many outputs at once as leaves the sums of all pixels in registers.
constexpr std::size_t kAtOnce = kLanes == 16 ? 2 : 1;

template <std::size_t width>
void multiply(const float* const* x, const float* weights, std::size_t count, float* sums, std::size_t pitch) {
  for (std::size_t first = 0; first < width; first += kAtOnce * kLanes) {
    Floats sum[kPixels][kAtOnce];
    for (std::size_t p = 0; p < kPixels; ++p)
      for (std::size_t i = 0; i < kAtOnce; ++i) sum[p][i] = load<Floats>(sums + p * pitch + first + i * kLanes);
    for (std::size_t c = 0; c < count; ++c) {
      Floats row[kAtOnce];
      for (std::size_t i = 0; i < kAtOnce; ++i) row[i] = load<Floats>(weights + c * kTile + first + i * kLanes);
#pragma GCC unroll 8
      for (std::size_t p = 0; p < kPixels; ++p) {
        const Floats factor = broadcast(x[p][c]);
        for (std::size_t i = 0; i < kAtOnce; ++i) sum[p][i] = fused(factor, row[i], sum[p][i]);
      }
    }
    for (std::size_t p = 0; p < kPixels; ++p)
      for (std::size_t i = 0; i < kAtOnce; ++i) store(sums + p * pitch + first + i * kLanes, sum[p][i]);
  }
}

}  // namespace
}  // namespace nmx
