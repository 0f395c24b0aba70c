#include "buffer.h"
#include "pool.h"
#include "selective_scan_block.h"

namespace neuromix {
namespace {

template <typename Real>
struct Scratch {
  Lanes<Real> x, delta, input, grad_y, decay, state, grad_input, grad_delta;
  Buffer<Real> states, sums;
};

// What belongs to the states of one block: rows of lanes, and the sums over channels [states][steps][lanes].
template <typename Real>
struct StateRows {
  const Real* rate;
  const Real* kept;  // the state before the chunk
  Real* grad;        // of the state after the chunk, then of that before it
  Real* grad_A;
  Real* grad_B;
  Real* grad_C;
};

// The states of a chunk once more: at[t] is the one before step t.
template <typename Real>
NEUROMIX_INLINE void replay(Scratch<Real>& s, const Real* h_0, const Real* B, std::size_t stride,
                            std::size_t steps) {
  Real h[kScanLanes];
  std::copy(h_0, h_0 + kScanLanes, h);
  std::copy(h_0, h_0 + kScanLanes, s.state.at[0]);
  for (std::size_t t = 0; t < steps; ++t) {
    const Real b = B[t * stride];
    for (std::size_t l = 0; l < kScanLanes; ++l) {
      h[l] = s.decay.at[t][l] * h[l] + b * s.input.at[t][l];
      s.state.at[t + 1][l] = h[l];
    }
  }
}

// One state of one block, from the last step of a chunk to the first.
template <typename Real>
NEUROMIX_INLINE void walk_back(Scratch<Real>& s, const StateRows<Real>& rows, const Real* B, const Real* C,
                               std::size_t stride, std::size_t steps) {
  Real grad[kScanLanes], grad_A[kScanLanes], rate[kScanLanes];
  std::copy(rows.grad, rows.grad + kScanLanes, grad);
  std::copy(rows.grad_A, rows.grad_A + kScanLanes, grad_A);
  std::copy(rows.rate, rows.rate + kScanLanes, rate);
  for (std::size_t t = steps; t-- > 0;) {
    const Real b = B[t * stride], c = C[t * stride];
    Real* const sum_B = rows.grad_B + t * kScanLanes;
    Real* const sum_C = rows.grad_C + t * kScanLanes;
    NEUROMIX_INDEPENDENT
    for (std::size_t l = 0; l < kScanLanes; ++l) {
      const Real full = grad[l] + c * s.grad_y.at[t][l];  // of the state after step t
      sum_C[l] += s.grad_y.at[t][l] * s.state.at[t + 1][l];
      sum_B[l] += full * s.input.at[t][l];
      s.grad_input.at[t][l] += full * b;
      grad[l] = full * s.decay.at[t][l];
      const Real exponent = grad[l] * s.state.at[t][l];  // the gradient of delta A
      s.grad_delta.at[t][l] += exponent * rate[l];
      grad_A[l] += exponent * s.delta.at[t][l];
    }
  }
  std::copy(grad, grad + kScanLanes, rows.grad);
  std::copy(grad_A, grad_A + kScanLanes, rows.grad_A);
}

// Sums over lanes, and makes them ready for the next chunk.
template <typename Real>
NEUROMIX_INLINE void add_lanes(Real* sums, std::size_t states, std::size_t steps, Real* to_LGN,
                               std::size_t stride) {
  for (std::size_t n = 0; n < states; ++n)
    for (std::size_t t = 0; t < steps; ++t) {
      Real* const sum = sums + (n * kScanSteps + t) * kScanLanes;
      for (std::size_t half = kScanLanes / 2; half; half /= 2)
        for (std::size_t l = 0; l < half; ++l) sum[l] += sum[l + half];
      to_LGN[t * stride + n] = sum[0];
      std::fill(sum, sum + kScanLanes, Real(0));
    }
}

template <typename Real>
NEUROMIX_INLINE void back_chunk(const SelectiveScanBack<Real>& job, Scratch<Real>& s,
                                const StateRows<Real>& rows, const Real* B, const Real* C,
                                const std::uint8_t* reset, std::size_t steps) {
  const std::size_t stride = job.groups * job.states;
  for (std::size_t t = 0; t < steps; ++t)
    for (std::size_t l = 0; l < kScanLanes; ++l) {
      s.input.at[t][l] = s.delta.at[t][l] * s.x.at[t][l];
      s.grad_input.at[t][l] = s.grad_delta.at[t][l] = 0;
    }
  for (std::size_t n = 0; n < job.states; ++n) {
    const std::size_t at = n * kScanLanes, sum_at = n * kScanSteps * kScanLanes;
    decays(s.delta, rows.rate + at, reset, steps, s.decay);
    replay(s, rows.kept + at, B + n, stride, steps);
    walk_back(s,
              StateRows<Real>{rows.rate + at, nullptr, rows.grad + at, rows.grad_A + at, rows.grad_B + sum_at,
                              rows.grad_C + sum_at},
              B + n, C + n, stride, steps);
  }
  // The rate is A in powers of two.
  for (std::size_t t = 0; t < steps; ++t)
    for (std::size_t l = 0; l < kScanLanes; ++l) {
      s.grad_delta.at[t][l] = s.grad_delta.at[t][l] / kLog2e<Real> + s.grad_input.at[t][l] * s.x.at[t][l];
      s.grad_input.at[t][l] *= s.delta.at[t][l];
    }
}

template <typename Real>
NEUROMIX_INLINE void back_slice(const SelectiveScanBack<Real>& job, std::size_t item) {
  thread_local Scratch<Real> s;
  const ScanSlice slice(job, item);
  const std::size_t blocks = slice.blocks(), size = job.states * kScanLanes, stride = job.groups * job.states;
  Real* const rate = s.states.of_size((3 * blocks + 1) * size);
  Real* const grad = rate + blocks * size;
  Real* const grad_A = grad + blocks * size;
  Real* const kept = grad_A + blocks * size;
  Real* const grad_B = s.sums.of_size(2 * size * kScanSteps);
  Real* const grad_C = grad_B + size * kScanSteps;
  std::fill(grad_A, grad_A + blocks * size, Real(0));
  std::fill(grad_B, grad_B + 2 * size * kScanSteps, Real(0));
  const std::size_t first_state = (slice.batch * job.channels + slice.first) * job.states;
  for (std::size_t k = 0; k < blocks; ++k) {
    const std::size_t at = k * kScanLanes * job.states;
    gather_states(job.A_DN + slice.first * job.states + at, job.states, slice.block_lanes(k), kLog2e<Real>,
                  rate + k * size);
    gather_states(job.grad_last_BDN + first_state + at, job.states, slice.block_lanes(k), Real(1),
                  grad + k * size);
  }
  for (std::size_t chunk = job.chunks(); chunk-- > 0;) {
    const std::size_t start = chunk * kScanSteps, steps = std::min(kScanSteps, job.length - start);
    const std::size_t row = slice.batch * job.length + start;
    const std::size_t group_at = row * stride + slice.group * job.states;
    for (std::size_t k = 0; k < blocks; ++k) {
      const std::size_t channel = slice.first + k * kScanLanes, lanes = slice.block_lanes(k);
      const std::size_t at = row * job.channels + channel;
      gather(job.x_BLD + at, job.channels, steps, lanes, s.x);
      gather(job.delta_BLD + at, job.channels, steps, lanes, s.delta);
      gather(job.grad_y_BLD + at, job.channels, steps, lanes, s.grad_y);
      gather_states(job.kept_BTDN + kept_at(job, slice.batch, chunk, channel), job.states, lanes, Real(1),
                    kept);
      back_chunk(job, s, {rate + k * size, kept, grad + k * size, grad_A + k * size, grad_B, grad_C},
                 job.B_BLGN + group_at, job.C_BLGN + group_at, job.reset_BL ? job.reset_BL + row : nullptr,
                 steps);
      scatter(s.grad_input, steps, lanes, job.grad_x_BLD + at, job.channels);
      scatter(s.grad_delta, steps, lanes, job.grad_delta_BLD + at, job.channels);
    }
    const std::size_t sums_at = slice.slice * job.batch * job.length * stride + group_at;
    add_lanes(grad_B, job.states, steps, job.grad_B_SBLGN + sums_at, stride);
    add_lanes(grad_C, job.states, steps, job.grad_C_SBLGN + sums_at, stride);
  }
  for (std::size_t k = 0; k < blocks; ++k) {
    const std::size_t at = first_state + k * kScanLanes * job.states;
    scatter_states(grad + k * size, job.states, slice.block_lanes(k), job.grad_state_BDN + at);
    scatter_states(grad_A + k * size, job.states, slice.block_lanes(k), job.grad_A_BDN + at);
  }
}

NEUROMIX_CLONES void run_slice(const SelectiveScanBack<float>& job, std::size_t item) {
  back_slice(job, item);
}
NEUROMIX_CLONES void run_slice(const SelectiveScanBack<double>& job, std::size_t item) {
  back_slice(job, item);
}

}  // namespace

template <typename Real>
void run(const SelectiveScanBack<Real>& job, std::size_t threads) {
  parallel_blocks(scan_items(job), 1, threads,
                  [&](std::size_t item, std::size_t) noexcept { run_slice(job, item); });
}

template void run(const SelectiveScanBack<float>&, std::size_t);
template void run(const SelectiveScanBack<double>&, std::size_t);

}  // namespace neuromix
