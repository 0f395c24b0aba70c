#include "levels.h"

#include <cmath>

#include "pool.h"

namespace neuromix {
namespace {

constexpr std::size_t kBlock = 1 << 14;
constexpr std::size_t kElementsPerThread = 1 << 16;

template <typename Stored, typename Real = RealOf<Stored>>
NEUROMIX_INLINE void forward(const Levels& l, std::size_t count, const Stored* x, Stored* y) {
  const Real gain = Real(l.gain), levels = Real(l.levels), unit = Real(l.unit);
  NEUROMIX_INDEPENDENT
  for (std::size_t n = 0; n < count; ++n) {
    Real z = gain * load(x[n]);
    z = z < 0 ? Real(0) : z > levels ? levels : z;  // lets NaN pass
    y[n] = store<Stored>(std::floor(z + Real(0.5)) * unit);
  }
}

template <typename Stored, typename Real = RealOf<Stored>>
NEUROMIX_INLINE void backward(const Levels& l, std::size_t count, const Stored* x, const Stored* grad,
                              Stored* grad_x) {
  const Real gain = Real(l.gain), levels = Real(l.levels), slope = Real(l.gain * l.unit);
  NEUROMIX_INDEPENDENT
  for (std::size_t n = 0; n < count; ++n) {
    const Real z = gain * load(x[n]), g = load(grad[n]) * slope;
    grad_x[n] = store<Stored>((z > 0) & (z < levels) ? g : Real(0));
  }
}

#define NEUROMIX_LEVELS(Stored)                                                                           \
  NEUROMIX_CLONES void run_range(const Levels& l, std::size_t count, const Stored* x, const Stored* grad, \
                                 Stored* output) {                                                        \
    grad ? backward(l, count, x, grad, output) : forward(l, count, x, output);                            \
  }
NEUROMIX_LEVELS(float)
NEUROMIX_LEVELS(double)
NEUROMIX_LEVELS(bfloat16)
#undef NEUROMIX_LEVELS

}  // namespace

template <typename Stored>
void run(const LevelsJob<Stored>& job, std::size_t threads) {
  threads = std::max<std::size_t>(1, std::min(threads, job.steps * job.neurons / kElementsPerThread));
  parallel_blocks(job.neurons, kBlock, threads, [&](std::size_t first, std::size_t last) noexcept {
    for (std::size_t t = 0; t < job.steps; ++t)
      run_range(job.levels, last - first, job.x_TN + std::ptrdiff_t(t) * job.x_stride + first,
                job.grad_TN ? job.grad_TN + std::ptrdiff_t(t) * job.grad_stride + first : nullptr,
                job.output_TN + t * job.neurons + first);
  });
}

template void run(const LevelsJob<float>&, std::size_t);
template void run(const LevelsJob<double>&, std::size_t);
template void run(const LevelsJob<bfloat16>&, std::size_t);

}  // namespace neuromix
