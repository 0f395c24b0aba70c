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

// Integer weights are kept as bytes above 0, as weight + kSmallZero. Read as shorts, a row has outputs 0..31 in the low
// bytes and 32..63 in the high ones; read as ints, it has 0..15 in the lowest.
constexpr int kSmallZero = 128;
inline std::size_t small_place(std::size_t n) { return 4 * (n % 16) + 2 * (n / 16 % 2) + n / 32; }

// As many integer weights do not overflow a short.
constexpr std::size_t kMostShorts = 255;

// Integer rows of a panel: their numbers fit in a byte, and as many bytes add up in a short.
constexpr std::size_t kSmallPanel = 256;

// Places behind the last one of a list that may be written over.
constexpr std::size_t kListSlack = 64;

// Rows of weights to add at some places, in order: of place p those from begins[p] to begins[p + 1], each as often as
// its factor says.
struct Events {
  const std::uint32_t* rows;
  const std::uint8_t* factors;
  const std::size_t* begins;
};

// What becomes of the shorts of a panel: they are left for the next one, or moved to the totals, which is where they
// have to go before they overflow; or they are the last, and the totals become the sums.
enum class Then { keep, move, finish };

// A panel of integer weights, and the rows of it to add: of place p those from begins[p] to begins[p + 1].
struct SmallPanel {
  const std::uint8_t* weights;  // [kSmallPanel][kTile]
  const std::uint8_t* rows;
  const std::uint32_t* begins;
  bool goes_on = false, has_totals = false;  // or shorts begin at 0, or totals
  Then then = Then::keep;
};

// Where they are added up.
struct SmallSums {
  std::uint16_t* shorts;        // [place][kTile]
  float* sums;                  // [place][kTile]: bias + scale * total, and before it the totals
  const std::uint32_t* counts;  // [place], of all panels
  const float *scale, *bias;    // [kTile]
};

// What some outputs side by side see of the map.
struct Window {
  std::size_t rows, columns, dilation;          // of the kernel; along the columns
  std::ptrdiff_t first;                         // the column under the first tap of the first output
  std::size_t width, pitch;                     // of the map; from one column to the next in memory
  std::size_t outputs;                          // 1 to kPixels
  std::size_t sums_pitch;                       // from the sums of an output to those of the next
};

// The neurons of a tile at some pixels: their inputs x and their spikes of each step, and the states v that go from
// step to step; without v they begin with v_init. Those of a pixel and of a step lie some places apart.
struct Firing {
  std::size_t pixels, steps;
  const float* x;
  std::size_t x_pixel, x_step;
  float* v;
  std::size_t v_pixel;
  std::uint64_t* bits;
  std::size_t bits_pixel, bits_step;
};

// Whether the depthwise kernels take more than one output at once.
inline bool takes_several(std::size_t columns, std::size_t stride, std::size_t dilation) {
  return (columns == 3 || columns == 5 || columns == 7) && stride == 1 && dilation == 1;
}

struct Kernels {
  const char* name;

  // How many bits are set.
  std::uint64_t (*count_bits)(const std::uint64_t* words, std::size_t count);
  // For each place the numbers of the bits that are set in `count` words from words[place * stride] on, 4 at most: they
  // go to rows[begins[place]] and on, ascending. begins[0] is given, begins[place + 1] is where they end.
  void (*list_bits)(const std::uint64_t* words, std::size_t stride, std::size_t count, std::size_t places,
                    std::uint8_t* rows, std::uint32_t* begins);

  // to[i] = from[i] + offset.
  void (*copy_list)(const std::uint32_t* from, std::size_t count, std::uint32_t offset, std::uint32_t* to);

  // sums[place][0..kTile) += those rows of `weights` [64][kTile] whose bit is set in masks[place * stride], ascending,
  // for each place. The first of the two functions stops at half a tile.
  void (*add_panel[2])(const float* weights, const std::uint64_t* masks, std::size_t stride, std::size_t places,
                       float* sums);
  // The same with rows times their factors.
  void (*add_rows_times)(const float* weights, const Events& events, std::size_t places, float* sums);
  // Adds the listed rows of a panel to the sums of each place; or half a tile.
  void (*add_small_panel[2])(const SmallPanel& panel, std::size_t places, const SmallSums& sums);
  // sums = bias + scale * the sum of integer rows times their factors.
  void (*add_small_rows_times)(const std::uint8_t* weights, const Events& events, std::size_t places,
                               const float* scale, const float* bias, float* sums);

  // sums[pixel * pitch + 0..kTile) += x[pixel][0..count) times `weights` [count][kTile], for kPixels pixels; or half a
  // tile.
  void (*multiply[2])(const float* const* x, const float* weights, std::size_t count, float* sums, std::size_t pitch);

  // Depthwise, for outputs side by side: adds to their sums the weights [rows][columns][kTile] of a tile where there is
  // a spike, or times the input, of which `count` channels are wanted. rows[i] is where the map begins for row i of
  // the kernel, null above and below the map. Sums of integers, kMostShorts at most, become bias + scale * sum.
  void (*add_spikes)(const Window& window, const float* weights, const std::uint64_t* const* rows, float* sums);
  void (*add_small_spikes)(const Window& window, const std::int16_t* weights, const std::uint64_t* const* rows,
                           const float* scale, const float* bias, float* sums);
  void (*add_products)(const Window& window, const float* weights, const float* const* rows, std::size_t count,
                       float* sums);

  // For sums [pixel][step][kTile]: they become bias + scale * sums; some `outputs` are added to them, or they are put
  // somewhere, where those of a pixel and of a step lie some places apart.
  void (*scale)(const float* scale, const float* bias, std::size_t places, float* sums);
  void (*add)(const float* from, std::size_t pixel, std::size_t step, std::size_t outputs, std::size_t pixels,
              std::size_t steps, float* sums);
  void (*put)(const float* sums, std::size_t outputs, std::size_t pixels, std::size_t steps, float* to,
              std::size_t pixel, std::size_t step);

  // Takes up to kTile neurons, from one channel on, through the steps.
  void (*fire)(const Neuron& neuron, std::size_t channel, std::size_t count, const Firing& at);
};

// The best that this processor has.
const Kernels& kernels();

}  // namespace nmx
