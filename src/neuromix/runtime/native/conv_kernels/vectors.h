// The vectors of the instruction set that a file is compiled for. What is compiled for another set has others of the
// same names, so that nothing here may be seen outside.
#pragma once

#include <algorithm>
#include <cstring>

#include "conv_kernels.h"
#include "ops/native/pack.h"

namespace nmx {
namespace {

constexpr std::size_t kLanes = neuromix::kVectorBytes / sizeof(float);
constexpr std::size_t kVectors = kTile / kLanes;

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t UInts __attribute__((vector_size(kLanes * 4)));
typedef std::int16_t Shorts __attribute__((vector_size(kLanes * 4)));
typedef std::int16_t HalfShorts __attribute__((vector_size(kLanes * 2)));
typedef std::uint16_t UShorts __attribute__((vector_size(kLanes * 4)));

template <typename Vector, typename T>
inline Vector load(const T* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}
template <typename Vector, typename T>
inline void store(T* to, const Vector& vector) {
  std::memcpy(to, &vector, sizeof vector);
}

inline Floats broadcast(float x) { return x - Floats{}; }

// a * b + c, fused where the processor can. Everything else here is rounded operation by operation, so that
// spikes are the same on all processors.
inline Floats fused(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return Floats(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif defined(__FMA__)
  return Floats(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#else
  return a * b + c;
#endif
}

// A bit for each lane.
#if defined(__AVX512F__)

typedef __mmask16 Mask;

inline Mask mask_of(std::uint64_t bits) { return Mask(bits); }
inline std::uint64_t bits_of(Mask mask) { return mask; }
inline Mask at_least(Floats a, Floats b) { return _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_GE_OQ); }
inline Floats choose(Mask mask, Floats a, Floats b) {
  return Floats(_mm512_mask_blend_ps(mask, __m512(b), __m512(a)));
}
inline Floats add_where(Mask mask, Floats weight, Floats sum) {
  return Floats(_mm512_mask_add_ps(__m512(sum), mask, __m512(sum), __m512(weight)));
}

typedef __mmask32 ShortMask;

inline ShortMask short_mask_of(std::uint64_t bits) { return ShortMask(bits); }
inline Shorts add_where(ShortMask mask, Shorts weight, Shorts sum) {
  return Shorts(_mm512_mask_add_epi16(__m512i(sum), mask, __m512i(sum), __m512i(weight)));
}

#else

typedef Ints Mask;  // all ones where the bit is set

inline Mask mask_of(std::uint64_t bits) {
  Ints lane;
  for (std::size_t k = 0; k < kLanes; ++k) lane[k] = 1 << k;
  return (lane & std::int32_t(bits & 0xff)) != 0;
}
inline std::uint64_t bits_of(const Mask& mask) {
#if defined(__AVX2__)
  return std::uint32_t(_mm256_movemask_ps(__m256(mask)));
#else
  std::uint64_t bits = 0;
  for (std::size_t k = 0; k < kLanes; ++k) bits |= std::uint64_t(mask[k] & 1) << k;
  return bits;
#endif
}
inline Mask at_least(Floats a, Floats b) { return a >= b; }
inline Floats choose(Mask mask, Floats a, Floats b) { return mask ? a : b; }
inline Floats add_where(Mask mask, Floats weight, Floats sum) { return sum + Floats(Ints(weight) & mask); }

typedef Shorts ShortMask;

inline ShortMask short_mask_of(std::uint64_t bits) {
  UShorts lane;
  for (std::size_t k = 0; k < 2 * kLanes; ++k) lane[k] = std::uint16_t(1 << k);
  return ShortMask((lane & std::uint16_t(bits)) != 0);
}
inline Shorts add_where(ShortMask mask, Shorts weight, Shorts sum) { return sum + (weight & mask); }

#endif

}  // namespace
}  // namespace nmx
