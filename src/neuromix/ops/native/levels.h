// Neurons that send integers 0..D instead of spikes, one step at a time: no state passes from step to step.
#pragma once

#include <cstddef>

#include "real.h"

namespace neuromix {

// y = floor(clamp(gain * x, 0, levels) + 0.5) * unit, which rounds half up; backward passes gradients times
// gain * unit where 0 < gain * x < levels. In float32, forward moves 8 bytes an element and backward 12.
struct Levels {
  double gain, levels, unit;
};

// Arrays [T, N] with `stride` elements from one step to the next; outputs are dense.
template <typename Stored>
struct LevelsJob {
  Levels levels;
  std::size_t steps, neurons;
  const Stored* x_TN;
  std::ptrdiff_t x_stride;
  const Stored* grad_TN;  // null: forward
  std::ptrdiff_t grad_stride;
  Stored* output_TN;  // y, or the gradient of x
};

template <typename Stored>
void run(const LevelsJob<Stored>& job, std::size_t threads);

}  // namespace neuromix
