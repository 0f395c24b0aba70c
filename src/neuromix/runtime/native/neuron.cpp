#include "conv_kernels.h"
#include "kernels.h"
#include "rows.h"

namespace nmx {
namespace {

// All steps of one position: its state stays in the nearest cache.
void run_position(const Value& x, const Neuron& neuron, float* v, const Value& y, std::size_t steps,
                  std::size_t position) {
  const std::size_t channels = x.shape.channels;
  const auto fire = kernels().fire;
  for (std::size_t t = 0; t < steps; ++t) {
    const float* from = x.row_of<const float>(t, position);
    std::byte* to = y.row(t, position);
    for (std::size_t c = 0; c < channels; c += kTile) {
      const std::uint64_t bits = fire(neuron, c, std::min(kTile, channels - c), from + c, v + c);
      if (y.type == Type::binary) reinterpret_cast<std::uint64_t*>(to)[c / kTile] = bits;
    }
    if (y.type == Type::real) std::memcpy(to, v, channels * sizeof(float));
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
    for (std::size_t p = first; p < last; ++p) run_position(x, neuron, v + p * channels, y, steps, p);
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
