// The surrogate derivatives themselves, to be inlined into loops.
#pragma once

#include <cmath>
#include <cstdint>

#include "common.h"
#include "real.h"
#include "surrogate.h"

namespace neuromix {

// 2^t for t <= 0, without a branch, so that loops around it vectorise. Relative error below 2e-7 (float) and
// 4e-16 (double); where the result would be subnormal it stays near the smallest normal number.
NEUROMIX_INLINE float exp2_negative(float t) {
  t = t < -126.0f ? -126.0f : t;          // lets NaN pass
  const float shifted = t + 12582912.0f;  // 1.5 * 2^23: the sum is rounded to an integer, in its low bits
  const float f = t - (shifted - 12582912.0f);
  float p = 1.32647238e-3f;  // fitted to 2^f, |f| <= 1/2
  p = p * f + 9.67151299e-3f;
  p = p * f + 5.55073358e-2f;
  p = p * f + 2.40222424e-1f;
  p = p * f + 6.93147004e-1f;
  p = p * f + 1.0f;
  return bit_cast<float>(bit_cast<std::uint32_t>(p) + (bit_cast<std::uint32_t>(shifted) << 23));
}

NEUROMIX_INLINE double exp2_negative(double t) {
  t = t < -1022.0 ? -1022.0 : t;
  const double shifted = t + 6755399441055744.0;  // 1.5 * 2^52
  const double f = t - (shifted - 6755399441055744.0);
  double p = 1.36914888539041289e-12;  // the Taylor series of 2^f
  p = p * f + 2.56784359934882051e-11;
  p = p * f + 4.4455382718708115e-10;
  p = p * f + 7.05491162080112333e-9;
  p = p * f + 1.01780860092396997e-7;
  p = p * f + 1.32154867901443095e-6;
  p = p * f + 1.52527338040598403e-5;
  p = p * f + 1.540353039338161e-4;
  p = p * f + 1.33335581464284434e-3;
  p = p * f + 9.61812910762847716e-3;
  p = p * f + 5.5504108664821580e-2;
  p = p * f + 2.40226506959100712e-1;
  p = p * f + 6.93147180559945309e-1;
  p = p * f + 1.0;
  return bit_cast<double>(bit_cast<std::uint64_t>(p) + (bit_cast<std::uint64_t>(shifted) << 52));
}

constexpr double kLog2OfE = 1.4426950408889634;

template <typename Real>
struct Sigmoid {  // alpha * s * (1 - s), s = sigmoid(alpha * u)
  Real alpha, height;
  explicit Sigmoid(const Slope& s) : alpha(Real(s.shape * -kLog2OfE)), height(Real(s.shape * s.scale)) {}
  NEUROMIX_INLINE Real operator()(Real u) const {
    const Real e = exp2_negative(alpha * std::abs(u)), d = 1 + e;
    return height * e / (d * d);
  }
};

template <typename Real>
struct Atan {  // alpha/2 / (1 + (pi/2 * alpha * u)^2)
  Real alpha, height;
  explicit Atan(const Slope& s)
      : alpha(Real(1.5707963267948966 * s.shape)), height(Real(s.shape / 2 * s.scale)) {}
  NEUROMIX_INLINE Real operator()(Real u) const { return height / (1 + (alpha * u) * (alpha * u)); }
};

template <typename Real>
struct Triangle {  // max(0, 1 - |u|/width) / width
  Real inverse, height;
  explicit Triangle(const Slope& s) : inverse(Real(1 / s.shape)), height(Real(s.scale / s.shape)) {}
  NEUROMIX_INLINE Real operator()(Real u) const {
    const Real rest = 1 - std::abs(u) * inverse;
    return rest > 0 ? rest * height : Real(0);
  }
};

template <typename Real, bool closed>
struct Rectangle {  // 1/width where |u| <= width/2 (< if not closed)
  Real half, height;
  explicit Rectangle(const Slope& s) : half(Real(s.shape / 2)), height(Real(s.scale / s.shape)) {}
  NEUROMIX_INLINE Real operator()(Real u) const {
    return (closed ? std::abs(u) <= half : std::abs(u) < half) ? height : Real(0);
  }
};

template <typename Real>
struct FastSigmoid {  // 1 / (1 + alpha*|u|)^2
  Real alpha, height;
  explicit FastSigmoid(const Slope& s) : alpha(Real(s.shape)), height(Real(s.scale)) {}
  NEUROMIX_INLINE Real operator()(Real u) const {
    const Real d = 1 + alpha * std::abs(u);
    return height / (d * d);
  }
};

template <typename Real>
struct Erf {  // alpha/sqrt(pi) * exp(-(alpha*u)^2)
  Real square, height;
  explicit Erf(const Slope& s)
      : square(Real(s.shape * s.shape * -kLog2OfE)), height(Real(s.shape * s.scale * 0.5641895835477563)) {}
  NEUROMIX_INLINE Real operator()(Real u) const { return height * exp2_negative(square * (u * u)); }
};

}  // namespace neuromix
