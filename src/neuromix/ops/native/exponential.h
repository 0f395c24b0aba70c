// exp of many numbers at once: no branches and no calls.
#pragma once

#include <cstdint>

#include "pack.h"
#include "real.h"

namespace neuromix {
namespace {

// 2^f is close to 1 + f * (factors[0] + f * (factors[1] + ...)) for |f| <= 1/2: a polynomial through the
// Chebyshev nodes, whose relative error (5e-9, 1e-19) is below half a unit of the last place. At f = 0 it is
// 1 exactly, so that a step of width 0 leaves a state as it is.
template <typename Real>
struct PowerOfTwo;

template <>
struct PowerOfTwo<float> {
  using Bits = std::uint32_t;
  static constexpr int kMantissa = 23;
  static constexpr float kLeast = -127, kMost = 127;
  static constexpr float kRound = 12582912;  // 1.5 * 2^23: what is added to it loses its fraction
  static constexpr float factors[] = {0.693147188026f,   0.240226507606f,   0.0555035711422f,
                                      0.00961808255728f, 0.00133908633667f, 0.000154531629451f};
};

template <>
struct PowerOfTwo<double> {
  using Bits = std::uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr double kLeast = -1023, kMost = 1023;
  static constexpr double kRound = 6755399441055744;  // 1.5 * 2^52
  static constexpr double factors[] = {0.69314718055994530925,    0.24022650695910071233,
                                       0.055504108664821627039,   0.0096181291076284794928,
                                       0.0013333558146406470697,  0.00015403530393370733411,
                                       0.000015252733841556772589, 1.321548680870556279e-6,
                                       1.0178057087733941105e-7,  7.0548973041554992774e-9,
                                       4.455817908336064493e-10,  2.5729324177362304214e-11};
};

template <typename Real>
constexpr Real kLog2e = Real(1.4426950408889634074);

// 2^f for |f| <= 1/2, of a number or a pack.
template <typename Real, typename Numbers>
NEUROMIX_INLINE Numbers power_of_fraction(const Numbers& f, Numbers sum) {
  using P = PowerOfTwo<Real>;
  for (int i = int(sizeof(P::factors) / sizeof(Real)) - 2; i >= 0; --i) sum = sum * f + P::factors[i];
  return sum * f + Real(1);
}

// 2^z: relative error near 1e-7 or 2e-16 where that is a normal number; below, absolute error below the smallest of
// them, 0 from the next power of two on; at most 2^kMost * sqrt(2) or infinite; NaN for NaN.
template <typename Real>
NEUROMIX_INLINE Pack<Real> power_of_two(Pack<Real> z) {
  using P = PowerOfTwo<Real>;
  constexpr Real last = P::factors[sizeof(P::factors) / sizeof(Real) - 1];
#if defined(NEUROMIX_ARRAY_PACKS) || !defined(__GNUC__)
  return Pack<Real>::each([&](std::size_t l) {
    Real x = z.at[l] < P::kLeast ? P::kLeast : z.at[l];
    x = x > P::kMost ? P::kMost : x;
    const Real rounded = x + P::kRound;
    const auto power = bit_cast<typename P::Bits>(rounded) << P::kMantissa;
    const Real fraction = power_of_fraction<Real, Real>(x - (rounded - P::kRound), last);
    return bit_cast<Real>(typename P::Bits(bit_cast<typename P::Bits>(fraction) + power));
  });
#else
#if defined(__AVX512F__)
  z = larger<Real>(fill_pack(2 * P::kLeast), z);  // finite, and vanishes
  if constexpr (sizeof(Real) == 4) {
    const __m512 whole = _mm512_roundscale_ps((__m512)z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Pack<Real> power = power_of_fraction<Real, Pack<Real>>(z - (Pack<Real>)whole, fill_pack(last));
    return (Pack<Real>)_mm512_scalef_ps((__m512)power, whole);
  } else {
    const __m512d whole = _mm512_roundscale_pd((__m512d)z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Pack<Real> power = power_of_fraction<Real, Pack<Real>>(z - (Pack<Real>)whole, fill_pack(last));
    return (Pack<Real>)_mm512_scalef_pd((__m512d)power, whole);
  }
#else
  using Bits = typename Vector<typename P::Bits, kLanes<Real>>::type;
  z = smaller<Real>(fill_pack(P::kMost), larger<Real>(fill_pack(P::kLeast), z));
  const Pack<Real> rounded = z + P::kRound;  // holds the whole part of z in its last bits
  const Pack<Real> power = power_of_fraction<Real, Pack<Real>>(z - (rounded - P::kRound), fill_pack(last));
  return (Pack<Real>)((Bits)power + ((Bits)rounded << P::kMantissa));
#endif
#endif
}

}  // namespace
}  // namespace neuromix
