// What both directions of the selective scan do for a block of channels, one in each lane, over a chunk of steps.
//
// Compiled once for each instruction set: nothing here may be shared between the sets by the linker.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "exponential.h"
#include "selective_scan.h"

namespace neuromix {
namespace {

// States that are walked through together, so that what is read once serves all of them.
constexpr std::size_t kTogether = 4;

NEUROMIX_INLINE std::size_t padded(std::size_t states) { return (states + kTogether - 1) / kTogether * kTogether; }

// A pack for each step, and one more: the same steps of two such arrays do not share the low bits of their addresses.
template <typename Real>
struct Steps {
  Pack<Real> at[kScanSteps + 1];
};

// Where a slice of channels lies: `first` of the channels, and `count` of them, in blocks of kWidth.
template <typename Real>
struct ScanSlice {
  static constexpr std::size_t kWidth = kLanes<Real>;
  std::size_t batch, group, slice, first, count;

  NEUROMIX_INLINE ScanSlice(const ScanShape& shape, std::size_t item) {
    slice = item % shape.group_slices();
    group = item / shape.group_slices() % shape.groups;
    batch = item / shape.group_slices() / shape.groups;
    const std::size_t start = slice * kScanSlice;
    first = group * shape.group_channels() + start;
    count = std::min(kScanSlice, shape.group_channels() - start);
  }
  NEUROMIX_INLINE std::size_t blocks() const { return (count + kWidth - 1) / kWidth; }
  NEUROMIX_INLINE std::size_t block_lanes(std::size_t block) const { return std::min(kWidth, count - block * kWidth); }
};

// Where the states before a chunk begin for a channel.
NEUROMIX_INLINE std::size_t kept_at(const ScanShape& shape, std::size_t batch, std::size_t chunk, std::size_t channel) {
  return ((batch * shape.chunks() + chunk) * shape.channels + channel) * shape.states;
}

// The rows of numbers of the block that comes next. They lie too far from each other for the processor to see what
// comes, and each on a page of its own: all groups of states ask for some of them, one at a time between other work.
template <typename Real, std::size_t arrays>
struct Ahead {
  const Real* const of[arrays];
  std::size_t stride, groups;

  NEUROMIX_INLINE void ask(std::size_t group, std::size_t t) const {
    if (t % groups != group) return;
    for (const Real* const rows : of) NEUROMIX_PREFETCH(rows + t * stride);
  }
};

// Copies `steps` rows of `lanes` numbers, `stride` apart; lanes that are not there read 0.
template <typename Real>
NEUROMIX_INLINE void gather(const Real* from, std::size_t stride, std::size_t steps, std::size_t lanes,
                            Steps<Real>& to) {
  for (std::size_t t = 0; t < steps; ++t) {
    if (lanes == kLanes<Real>) {
      to.at[t] = load_pack(from + t * stride);
    } else {
      Real row[kLanes<Real>] = {};
      std::copy(from + t * stride, from + t * stride + lanes, row);
      to.at[t] = load_pack(row);
    }
  }
}

template <typename Real>
NEUROMIX_INLINE void scatter(const Steps<Real>& from, std::size_t steps, std::size_t lanes, Real* to,
                             std::size_t stride) {
  for (std::size_t t = 0; t < steps; ++t) std::memcpy(to + t * stride, &from.at[t], lanes * sizeof(Real));
}

// The numbers [lanes, states] of a block as a pack for each state, times `factor`; states up to `padded` read 0.
template <typename Real>
NEUROMIX_INLINE void gather_states(const Real* from, std::size_t states, std::size_t lanes, Real factor,
                                   Pack<Real>* to) {
  Real* const rows = reinterpret_cast<Real*>(to);
  std::fill(rows, rows + padded(states) * kLanes<Real>, Real(0));
  for (std::size_t l = 0; l < lanes; ++l)
    for (std::size_t n = 0; n < states; ++n) rows[n * kLanes<Real> + l] = from[l * states + n] * factor;
}

template <typename Real>
NEUROMIX_INLINE void scatter_states(const Pack<Real>* from, std::size_t states, std::size_t lanes, Real* to) {
  const Real* const rows = reinterpret_cast<const Real*>(from);
  for (std::size_t l = 0; l < lanes; ++l)
    for (std::size_t n = 0; n < states; ++n) to[l * states + n] = rows[n * kLanes<Real> + l];
}

// Rows of B or C, `stride` apart, close together and padded with 0.
template <typename Real>
NEUROMIX_INLINE void gather_rows(const Real* from, std::size_t stride, std::size_t states, std::size_t steps,
                                 Real* to) {
  const std::size_t width = padded(states);
  for (std::size_t t = 0; t < steps; ++t) {
    std::copy(from + t * stride, from + t * stride + states, to + t * width);
    std::fill(to + t * width + states, to + (t + 1) * width, Real(0));
  }
}

}  // namespace
}  // namespace neuromix
