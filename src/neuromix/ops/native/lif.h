// Integrate-and-fire neurons over all time steps: forward, and backward through time.
//
// What must move, per neuron and step, in float32: forward 8 bytes (read x, write the spikes), backward 12
// (read x and the gradient of the spikes, write the gradient of x). Everything else stays in the first-level
// cache: a small block of neurons is walked over all steps, and backward recomputes the membrane potentials of
// a block from x into a scratch instead of having forward store them. (Spikes stored as bits would spare it no
// reading: it needs the potentials.) While a block is walked, the rows that come next are asked for; large
// outputs are written past the caches.
#pragma once

#include <cstddef>

#include "real.h"
#include "surrogate.h"
#include "traffic.h"

namespace neuromix {

// hard: v = v_reset where it fired; soft: the threshold is subtracted; next: it is subtracted one step later
// and does not decay first; none: a leaky integrator, whose output is its membrane potential.
enum class Reset { hard, soft, next, none };

// What a neuron has beside its membrane potential, with a state of its own, written e:
// synapse: a current e = extra_decay * e + x that takes the place of x;
// adaptation: a trace e = extra_decay * e + s that raises the threshold by strength * e of the step before.
enum class Extra { none, synapse, adaptation };

// The coefficients: each one number, or one a channel (a row of a table [kRows, channels]).
enum Row { kDecay, kGain, kOffset, kThreshold, kHeight, kExtraDecay, kStrength, kRows };

// One step, in this order of operations:
//   h = decay * v + gain * x + offset                 (- s_previous * threshold if reset is next)
//   s = h >= fire_at * threshold                      (> if strict)
//   output = s * height
//   v = s ? v_reset : h   |   h - s * threshold   |   h
// What backward takes for ds/dh is slope(u), u = h - fire_at * threshold, or with `ratio` slope(u / (fire_at
// * threshold)) / (fire_at * threshold); `detach_reset` leaves out the path through s in the reset.
struct LifOptions {
  Reset reset;
  Extra extra;
  bool strict, detach_reset, ratio;
  double v_reset, fire_at, v_init;
  double row[kRows];  // the coefficients, unless there is a table
  Slope slope;
};

// Arrays have the layout of one step of N neurons, dense; x and the gradient of the output have `stride`
// elements from one step to the next (0 where all steps are the same memory). State is in the type of the
// arithmetic.
template <typename Stored>
struct LifInput {
  using Real = RealOf<Stored>;
  LifOptions options;
  std::size_t steps, neurons;
  const Stored* x_TN;
  std::ptrdiff_t x_stride;
  const Real* v_N;      // before the first step; null: v_init
  const Real* extra_N;  // null: 0
  // The coefficients a channel, or null. Neuron n belongs to channel n / inner % channels.
  const Real* table;
  std::size_t channels, inner;

  Rows<const Stored> x_rows(std::size_t first) const { return {x_TN + first, x_stride}; }
  bool is_large() const { return steps * neurons * sizeof(Stored) >= kLargeBytes; }
};

template <typename Stored>
struct LifForward : LifInput<Stored> {
  using Real = RealOf<Stored>;
  Stored* output_TN;
  Real *v_last_N, *extra_last_N;  // after the last step; null where not wanted

  Rows<Stored> output_rows(std::size_t first) const {
    return {output_TN + first, std::ptrdiff_t(this->neurons)};
  }
};

template <typename Stored>
struct LifBackward : LifInput<Stored> {
  using Real = RealOf<Stored>;
  const Stored* grad_output_TN;
  std::ptrdiff_t grad_stride;
  const Real *grad_v_last_N, *grad_extra_last_N;  // null: 0
  Stored* grad_x_TN;                              // null where not wanted, as the others
  Real *grad_v_N, *grad_extra_N;
  Real* grad_table;  // [kRows, channels]

  Rows<const Stored> grad_output_rows(std::size_t first) const {
    return {grad_output_TN + first, grad_stride};
  }
  Rows<Stored> grad_x_rows(std::size_t first) const {
    return {grad_x_TN ? grad_x_TN + first : nullptr, std::ptrdiff_t(this->neurons)};
  }
};

template <typename Stored>
void run(const LifForward<Stored>& job, std::size_t threads);
template <typename Stored>
void run(const LifBackward<Stored>& job, std::size_t threads);

}  // namespace neuromix
