#include "buffer.h"
#include "pool.h"
#include "selective_scan_block.h"

namespace neuromix {
namespace {

template <typename Real>
struct Scratch {
  Lanes<Real> x, delta, input, decay, y;
  Buffer<Real> states;
};

// One block of channels over one chunk of steps; h_N of the block goes from before it to after it.
template <typename Real>
NEUROMIX_INLINE void scan_chunk(Scratch<Real>& s, const Real* rate_N, const Real* B_LGN, const Real* C_LGN,
                                std::size_t stride, const std::uint8_t* reset, std::size_t states,
                                std::size_t steps, Real* h_N) {
  for (std::size_t t = 0; t < steps; ++t)
    for (std::size_t l = 0; l < kScanLanes; ++l) {
      s.input.at[t][l] = s.delta.at[t][l] * s.x.at[t][l];
      s.y.at[t][l] = 0;
    }
  for (std::size_t n = 0; n < states; ++n) {
    decays(s.delta, rate_N + n * kScanLanes, reset, steps, s.decay);
    Real h[kScanLanes];
    std::copy(h_N + n * kScanLanes, h_N + (n + 1) * kScanLanes, h);
    for (std::size_t t = 0; t < steps; ++t) {
      const Real b = B_LGN[t * stride + n], c = C_LGN[t * stride + n];
      for (std::size_t l = 0; l < kScanLanes; ++l) {
        h[l] = s.decay.at[t][l] * h[l] + b * s.input.at[t][l];
        s.y.at[t][l] += c * h[l];
      }
    }
    std::copy(h, h + kScanLanes, h_N + n * kScanLanes);
  }
}

template <typename Real>
NEUROMIX_INLINE void scan_slice(const SelectiveScan<Real>& job, std::size_t item) {
  thread_local Scratch<Real> s;
  const ScanSlice slice(job, item);
  const std::size_t size = job.states * kScanLanes, stride = job.groups * job.states;
  Real* const rate = s.states.of_size(2 * slice.blocks() * size);
  Real* const state = rate + slice.blocks() * size;
  for (std::size_t k = 0; k < slice.blocks(); ++k) {
    const std::size_t channel = slice.first + k * kScanLanes;
    gather_states(job.A_DN + channel * job.states, job.states, slice.block_lanes(k), kLog2e<Real>,
                  rate + k * size);
    gather_states(job.state_BDN + (slice.batch * job.channels + channel) * job.states, job.states,
                  slice.block_lanes(k), Real(1), state + k * size);
  }
  for (std::size_t chunk = 0; chunk < job.chunks(); ++chunk) {
    const std::size_t start = chunk * kScanSteps, steps = std::min(kScanSteps, job.length - start);
    const std::size_t row = slice.batch * job.length + start;
    for (std::size_t k = 0; k < slice.blocks(); ++k) {
      const std::size_t channel = slice.first + k * kScanLanes, lanes = slice.block_lanes(k);
      const std::size_t at = row * job.channels + channel;
      if (job.kept_BTDN)
        scatter_states(state + k * size, job.states, lanes,
                       job.kept_BTDN + kept_at(job, slice.batch, chunk, channel));
      gather(job.x_BLD + at, job.channels, steps, lanes, s.x);
      gather(job.delta_BLD + at, job.channels, steps, lanes, s.delta);
      scan_chunk(s, rate + k * size, job.B_BLGN + row * stride + slice.group * job.states,
                 job.C_BLGN + row * stride + slice.group * job.states, stride,
                 job.reset_BL ? job.reset_BL + row : nullptr, job.states, steps, state + k * size);
      scatter(s.y, steps, lanes, job.y_BLD + at, job.channels);
    }
  }
  for (std::size_t k = 0; k < slice.blocks(); ++k)
    scatter_states(state + k * size, job.states, slice.block_lanes(k),
                   job.last_BDN + (slice.batch * job.channels + slice.first + k * kScanLanes) * job.states);
}

NEUROMIX_CLONES void run_slice(const SelectiveScan<float>& job, std::size_t item) { scan_slice(job, item); }
NEUROMIX_CLONES void run_slice(const SelectiveScan<double>& job, std::size_t item) { scan_slice(job, item); }

}  // namespace

template <typename Real>
void run(const SelectiveScan<Real>& job, std::size_t threads) {
  parallel_blocks(scan_items(job), 1, threads,
                  [&](std::size_t item, std::size_t) noexcept { run_slice(job, item); });
}

template void run(const SelectiveScan<float>&, std::size_t);
template void run(const SelectiveScan<double>&, std::size_t);

}  // namespace neuromix
