// The leaky integrate-and-fire neuron over all time steps.
#pragma once

#include <cstddef>

namespace neuromix {

// One step, in this order of operations:
//   h = decay * v + gain * x + offset
//   s = h >= v_threshold                        (h > v_threshold if strict)
//   v = s ? v_reset : h                         (h - s * v_threshold unless hard_reset)
template <typename Real>
struct Lif {
  Real decay, gain, offset, v_threshold, v_reset;
  bool hard_reset, strict;
};

// Reads x_TN, writes spikes_TN (0 or 1), and takes v_N from before the first step to after the last.
// T = steps, N = neurons; arrays are dense, time first, and do not overlap.
template <typename Real>
void lif_forward(const Lif<Real>& lif, std::size_t steps, std::size_t neurons, const Real* x_TN, Real* v_N,
                 Real* spikes_TN, std::size_t threads);

}  // namespace neuromix
