// Compiled once for each instruction set.
#include "selective_scan_block.h"
#include "selective_scan_kernels.h"

namespace neuromix {
namespace {

template <typename Real>
struct Scratch {
  Steps<Real> x, delta, input, grad_y, grad_input, grad_delta;
  Steps<Real> decay[kTogether], state[kTogether];
  Buffer<Pack<Real>> states, sums;
  Buffer<Real> rows;
};

// What belongs to the states of one block.
template <typename Real>
struct StateRows {
  const Pack<Real>* rate;
  const Pack<Real>* kept;  // the state before the chunk
  Pack<Real>* grad;        // of the state after the chunk, then of that before it
  Pack<Real>* grad_A;
  Pack<Real>* grad_B;  // kScanSteps for every kTogether states, which are in every four lanes
  Pack<Real>* grad_C;

  NEUROMIX_INLINE StateRows from(std::size_t n) const {
    const std::size_t sums = n / kTogether * kScanSteps;
    return {rate + n, kept + n, grad + n, grad_A + n, grad_B + sums, grad_C + sums};
  }
};

// The decays and states of a chunk once more: state.at[t] is the one before step t.
template <typename Real>
NEUROMIX_INLINE void replay(Scratch<Real>& s, const StateRows<Real>& rows, const Real* B, std::size_t width,
                            const std::uint8_t* reset, std::size_t steps, const Ahead<Real, 5>& ahead,
                            std::size_t group) {
  Pack<Real> h[kTogether], rate[kTogether];
  for (std::size_t n = 0; n < kTogether; ++n) h[n] = s.state[n].at[0] = rows.kept[n], rate[n] = rows.rate[n];
  for (std::size_t t = 0; t < steps; ++t, B += width) {
    const Pack<Real> delta = s.delta.at[t], input = s.input.at[t];
    const bool resets = reset && reset[t];
    ahead.ask(group, t);
    for (std::size_t n = 0; n < kTogether; ++n) {
      Pack<Real> decay = power_of_two<Real>(delta * rate[n]);
      if (resets) decay = Pack<Real>{};
      s.decay[n].at[t] = decay;
      h[n] = decay * h[n] + B[n] * input;
      s.state[n].at[t + 1] = h[n];
    }
  }
}

// kTogether states of one block, from the last step of a chunk to the first.
template <typename Real>
NEUROMIX_INLINE void walk_back(Scratch<Real>& s, const StateRows<Real>& rows, const Real* B, const Real* C,
                               std::size_t width, std::size_t steps) {
  static_assert(kTogether == 4, "sums_of_four");
  Pack<Real> grad[kTogether], grad_A[kTogether], rate[kTogether], after[kTogether];
  for (std::size_t n = 0; n < kTogether; ++n) {
    grad[n] = rows.grad[n], grad_A[n] = rows.grad_A[n], rate[n] = rows.rate[n];
    after[n] = s.state[n].at[steps];
  }
  for (std::size_t t = steps; t-- > 0;) {
    const Real* const b = B + t * width;
    const Real* const c = C + t * width;
    const Pack<Real> delta = s.delta.at[t], input = s.input.at[t], grad_y = s.grad_y.at[t];
    Pack<Real> grad_input = s.grad_input.at[t], grad_delta = s.grad_delta.at[t];
    Pack<Real> to_B[kTogether], to_C[kTogether];
    for (std::size_t n = 0; n < kTogether; ++n) {
      const Pack<Real> full = grad[n] + c[n] * grad_y;  // of the state after step t
      to_C[n] = grad_y * after[n];
      to_B[n] = full * input;
      grad_input += b[n] * full;
      grad[n] = full * s.decay[n].at[t];
      after[n] = s.state[n].at[t];
      const Pack<Real> exponent = grad[n] * after[n];  // the gradient of delta A
      grad_delta += exponent * rate[n];
      grad_A[n] += exponent * delta;
    }
    s.grad_input.at[t] = grad_input;
    s.grad_delta.at[t] = grad_delta;
    rows.grad_B[t] += sums_of_four<Real>(to_B[0], to_B[1], to_B[2], to_B[3]);
    rows.grad_C[t] += sums_of_four<Real>(to_C[0], to_C[1], to_C[2], to_C[3]);
  }
  for (std::size_t n = 0; n < kTogether; ++n) rows.grad[n] = grad[n], rows.grad_A[n] = grad_A[n];
}

// Sums over lanes, and makes them ready for the next chunk.
template <typename Real>
NEUROMIX_INLINE void add_lanes(Pack<Real>* sums, std::size_t states, std::size_t steps, Real* to_LGN,
                               std::size_t stride) {
  for (std::size_t n = 0; n < states; ++n)
    for (std::size_t t = 0; t < steps; ++t) {
      const Real* const sum = reinterpret_cast<const Real*>(sums + n / kTogether * kScanSteps + t);
      Real total = 0;
      for (std::size_t l = n % kTogether; l < kLanes<Real>; l += kTogether) total += sum[l];
      to_LGN[t * stride + n] = total;
    }
  std::fill(sums, sums + padded(states) / kTogether * kScanSteps, Pack<Real>{});
}

// One block of channels over one chunk; `at` is where its first numbers are, `next` where those of the next block are.
template <typename Real>
NEUROMIX_INLINE void back_block(Scratch<Real>& s, const SelectiveScanBack<Real>& job, std::size_t at, std::size_t next,
                                std::size_t lanes, const StateRows<Real>& rows, const Real* B, const Real* C,
                                const std::uint8_t* reset, std::size_t steps) {
  const std::size_t width = padded(job.states), stride = job.channels;
  const Ahead<Real, 5> ahead{{job.x_BLD + next, job.delta_BLD + next, job.grad_y_BLD + next, job.grad_x_BLD + next,
                              job.grad_delta_BLD + next},
                             stride,
                             width / kTogether};
  gather(job.x_BLD + at, stride, steps, lanes, s.x);
  gather(job.delta_BLD + at, stride, steps, lanes, s.delta);
  gather(job.grad_y_BLD + at, stride, steps, lanes, s.grad_y);
  for (std::size_t t = 0; t < steps; ++t) {
    s.input.at[t] = s.delta.at[t] * s.x.at[t];
    s.grad_input.at[t] = s.grad_delta.at[t] = Pack<Real>{};
  }
  for (std::size_t n = 0; n < width; n += kTogether) {
    replay(s, rows.from(n), B + n, width, reset, steps, ahead, n / kTogether);
    walk_back(s, rows.from(n), B + n, C + n, width, steps);
  }
  // The rate is A in powers of two.
  for (std::size_t t = 0; t < steps; ++t) {
    s.grad_delta.at[t] = (1 / kLog2e<Real>)*s.grad_delta.at[t] + s.grad_input.at[t] * s.x.at[t];
    s.grad_input.at[t] *= s.delta.at[t];
  }
  scatter(s.grad_input, steps, lanes, job.grad_x_BLD + at, stride);
  scatter(s.grad_delta, steps, lanes, job.grad_delta_BLD + at, stride);
}

template <typename Real>
NEUROMIX_INLINE void backward(const SelectiveScanBack<Real>& job, std::size_t item) {
  static thread_local Scratch<Real> s;
  const ScanSlice<Real> slice(job, item);
  const std::size_t blocks = slice.blocks(), width = padded(job.states), stride = job.groups * job.states;
  const std::size_t sums = width / kTogether * kScanSteps;
  Pack<Real>* const rate = s.states.of_size((3 * blocks + 1) * width);
  Pack<Real>* const grad = rate + blocks * width;
  Pack<Real>* const grad_A = grad + blocks * width;
  Pack<Real>* const kept = grad_A + blocks * width;
  Pack<Real>* const grad_B = s.sums.of_size(2 * sums);
  Pack<Real>* const grad_C = grad_B + sums;
  Real* const B = s.rows.of_size(2 * kScanSteps * width);
  Real* const C = B + kScanSteps * width;
  std::fill(grad_A, grad_A + blocks * width, Pack<Real>{});
  std::fill(grad_B, grad_B + 2 * sums, Pack<Real>{});
  const std::size_t first_state = (slice.batch * job.channels + slice.first) * job.states;
  for (std::size_t k = 0; k < blocks; ++k) {
    const std::size_t at = k * slice.kWidth * job.states, lanes = slice.block_lanes(k);
    gather_states(job.A_DN + slice.first * job.states + at, job.states, lanes, kLog2e<Real>, rate + k * width);
    gather_states(job.grad_last_BDN + first_state + at, job.states, lanes, Real(1), grad + k * width);
  }
  for (std::size_t chunk = job.chunks(); chunk-- > 0;) {
    const std::size_t start = chunk * kScanSteps, steps = std::min(kScanSteps, job.length - start);
    const std::size_t row = slice.batch * job.length + start, group_at = row * stride + slice.group * job.states;
    const std::size_t at = row * job.channels + slice.first;
    gather_rows(job.B_BLGN + group_at, stride, job.states, steps, B);
    gather_rows(job.C_BLGN + group_at, stride, job.states, steps, C);
    for (std::size_t k = 0; k < blocks; ++k) {
      const std::size_t first = k * slice.kWidth, lanes = slice.block_lanes(k);
      const std::size_t next = k + 1 < blocks ? at + first + slice.kWidth : chunk ? at - kScanSteps * job.channels : at;
      gather_states(job.kept_BTDN + kept_at(job, slice.batch, chunk, slice.first + first), job.states, lanes, Real(1),
                    kept);
      back_block(s, job, at + first, next, lanes,
                 StateRows<Real>{rate + k * width, kept, grad + k * width, grad_A + k * width, grad_B, grad_C}, B, C,
                 job.reset_BL ? job.reset_BL + row : nullptr, steps);
    }
    const std::size_t sums_at = slice.slice * job.batch * job.length * stride + group_at;
    add_lanes(grad_B, job.states, steps, job.grad_B_SBLGN + sums_at, stride);
    add_lanes(grad_C, job.states, steps, job.grad_C_SBLGN + sums_at, stride);
  }
  for (std::size_t k = 0; k < blocks; ++k) {
    const std::size_t at = first_state + k * slice.kWidth * job.states, lanes = slice.block_lanes(k);
    scatter_states(grad + k * width, job.states, lanes, job.grad_state_BDN + at);
    scatter_states(grad_A + k * width, job.states, lanes, job.grad_A_BDN + at);
  }
}

}  // namespace

void NEUROMIX_SET::scan_slice(const SelectiveScanBack<float>& job, std::size_t item) { backward(job, item); }
void NEUROMIX_SET::scan_slice(const SelectiveScanBack<double>& job, std::size_t item) { backward(job, item); }

}  // namespace neuromix
