// The inner loops of convolutions, compiled once for each instruction set; which set runs is decided once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv.h"

namespace nmx {

// Outputs of a tile: one word of spikes, and as many sums as stay in registers.
constexpr std::size_t kTile = 64;

// Pixels side by side that a dense product takes at once: the maps of vision models have sides of 7 and its multiples.
constexpr std::size_t kPixels = 7;

// Rows of weights to add, in order: first_row + rows[i], and for integer inputs as often as factors[i] says.
struct Events {
  const std::uint32_t* rows;
  const std::uint8_t* factors;
  std::size_t count;
  std::ptrdiff_t first_row;
};

struct Kernels {
  const char* name;

  // first + the numbers of the bits that are set, ascending; returns how many.
  std::size_t (*list_bits)(const std::uint64_t* words, std::size_t count, std::uint32_t first, std::uint32_t* to);

  // Sums of a tile, to[0..kTile) = from + the rows of `weights` [rows][kTile] that the lists name, one after the
  // other. The first of the two functions stops at half a tile.
  void (*add_rows[2])(const float* weights, const Events* lists, std::size_t count, const float* from, float* to);
  // The same, each row times its factor.
  void (*add_rows_times)(const float* weights, const Events* lists, std::size_t count, const float* from,
                         float* to);
  // to = bias + scale * the sum of integer rows.
  void (*add_small_rows[2])(const std::int8_t* weights, const Events* lists, std::size_t count,
                            const float* scale, const float* bias, float* to);
  void (*add_small_rows_times)(const std::int8_t* weights, const Events* lists, std::size_t count,
                               const float* scale, const float* bias, float* to);

  // sums[pixel][0..kTile) += x[pixel][0..count) times `weights` [count][kTile], for kPixels pixels; or half a tile.
  void (*multiply[2])(const float* const* x, const float* weights, std::size_t count, float* sums);

  // Depthwise: to = from + the rows of weights, one a tap, where a bit is set of the word at words[offsets[tap]]
  // (returns how many are; an offset below 0 is of a tap outside the map), or times the values of the tap.
  std::size_t (*add_masked)(const float* weights, const std::uint64_t* words, const std::ptrdiff_t* offsets,
                            std::size_t taps, const float* from, float* to);
  void (*add_products)(const float* weights, const float* const* x, std::size_t taps, const float* from,
                       float* to);

  // One step of a tile of neurons with input `x`: takes v along, and gives the spikes.
  std::uint64_t (*fire)(const Neuron& neuron, std::size_t channel, std::size_t count, const float* x, float* v);
};

// The best that this processor has.
const Kernels& kernels();

}  // namespace nmx
