#include "surrogate.h"

#include "slopes.h"

namespace neuromix {
namespace {

template <typename Derivative, typename Real>
NEUROMIX_INLINE void fill(const Derivative derivative, std::size_t count, const Real* h, const Real* fire,
                          const Real* inverse, Real* slope) {
  NEUROMIX_INDEPENDENT
  for (std::size_t n = 0; n < count; ++n) slope[n] = derivative((h[n] - fire[n]) * inverse[n]) * inverse[n];
}

template <typename Real, typename... Rest>
NEUROMIX_INLINE void fill_any(const Slope& s, const Rest&... rest) {
  switch (s.kind) {
    case Surrogate::sigmoid:
      return fill(Sigmoid<Real>(s), rest...);
    case Surrogate::atan:
      return fill(Atan<Real>(s), rest...);
    case Surrogate::triangle:
      return fill(Triangle<Real>(s), rest...);
    case Surrogate::rectangle:
      return s.closed ? fill(Rectangle<Real, true>(s), rest...) : fill(Rectangle<Real, false>(s), rest...);
    case Surrogate::fast_sigmoid:
      return fill(FastSigmoid<Real>(s), rest...);
    case Surrogate::erf:
      return fill(Erf<Real>(s), rest...);
  }
}

}  // namespace

NEUROMIX_CLONES void fill_slopes(const Slope& kind, std::size_t count, const float* h, const float* fire,
                                 const float* inverse, float* slope) {
  fill_any<float>(kind, count, h, fire, inverse, slope);
}

NEUROMIX_CLONES void fill_slopes(const Slope& kind, std::size_t count, const double* h, const double* fire,
                                 const double* inverse, double* slope) {
  fill_any<double>(kind, count, h, fire, inverse, slope);
}

}  // namespace neuromix
