// The selective scan of Mamba: a diagonal linear recurrence in N states of each channel, fused with what it
// reads and writes, so that the states of all steps never exist in memory.
//
// Shapes: B batch, L steps, D channels, N states of a channel, G groups of channels that share B and C.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common.h"

namespace neuromix {

// Steps between states that forward keeps for backward, which recomputes those in between: the states and decays of
// as many steps stay in the first cache.
constexpr std::size_t kScanSteps = 32;
// Channels that are walked through by one thread and share sums over channels (the gradients of B and C). Rows of
// activations are wide apart in memory, each on a page of its own, so that narrow slices would wait for addresses.
constexpr std::size_t kScanSlice = 128;

struct ScanShape {
  std::size_t batch, length, channels, states, groups;

  NEUROMIX_INLINE std::size_t group_channels() const { return channels / groups; }
  NEUROMIX_INLINE std::size_t group_slices() const {
    return (group_channels() + kScanSlice - 1) / kScanSlice;
  }
  NEUROMIX_INLINE std::size_t chunks() const { return (length + kScanSteps - 1) / kScanSteps; }
};

// h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t;  y_t = C_t . h_t. All arrays are dense; `reset` may be null,
// else h_{t-1} counts as 0 where it is not 0; `kept` may be null.
//
// Least work: D*N exponentials (11 operations each with AVX-512, 14 without; no division, no table) and 3 D*N fused
// products for every step; least traffic: x, delta, y (3 D numbers a step) and B, C (2 G N), whatever N is.
template <typename Real>
struct SelectiveScan : ScanShape {
  const Real* x_BLD;
  const Real* delta_BLD;
  const Real* A_DN;
  const Real* B_BLGN;
  const Real* C_BLGN;
  const Real* state_BDN;
  const std::uint8_t* reset_BL;
  Real* y_BLD;
  Real* last_BDN;
  Real* kept_BTDN;  // the state before each of the T chunks
};

template <typename Real>
void run(const SelectiveScan<Real>& job, std::size_t threads);

// The gradients, from those of y and of the last state. The exponentials and states are computed once more, a
// chunk at a time: D*N exponentials and 15 D*N further operations for every step; traffic: x, delta, the gradient
// of y, those of x and delta (5 D numbers a step), B, C and S rows of sums for each.
//
// grad_A has a batch axis and grad_B, grad_C one of S = group_slices() slices of channels, over which the caller
// sums: nothing depends on how many threads share the work.
template <typename Real>
struct SelectiveScanBack : ScanShape {
  const Real* x_BLD;
  const Real* delta_BLD;
  const Real* A_DN;
  const Real* B_BLGN;
  const Real* C_BLGN;
  const std::uint8_t* reset_BL;
  const Real* kept_BTDN;
  const Real* grad_y_BLD;
  const Real* grad_last_BDN;
  Real* grad_x_BLD;
  Real* grad_delta_BLD;
  Real* grad_A_BDN;
  Real* grad_B_SBLGN;
  Real* grad_C_SBLGN;
  Real* grad_state_BDN;
};

template <typename Real>
void run(const SelectiveScanBack<Real>& job, std::size_t threads);

}  // namespace neuromix
