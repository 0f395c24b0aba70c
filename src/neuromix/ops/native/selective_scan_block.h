// What both directions of the selective scan do for a block of kScanLanes channels over a chunk of steps.
#pragma once

#include <algorithm>

#include "exponential.h"
#include "selective_scan.h"

namespace neuromix {

// A row of numbers for each step, one for each lane, and one row more: the same steps of two such arrays do not
// share the low bits of their addresses.
template <typename Real>
struct Lanes {
  Real at[kScanSteps + 1][kScanLanes];
};

// Where a slice of channels lies: `first` of the channels of its group, and `count` of them.
struct ScanSlice {
  std::size_t batch, group, slice, first, count;

  ScanSlice(const ScanShape& shape, std::size_t item) {
    slice = item % shape.group_slices();
    group = item / shape.group_slices() % shape.groups;
    batch = item / shape.group_slices() / shape.groups;
    const std::size_t start = slice * kScanSlice;
    first = group * shape.group_channels() + start;
    count = std::min(kScanSlice, shape.group_channels() - start);
  }
  std::size_t blocks() const { return (count + kScanLanes - 1) / kScanLanes; }
  std::size_t block_lanes(std::size_t block) const {
    return std::min(kScanLanes, count - block * kScanLanes);
  }
};

// Where the states before a chunk begin for a channel.
inline std::size_t kept_at(const ScanShape& shape, std::size_t batch, std::size_t chunk,
                           std::size_t channel) {
  return ((batch * shape.chunks() + chunk) * shape.channels + channel) * shape.states;
}

inline std::size_t scan_items(const ScanShape& shape) {
  return shape.batch * shape.groups * shape.group_slices();
}

// Copies `steps` rows of `lanes` numbers, `stride` apart; lanes that are not there read 0.
template <typename Real>
NEUROMIX_INLINE void gather(const Real* from, std::size_t stride, std::size_t steps, std::size_t lanes,
                            Lanes<Real>& to) {
  if (lanes == kScanLanes) {
    for (std::size_t t = 0; t < steps; ++t)
      for (std::size_t l = 0; l < kScanLanes; ++l) to.at[t][l] = from[t * stride + l];
  } else {
    for (std::size_t t = 0; t < steps; ++t)
      for (std::size_t l = 0; l < kScanLanes; ++l) to.at[t][l] = l < lanes ? from[t * stride + l] : 0;
  }
}

template <typename Real>
NEUROMIX_INLINE void scatter(const Lanes<Real>& from, std::size_t steps, std::size_t lanes, Real* to,
                             std::size_t stride) {
  for (std::size_t t = 0; t < steps; ++t)
    for (std::size_t l = 0; l < lanes; ++l) to[t * stride + l] = from.at[t][l];
}

// The lanes of [lanes, states] numbers of a block as rows [states][kScanLanes], times `factor`.
template <typename Real>
NEUROMIX_INLINE void gather_states(const Real* from, std::size_t states, std::size_t lanes, Real factor,
                                   Real* to) {
  for (std::size_t n = 0; n < states; ++n)
    for (std::size_t l = 0; l < kScanLanes; ++l)
      to[n * kScanLanes + l] = l < lanes ? from[l * states + n] * factor : 0;
}

template <typename Real>
NEUROMIX_INLINE void scatter_states(const Real* from, std::size_t states, std::size_t lanes, Real* to) {
  for (std::size_t l = 0; l < lanes; ++l)
    for (std::size_t n = 0; n < states; ++n) to[l * states + n] = from[n * kScanLanes + l];
}

// exp(delta A) of one state: `rate` is A in powers of two.
template <typename Real>
NEUROMIX_INLINE void decays(const Lanes<Real>& delta, const Real* rate, const std::uint8_t* reset,
                            std::size_t steps, Lanes<Real>& decay) {
  for (std::size_t t = 0; t < steps; ++t)
    for (std::size_t l = 0; l < kScanLanes; ++l) decay.at[t][l] = power_of_two(delta.at[t][l] * rate[l]);
  if (!reset) return;
  for (std::size_t t = 0; t < steps; ++t)
    if (reset[t]) std::fill(decay.at[t], decay.at[t] + kScanLanes, Real(0));
}

}  // namespace neuromix
