#include "conv_kernels.h"
#include "kernels.h"
#include "rows.h"

namespace nmx {
namespace {

// All steps of one position: its state stays in the nearest cache.
void run_position(const Value& x, const Neuron& neuron, float* v, const Value& y, std::size_t steps,
                  std::size_t position) {
  const std::size_t channels = x.shape.channels, elements = x.shape.elements();
  const std::size_t x_step = x.is_static ? 0 : elements, y_step = y.shape.positions() * words(channels);
  const auto fire = kernels().fire;
  for (std::size_t c = 0; c < channels; c += kTile) {
    const float* from = x.row_of<const float>(0, position) + c;
    const std::size_t count = std::min(kTile, channels - c);
    if (y.type == Type::binary) {
      std::uint64_t* to = y.row_of<std::uint64_t>(0, position) + c / kTile;
      fire(neuron, c, count, steps, from, x_step, v ? v + c : v, to, y_step);
      continue;
    }
    std::uint64_t none;
    for (std::size_t t = 0; t < steps; ++t) {
      fire(neuron, c, count, 1, from + t * x_step, 0, v + c, &none, 0);
      std::memcpy(y.row_of<float>(t, position) + c, v + c, count * sizeof(float));
    }
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
    for (std::size_t p = first; p < last; ++p) run_position(x, neuron, v ? v + p * channels : v, y, steps, p);
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
