// Depthwise convolutions.
#pragma once

#include "vectors.h"

namespace nmx {
namespace {  // see vectors.h

// The depthwise kernels for a vector of channels. Where outputs lie side by side, an input serves all that see it.
// kColumns: of the kernel, where it is known beforehand, else 0.
template <std::size_t kOutputs, std::size_t kColumns, typename Sums, typename T, typename Weight>
void slide(const Window& window, const Weight* weights, const T* const* rows, const Sums& sums) {
  const std::size_t columns = kColumns ? kColumns : window.columns, dilation = kColumns ? 1 : window.dilation;
  const std::size_t first = std::size_t(window.first), width = window.width, pitch = window.pitch;
  using Vector = typename Sums::Vector;
  Vector sum[kOutputs];
  for (std::size_t p = 0; p < kOutputs; ++p)
    sum[p] = p < window.outputs ? sums.begin(p * window.sums_pitch) : Vector{};
  for (std::size_t row = 0; row < window.rows; ++row, weights += columns * kTile) {
    if (!rows[row]) continue;
    Vector weight[kColumns + 1];  // of the row, where as many stay in registers
    for (std::size_t k = 0; k < kColumns; ++k) weight[k] = load<Vector>(weights + k * kTile);
#pragma GCC unroll 16
    for (std::size_t j = 0; j < columns + kOutputs - 1; ++j) {
      const std::size_t column = first + j * dilation;  // left of the map it is huge
      if (column >= width) continue;
      const auto x = sums.read(rows[row] + column * pitch);
#pragma GCC unroll 8
      for (std::size_t p = 0; p < kOutputs; ++p)
        if (j - p < columns)
          sum[p] = sums.add(x, kColumns ? weight[j - p] : load<Vector>(weights + (j - p) * kTile), sum[p]);
    }
  }
  for (std::size_t p = 0; p < kOutputs; ++p)
    if (p < window.outputs) sums.finish(p * window.sums_pitch, sum[p]);
}

template <typename Sums, typename T, typename Weight>
inline void slide(const Window& window, const Weight* weights, const T* const* rows, const Sums& sums) {
  if (window.outputs == 1) return slide<1, 0>(window, weights, rows, sums);
  if (window.columns == 3) return slide<kPixels, 3>(window, weights, rows, sums);
  if (window.columns == 5) return slide<kPixels, 5>(window, weights, rows, sums);
  return slide<kPixels, 7>(window, weights, rows, sums);
}

// Sums of `kLanes` channels, those from `first` on, in memory.
struct FloatSums {
  typedef Floats Vector;
  float* sums;
  std::size_t first;

  Floats begin(std::size_t at) const { return load<Floats>(sums + first + at); }
  void finish(std::size_t at, const Floats& sum) const { store(sums + first + at, sum); }
};

struct SumsOfSpikes : FloatSums {
  Mask read(const std::uint64_t* word) const { return mask_of(*word >> first); }
  static Floats add(const Mask& spikes, const Floats& weight, const Floats& sum) {
    return add_where(spikes, weight, sum);
  }
};

template <bool whole>
struct SumsOfProducts : FloatSums {
  std::size_t count;  // channels that there are

  Floats read(const float* x) const {
    if (whole) return load<Floats>(x + first);
    Floats rest = {};
    std::memcpy(&rest, x + first, count * sizeof(float));
    return rest;
  }
  static Floats add(const Floats& x, const Floats& weight, const Floats& sum) { return fused(x, weight, sum); }
};

// Of twice as many channels.
struct ShortSums {
  typedef Shorts Vector;
  float* sums;
  std::size_t first;
  const float *scale, *bias;

  static Shorts begin(std::size_t) { return Shorts{}; }
  ShortMask read(const std::uint64_t* word) const { return short_mask_of(*word >> first); }
  static Shorts add(const ShortMask& spikes, const Shorts& weight, const Shorts& sum) {
    return add_where(spikes, weight, sum);
  }
  void finish(std::size_t at, const Shorts& sum) const {
    std::int16_t shorts[2 * kLanes];
    store(shorts, sum);
    for (std::size_t n = first; n < first + 2 * kLanes; n += kLanes) {
      const Floats total = __builtin_convertvector(load<HalfShorts>(shorts + n - first), Floats);
      store(sums + at + n, load<Floats>(bias + n) + load<Floats>(scale + n) * total);
    }
  }
};

void add_spikes(const Window& window, const float* weights, const std::uint64_t* const* rows, float* sums) {
  for (std::size_t i = 0; i < kTile; i += kLanes) slide(window, weights + i, rows, SumsOfSpikes{{sums, i}});
}

void add_small_spikes(const Window& window, const std::int16_t* weights, const std::uint64_t* const* rows,
                      const float* scale, const float* bias, float* sums) {
  for (std::size_t i = 0; i < kTile; i += 2 * kLanes)
    slide(window, weights + i, rows, ShortSums{sums, i, scale, bias});
}

void add_products(const Window& window, const float* weights, const float* const* rows, std::size_t count,
                  float* sums) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    slide(window, weights + i, rows, SumsOfProducts<true>{{sums, i}, kLanes});
  if (i < count) slide(window, weights + i, rows, SumsOfProducts<false>{{sums, i}, count - i});
}

}  // namespace
}  // namespace nmx
