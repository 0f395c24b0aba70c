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
  std::size_t rows;      // of a tile
  Aligned<float> real;             // [tiles][rows][kTile]
  Aligned<std::uint8_t> small;     // the same, if spikes add up integers; see kernels
  Aligned<std::int16_t> shorts;    // the same, if spikes add up integers of a depthwise convolution
  Aligned<float> scale, bias;      // [tiles][kTile]

  // From the first input of an output to the one under each tap; the first lies outside where there is padding.
  struct Offset {
    std::ptrdiff_t y, x;
  };
  std::vector<Offset> offsets;
  // By how many outputs a row of the map is seen, and a column.
  std::vector<std::uint32_t> seen[2];
  // Taps whose events lie side by side in memory, and so are one list: those of a row of the kernel, or single ones
  // where groups or dilation come between.
  std::size_t taps_of_list;

  Layout(const ConvShape& shape, Type type, const ConvWeights& weights);

  // Which outputs a tile has.
  struct Tile {
    std::size_t group, first_output, outputs;
    bool is_whole() const { return outputs > kTile / 2; }  // whether more than its first half is wanted
  };
  std::vector<Tile> tiles;  // of all groups
  // Whether each tile has a word of output spikes to itself.
  bool has_words() const { return depthwise || s.groups == 1 || out_group % kTile == 0; }
  // Whether rows of weights are added up where there are spikes.
  bool adds_rows() const { return input == Type::binary && !depthwise; }
  // Whether sums of integers come as floats, which are yet to be scaled.
  bool scales_sums() const { return scaled && small.empty() && shorts.empty(); }
  std::size_t in_pixels() const { return s.in_height * s.in_width; }
  std::size_t out_pixels() const { return s.out_height * s.out_width; }

 private:
  template <typename From, typename To>
  void pack(const From* from, Aligned<To>& to);
  void pack_small(const std::int8_t* from);
  template <typename Place>
  void for_each_weight(const Place& place) const;
};

// Runs up to kStepsAtOnce steps; as Conv::run otherwise.
std::uint64_t run_steps(const Conv::Layout& layout, const Conv::Layout* before, const void* input, std::size_t steps,
                        const ConvOutput& output, void* scratch, std::size_t threads, bool again);
std::size_t run_scratch_bytes(const Conv::Layout& layout, const Conv::Layout* before, std::size_t threads);

// Of a depthwise convolution: spikes times the outputs that see them.
std::uint64_t seen_spikes(const Conv::Layout& layout, const void* input, std::size_t steps);

}  // namespace nmx
