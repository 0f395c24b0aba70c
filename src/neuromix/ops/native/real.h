// How numbers are stored and in which type they are computed: bfloat16 is storage for float arithmetic.
#pragma once

#include <cstdint>
#include <cstring>

#include "common.h"

namespace neuromix {

struct bfloat16 {
  std::uint16_t bits;
};

template <typename Stored>
struct Arithmetic {
  using Real = Stored;
};
template <>
struct Arithmetic<bfloat16> {
  using Real = float;
};
template <typename Stored>
using RealOf = typename Arithmetic<Stored>::Real;

template <typename To, typename From>
NEUROMIX_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <typename Real>
NEUROMIX_INLINE Real load(Real x) {
  return x;
}
NEUROMIX_INLINE float load(bfloat16 x) { return bit_cast<float>(std::uint32_t(x.bits) << 16); }

template <typename Stored>
NEUROMIX_INLINE Stored store(RealOf<Stored> x) {
  return x;
}
// To the nearest, ties to even; NaN stays NaN.
template <>
NEUROMIX_INLINE bfloat16 store<bfloat16>(float x) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {std::uint16_t(x == x ? rounded : 0x7fc0u)};
}

// A coefficient that all neurons share, or one for each.
template <typename Real>
NEUROMIX_INLINE Real at(Real shared, std::size_t) {
  return shared;
}
template <typename Real>
NEUROMIX_INLINE Real at(const Real* each, std::size_t n) {
  return each[n];
}

}  // namespace neuromix
