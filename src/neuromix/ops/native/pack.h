// Numbers side by side in one vector register of the instruction set that a file is compiled for.
#pragma once

#include <cstddef>
#include <cstring>
#include <utility>

#include "common.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace neuromix {
namespace {  // what is compiled for another set has other types of the same names

#if defined(__AVX512F__)
constexpr std::size_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr std::size_t kVectorBytes = 32;
#else
constexpr std::size_t kVectorBytes = 16;
#endif

// Four at least, since `sums_of_four` takes them in fours.
template <typename Real>
constexpr std::size_t kLanes = kVectorBytes < 4 * sizeof(Real) ? 4 : kVectorBytes / sizeof(Real);

#if defined(__GNUC__) && !defined(NEUROMIX_ARRAY_PACKS)

template <typename Number, std::size_t lanes>
struct Vector {
  typedef Number type __attribute__((vector_size(lanes * sizeof(Number))));
};
template <typename Real>
using Pack = typename Vector<Real, kLanes<Real>>::type;

template <typename Real>
NEUROMIX_INLINE Pack<Real> fill_pack(Real x) {
  return x - Pack<Real>{};
}

// The larger of each pair; NaN where b is NaN.
template <typename Real>
NEUROMIX_INLINE Pack<Real> larger(Pack<Real> a, Pack<Real> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) return (Pack<Real>)_mm512_max_ps((__m512)a, (__m512)b);
  if constexpr (sizeof(Real) == 8) return (Pack<Real>)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
  if constexpr (sizeof(Real) == 4) return (Pack<Real>)_mm256_max_ps((__m256)a, (__m256)b);
  if constexpr (sizeof(Real) == 8) return (Pack<Real>)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
  return a > b ? a : b;
#endif
}
// The smaller of each pair; NaN where b is NaN.
template <typename Real>
NEUROMIX_INLINE Pack<Real> smaller(Pack<Real> a, Pack<Real> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) return (Pack<Real>)_mm512_min_ps((__m512)a, (__m512)b);
  if constexpr (sizeof(Real) == 8) return (Pack<Real>)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
  if constexpr (sizeof(Real) == 4) return (Pack<Real>)_mm256_min_ps((__m256)a, (__m256)b);
  if constexpr (sizeof(Real) == 8) return (Pack<Real>)_mm256_min_pd((__m256d)a, (__m256d)b);
#else
  return a < b ? a : b;
#endif
}

// Two packs give one: in every four lanes a0 + a2, b0 + b2, a1 + a3, b1 + b3 of the same four lanes of both.
template <typename Real, std::size_t... lane>
NEUROMIX_INLINE Pack<Real> sums_of_two(const Pack<Real>& a, const Pack<Real>& b, std::index_sequence<lane...>) {
  return __builtin_shufflevector(a, b, (lane / 4 * 4 + lane % 4 / 2 + lane % 2 * kLanes<Real>)...) +
         __builtin_shufflevector(a, b, (lane / 4 * 4 + lane % 4 / 2 + lane % 2 * kLanes<Real> + 2)...);
}
// The same of two such packs: in every four lanes the sums of a, b, c and d.
template <typename Real, std::size_t... lane>
NEUROMIX_INLINE Pack<Real> sums_of_pairs(const Pack<Real>& ab, const Pack<Real>& cd, std::index_sequence<lane...>) {
  return __builtin_shufflevector(ab, cd, (lane / 4 * 4 + lane % 2 + lane % 4 / 2 * kLanes<Real>)...) +
         __builtin_shufflevector(ab, cd, (lane / 4 * 4 + lane % 2 + lane % 4 / 2 * kLanes<Real> + 2)...);
}

// In every four lanes the sums of these four lanes of a, b, c and d.
template <typename Real>
NEUROMIX_INLINE Pack<Real> sums_of_four(const Pack<Real>& a, const Pack<Real>& b, const Pack<Real>& c,
                                        const Pack<Real>& d) {
  constexpr auto lanes = std::make_index_sequence<kLanes<Real>>();
  return sums_of_pairs<Real>(sums_of_two<Real>(a, b, lanes), sums_of_two<Real>(c, d, lanes), lanes);
}

#else  // compilers without vectors

template <typename Real>
struct Pack {
  Real at[kLanes<Real>];

  Real operator[](std::size_t lane) const { return at[lane]; }
  Pack& operator+=(const Pack& b) { return *this = *this + b; }
  Pack& operator*=(const Pack& b) { return *this = *this * b; }
  friend Pack operator+(const Pack& a, const Pack& b) {
    return each([&](std::size_t l) { return a.at[l] + b.at[l]; });
  }
  friend Pack operator*(const Pack& a, const Pack& b) {
    return each([&](std::size_t l) { return a.at[l] * b.at[l]; });
  }
  friend Pack operator*(Real a, const Pack& b) {
    return each([&](std::size_t l) { return a * b.at[l]; });
  }
  template <typename Of>
  static NEUROMIX_INLINE Pack each(const Of& of) {
    Pack y;
    for (std::size_t l = 0; l < kLanes<Real>; ++l) y.at[l] = of(l);
    return y;
  }
};

template <typename Real>
NEUROMIX_INLINE Pack<Real> sums_of_four(const Pack<Real>& a, const Pack<Real>& b, const Pack<Real>& c,
                                        const Pack<Real>& d) {
  const Pack<Real>* const all[] = {&a, &b, &c, &d};
  return Pack<Real>::each([&](std::size_t l) {
    const Real* const four = all[l % 4]->at + l / 4 * 4;
    return four[0] + four[1] + four[2] + four[3];
  });
}

#endif

template <typename Real>
NEUROMIX_INLINE Pack<Real> load_pack(const Real* from) {
  Pack<Real> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

}  // namespace
}  // namespace neuromix
