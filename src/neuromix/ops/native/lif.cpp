#include "lif.h"

#include "common.h"

namespace neuromix {
namespace {

// Neurons walked over all time steps at once: few enough that their state stays in the first-level cache.
constexpr std::size_t kBlock = 1024;
// Below this much work for each thread, starting one costs more than it saves.
constexpr std::size_t kElementsPerThread = 1 << 18;

template <typename Real>
struct Forward {
  Lif<Real> lif;
  std::size_t steps, neurons;
  const Real* x_TN;
  Real* v_N;
  Real* spikes_TN;
};

template <bool hard_reset, bool strict, typename Real>
NEUROMIX_INLINE void walk(const Forward<Real>& f, std::size_t first, std::size_t last) noexcept {
  const auto [decay, gain, offset, v_threshold, v_reset, _hard, _strict] = f.lif;
  Real* NEUROMIX_RESTRICT v = f.v_N;
  for (std::size_t t = 0; t < f.steps; ++t) {
    const Real* NEUROMIX_RESTRICT x = f.x_TN + t * f.neurons;
    Real* NEUROMIX_RESTRICT spikes = f.spikes_TN + t * f.neurons;
    for (std::size_t n = first; n < last; ++n) {
      const Real h = decay * v[n] + gain * x[n] + offset;
      const bool fires = strict ? h > v_threshold : h >= v_threshold;
      const Real s = fires ? Real(1) : Real(0);
      spikes[n] = s;
      v[n] = hard_reset ? (fires ? v_reset : h) : h - s * v_threshold;
    }
  }
}

// The options become template arguments, so that the inner loop has no branch.
template <typename Real>
NEUROMIX_INLINE void forward_any(const Forward<Real>& f, std::size_t first, std::size_t last) noexcept {
  if (f.lif.hard_reset)
    f.lif.strict ? walk<true, true>(f, first, last) : walk<true, false>(f, first, last);
  else
    f.lif.strict ? walk<false, true>(f, first, last) : walk<false, false>(f, first, last);
}

NEUROMIX_CLONES void forward_block(const Forward<float>& f, std::size_t first, std::size_t last) noexcept {
  forward_any(f, first, last);
}

NEUROMIX_CLONES void forward_block(const Forward<double>& f, std::size_t first, std::size_t last) noexcept {
  forward_any(f, first, last);
}

}  // namespace

template <typename Real>
void lif_forward(const Lif<Real>& lif, std::size_t steps, std::size_t neurons, const Real* x_TN, Real* v_N,
                 Real* spikes_TN, std::size_t threads) {
  const Forward<Real> f{lif, steps, neurons, x_TN, v_N, spikes_TN};
  threads = std::min(threads, 1 + steps * neurons / kElementsPerThread);
  parallel_blocks(neurons, kBlock, threads,
                  [&](std::size_t first, std::size_t last) noexcept { forward_block(f, first, last); });
}

template void lif_forward(const Lif<float>&, std::size_t, std::size_t, const float*, float*, float*, std::size_t);
template void lif_forward(const Lif<double>&, std::size_t, std::size_t, const double*, double*, double*,
                          std::size_t);

}  // namespace neuromix
