// Surrogate derivatives of the spike, as functions of the distance from the threshold.
#pragma once

#include <cstddef>

namespace neuromix {

enum class Surrogate { sigmoid, atan, triangle, rectangle, fast_sigmoid, erf };

// A kind with its width - `shape` is alpha or width, as the kind has it - and a factor on the derivative.
struct Slope {
  Surrogate kind;
  double shape, scale;
  bool closed;  // rectangle: whether its border belongs to it
};

// slope[n] = ds/dh at the membrane potential h[n]: the derivative at u = (h - fire) * inverse, times
// `inverse`, which is 1, or 1/fire where the surrogate is a function of the ratio h/fire.
void fill_slopes(const Slope& kind, std::size_t count, const float* h, const float* fire,
                 const float* inverse, float* slope);
void fill_slopes(const Slope& kind, std::size_t count, const double* h, const double* fire,
                 const double* inverse, double* slope);

}  // namespace neuromix
