// Compiled once for each instruction set.
#include "selective_scan_block.h"
#include "selective_scan_kernels.h"

namespace neuromix {
namespace {

template <typename Real>
struct Scratch {
  Steps<Real> delta, input, y;
  Buffer<Pack<Real>> states;
  Buffer<Real> rows;
};

// kTogether states over one chunk: `state` goes from before it to after it, and y gains what they give.
template <typename Real>
NEUROMIX_INLINE void scan_states(Scratch<Real>& s, const Pack<Real>* rates, const Real* B, const Real* C,
                                 std::size_t width, const std::uint8_t* reset, std::size_t steps,
                                 const Ahead<Real, 3>& ahead, std::size_t group, Pack<Real>* state) {
  Pack<Real> h[kTogether], rate[kTogether];
  for (std::size_t n = 0; n < kTogether; ++n) h[n] = state[n], rate[n] = rates[n];
  for (std::size_t t = 0; t < steps; ++t, B += width, C += width) {
    const Pack<Real> delta = s.delta.at[t], input = s.input.at[t];
    Pack<Real> y = s.y.at[t];
    const bool resets = reset && reset[t];
    ahead.ask(group, t);
    for (std::size_t n = 0; n < kTogether; ++n) {
      Pack<Real> decay = power_of_two<Real>(delta * rate[n]);
      if (resets) decay = Pack<Real>{};
      h[n] = decay * h[n] + B[n] * input;
      y += C[n] * h[n];
    }
    s.y.at[t] = y;
  }
  for (std::size_t n = 0; n < kTogether; ++n) state[n] = h[n];
}

// One block of channels over one chunk; `at` is where its first numbers are, `next` where those of the next block are.
template <typename Real>
NEUROMIX_INLINE void scan_block(Scratch<Real>& s, const SelectiveScan<Real>& job, std::size_t at, std::size_t next,
                                std::size_t lanes, const Pack<Real>* rate, const Real* B, const Real* C,
                                const std::uint8_t* reset, std::size_t steps, Pack<Real>* state) {
  const std::size_t width = padded(job.states);
  const Ahead<Real, 3> ahead{
      {job.x_BLD + next, job.delta_BLD + next, job.y_BLD + next}, job.channels, width / kTogether};
  gather(job.x_BLD + at, job.channels, steps, lanes, s.input);
  gather(job.delta_BLD + at, job.channels, steps, lanes, s.delta);
  for (std::size_t t = 0; t < steps; ++t) {
    s.input.at[t] *= s.delta.at[t];
    s.y.at[t] = Pack<Real>{};
  }
  for (std::size_t n = 0; n < width; n += kTogether)
    scan_states(s, rate + n, B + n, C + n, width, reset, steps, ahead, n / kTogether, state + n);
  scatter(s.y, steps, lanes, job.y_BLD + at, job.channels);
}

template <typename Real>
NEUROMIX_INLINE void forward(const SelectiveScan<Real>& job, std::size_t item) {
  static thread_local Scratch<Real> s;
  const ScanSlice<Real> slice(job, item);
  const std::size_t blocks = slice.blocks(), width = padded(job.states), stride = job.groups * job.states;
  Pack<Real>* const rate = s.states.of_size(2 * blocks * width);
  Pack<Real>* const state = rate + blocks * width;
  Real* const B = s.rows.of_size(2 * kScanSteps * width);
  Real* const C = B + kScanSteps * width;
  const std::size_t first_state = (slice.batch * job.channels + slice.first) * job.states;
  for (std::size_t k = 0; k < blocks; ++k) {
    const std::size_t at = k * slice.kWidth * job.states, lanes = slice.block_lanes(k);
    gather_states(job.A_DN + slice.first * job.states + at, job.states, lanes, kLog2e<Real>, rate + k * width);
    gather_states(job.state_BDN + first_state + at, job.states, lanes, Real(1), state + k * width);
  }
  for (std::size_t chunk = 0; chunk < job.chunks(); ++chunk) {
    const std::size_t start = chunk * kScanSteps, steps = std::min(kScanSteps, job.length - start);
    const std::size_t row = slice.batch * job.length + start, group_at = row * stride + slice.group * job.states;
    const std::size_t at = row * job.channels + slice.first;
    const bool another = start + 2 * steps <= job.length;  // chunk of as many steps
    gather_rows(job.B_BLGN + group_at, stride, job.states, steps, B);
    gather_rows(job.C_BLGN + group_at, stride, job.states, steps, C);
    for (std::size_t k = 0; k < blocks; ++k) {
      const std::size_t first = k * slice.kWidth, lanes = slice.block_lanes(k);
      const std::size_t next = k + 1 < blocks ? at + first + slice.kWidth : another ? at + steps * job.channels : at;
      if (job.kept_BTDN)
        scatter_states(state + k * width, job.states, lanes,
                       job.kept_BTDN + kept_at(job, slice.batch, chunk, slice.first + first));
      scan_block(s, job, at + first, next, lanes, rate + k * width, B, C, job.reset_BL ? job.reset_BL + row : nullptr,
                 steps, state + k * width);
    }
  }
  for (std::size_t k = 0; k < blocks; ++k)
    scatter_states(state + k * width, job.states, slice.block_lanes(k),
                   job.last_BDN + first_state + k * slice.kWidth * job.states);
}

}  // namespace

void NEUROMIX_SET::scan_slice(const SelectiveScan<float>& job, std::size_t item) { forward(job, item); }
void NEUROMIX_SET::scan_slice(const SelectiveScan<double>& job, std::size_t item) { forward(job, item); }

}  // namespace neuromix
