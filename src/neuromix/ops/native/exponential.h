// exp of many numbers at once: no branches and no calls, so that a loop over it becomes vector instructions.
#pragma once

#include <cstdint>

#include "common.h"
#include "real.h"

namespace neuromix {

// 2^f is close to 1 + f * (factors[0] + f * (factors[1] + ...)) for |f| <= 1/2: a polynomial through the
// Chebyshev nodes, whose relative error (5e-9, 1e-19) is below half a unit of the last place. At f = 0 it is
// 1 exactly, so that a step of width 0 leaves a state as it is.
template <typename Real>
struct PowerOfTwo;

template <>
struct PowerOfTwo<float> {
  using Bits = std::uint32_t;
  static constexpr int kMantissa = 23;
  static constexpr float kLeast = -126, kMost = 127;
  static constexpr float kRound = 12582912;  // 1.5 * 2^23: what is added to it loses its fraction
  static constexpr float factors[] = {0.693147188026f,   0.240226507606f,   0.0555035711422f,
                                      0.00961808255728f, 0.00133908633667f, 0.000154531629451f};
};

template <>
struct PowerOfTwo<double> {
  using Bits = std::uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr double kLeast = -1022, kMost = 1023;
  static constexpr double kRound = 6755399441055744;  // 1.5 * 2^52
  static constexpr double factors[] = {0.69314718055994530925,    0.24022650695910071233,
                                       0.055504108664821627039,   0.0096181291076284794928,
                                       0.0013333558146406470697,  0.00015403530393370733411,
                                       0.000015252733841556772589, 1.321548680870556279e-6,
                                       1.0178057087733941105e-7,  7.0548973041554992774e-9,
                                       4.455817908336064493e-10,  2.5729324177362304214e-11};
};

// 2^z: 0 below the smallest normal number, at most 2^kMost * sqrt(2), NaN for NaN. Relative error near 1e-7 or
// 2e-16.
template <typename Real>
NEUROMIX_INLINE Real power_of_two(Real z) {
  using P = PowerOfTwo<Real>;
  constexpr int kDegree = sizeof(P::factors) / sizeof(Real);
  const bool vanishes = z < P::kLeast;
  z = vanishes ? P::kLeast : z;
  z = z > P::kMost ? P::kMost : z;
  const Real rounded = z + P::kRound;  // holds the whole part of z in its last bits
  const Real f = z - (rounded - P::kRound);
  Real sum = P::factors[kDegree - 1];
  for (int i = kDegree - 2; i >= 0; --i) sum = sum * f + P::factors[i];
  sum = sum * f + 1;
  using Bits = typename P::Bits;
  const Real power = bit_cast<Real>(Bits(bit_cast<Bits>(sum) + (bit_cast<Bits>(rounded) << P::kMantissa)));
  return vanishes ? 0 : power;
}

template <typename Real>
constexpr Real kLog2e = Real(1.4426950408889634074);

}  // namespace neuromix
