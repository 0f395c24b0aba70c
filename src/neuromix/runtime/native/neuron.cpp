#include "conv_kernels.h"
#include "kernels.h"
#include "rows.h"

namespace nmx {
namespace {

// The neurons of a tile at some positions, and all their steps: their states stay in the nearest cache.
void run_tile(const Value& x, const Neuron& neuron, float* v, const Value& y, std::size_t steps, std::size_t channel,
              std::size_t first, std::size_t last) {
  const std::size_t channels = x.shape.channels, count = std::min(kTile, channels - channel);
  const std::size_t x_step = x.is_static ? 0 : x.shape.elements();
  const float* from = x.row_of<const float>(0, first) + channel;
  if (v) v += first * channels + channel;
  if (y.type == Type::binary) {
    const std::size_t size = words(channels), y_step = y.shape.positions() * size;
    std::uint64_t* to = y.row_of<std::uint64_t>(0, first) + channel / kTile;
    const Firing at{last - first, steps, from, channels, x_step, v, channels, to, size, y_step};
    return kernels().fire(neuron, channel, count, at);
  }
  std::uint64_t none;
  for (std::size_t p = first; p < last; ++p, from += channels, v += channels)
    for (std::size_t t = 0; t < steps; ++t) {
      kernels().fire(neuron, channel, count, {1, 1, from + t * x_step, 0, 0, v, 0, &none, 0, 0});
      std::memcpy(y.row_of<float>(t, p) + channel, v, count * sizeof(float));
    }
}

NEUROMIX_CLONES void levels_row(const float* x, std::size_t channels, float gain, float levels,
                                std::uint8_t* y) {
  for (std::size_t c = 0; c < channels; ++c) {
    float z = gain * x[c];
    z = z > 0 ? z : 0;  // NaN too
    z = z < levels ? z : levels;
    y[c] = static_cast<std::uint8_t>(static_cast<int>(z + 0.5f));
  }
}

}  // namespace

void run_lif(const Value& x, const Neuron& neuron, float* v, const Value& y, std::size_t steps,
             std::size_t threads) {
  const std::size_t channels = x.shape.channels;
  parallel_items(x.shape.positions(), steps * channels, threads, [&](std::size_t first, std::size_t last) {
    for (std::size_t c = 0; c < channels; c += kTile) run_tile(x, neuron, v, y, steps, c, first, last);
  });
}

void run_levels(const Value& x, const op::Levels& op, const Value& y, std::size_t steps,
                std::size_t threads) {
  parallel_rows(x.shape, steps, threads, [&](std::size_t t, std::size_t p) {
    levels_row(x.row_of<const float>(t, p), x.shape.channels, op.gain, float(op.levels),
               y.row_of<std::uint8_t>(t, p));
  });
}

}  // namespace nmx
