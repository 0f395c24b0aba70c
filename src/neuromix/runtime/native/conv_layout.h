// The weights of a convolution as its run reads them.
#pragma once

#include <algorithm>
#include <new>
#include <vector>

#include "conv_kernels.h"

namespace nmx {

inline std::size_t rounded_up(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Memory that begins with a cache line: a vector of weights that lay across two would take twice as long to load.
template <typename T>
struct OnCacheLines {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  OnCacheLines() = default;
  template <typename Other>
  OnCacheLines(const OnCacheLines<Other>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* at, std::size_t) { ::operator delete(at, kLine); }
  bool operator==(const OnCacheLines&) const { return true; }
  bool operator!=(const OnCacheLines&) const { return false; }
};
template <typename T>
using Aligned = std::vector<T, OnCacheLines<T>>;

// Outputs are dealt with in tiles of kTile, each within one group. For a tile there is a row of kTile weights for
// each tap of the kernel and channel of the group, in ascending order, filled up with zeros. A depthwise
// convolution has tiles of kTile channels, with one row a tap.
struct Conv::Layout {
  ConvShape s;
  Type input;
  std::size_t taps, in_group, out_group;
  bool depthwise;
  bool scaled;           // weights are integers: sums begin at 0, and are scaled at the end
  bool finite;           // no weight is infinite or NaN
  std::size_t tiles;     // of a group
  std::size_t rows;      // of a tile
  Aligned<float> real;             // [all_tiles][rows][kTile]
  Aligned<std::int8_t> small;      // the same, if spikes add up integers
  Aligned<float> scale, bias;      // [all_tiles][kTile]

  // From the first input of an output to the one under each tap; the first lies outside where there is padding.
  struct Offset {
    std::ptrdiff_t y, x;
  };
  std::vector<Offset> offsets;
  // Taps whose events lie side by side in memory, and so are one list: those of a row of the kernel, or single ones
  // where groups or dilation come between.
  std::size_t taps_of_list;

  Layout(const ConvShape& shape, Type type, const ConvWeights& weights);

  std::size_t all_tiles() const { return depthwise ? tiles : s.groups * tiles; }
  std::size_t group(std::size_t tile) const { return depthwise ? 0 : tile / tiles; }
  std::size_t first_output(std::size_t tile) const {
    return depthwise ? tile * kTile : group(tile) * out_group + tile % tiles * kTile;
  }
  std::size_t outputs(std::size_t tile) const {
    return std::min(kTile, depthwise ? s.out_channels - tile * kTile : out_group - tile % tiles * kTile);
  }
  // Whether more than the first half of a tile is wanted.
  bool is_whole(std::size_t tile) const { return outputs(tile) > kTile / 2; }
  // Whether each tile has a word of output spikes to itself.
  bool has_words() const { return depthwise || s.groups == 1 || out_group % kTile == 0; }
  std::size_t in_pixels() const { return s.in_height * s.in_width; }
  std::size_t out_pixels() const { return s.out_height * s.out_width; }

 private:
  template <typename From, typename To>
  void pack(const From* from, Aligned<To>& to) const;
};

// Runs up to kSteps steps; as Conv::run otherwise.
constexpr std::size_t kSteps = 8;
std::uint64_t run_steps(const Conv::Layout& layout, const void* input, std::size_t steps,
                        const ConvOutput& output, void* scratch, std::size_t threads);
std::size_t run_scratch_bytes(const Conv::Layout& layout, std::size_t threads);

}  // namespace nmx
