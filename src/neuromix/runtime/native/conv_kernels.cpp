// Compiled several times, with NMX_KERNELS and NMX_KERNELS_NAME for the table and its name, and the compiler told an
// instruction set.
#include "conv_kernels.h"

#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace nmx {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t kLanes = 16;
#elif defined(__AVX2__)
constexpr std::size_t kLanes = 8;
#else
constexpr std::size_t kLanes = 4;
#endif
constexpr std::size_t kVectors = kTile / kLanes;

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef std::int16_t Shorts __attribute__((vector_size(kLanes * 4)));
typedef std::int8_t Bytes __attribute__((vector_size(kLanes * 2)));

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

std::size_t list_bits(const std::uint64_t* words, std::size_t count, std::uint32_t first, std::uint32_t* to) {
  const std::uint32_t* const begin = to;
  for (std::size_t w = 0; w < count; ++w, first += 64)
    for (std::uint64_t rest = words[w]; rest; rest &= rest - 1) *to++ = first + std::uint32_t(__builtin_ctzll(rest));
  return std::size_t(to - begin);
}

// Where the weights of an event begin.
inline std::ptrdiff_t row_of(const Events& events, std::size_t e) {
  return (events.first_row + std::ptrdiff_t(events.rows[e])) * std::ptrdiff_t(kTile);
}

// For tiles of which the first `width` outputs are wanted.
template <std::size_t width>
void add_rows(const float* weights, const Events* lists, std::size_t count, const float* from, float* to) {
  constexpr std::size_t vectors = width / kLanes;
  Floats sum[vectors];
  for (std::size_t i = 0; i < vectors; ++i) sum[i] = load<Floats>(from + i * kLanes);
  for (const Events* list = lists; list < lists + count; ++list)
    for (std::size_t e = 0; e < list->count; ++e) {
      const float* row = weights + row_of(*list, e);
      for (std::size_t i = 0; i < vectors; ++i) sum[i] += load<Floats>(row + i * kLanes);
    }
  for (std::size_t i = 0; i < vectors; ++i) store(to + i * kLanes, sum[i]);
}

void add_rows_times(const float* weights, const Events* lists, std::size_t count, const float* from, float* to) {
  Floats sum[kVectors];
  for (std::size_t i = 0; i < kVectors; ++i) sum[i] = load<Floats>(from + i * kLanes);
  for (const Events* list = lists; list < lists + count; ++list)
    for (std::size_t e = 0; e < list->count; ++e) {
      const float* row = weights + row_of(*list, e);
      const Floats factor = broadcast(float(list->factors[e]));
      for (std::size_t i = 0; i < kVectors; ++i) sum[i] = fused(factor, load<Floats>(row + i * kLanes), sum[i]);
    }
  for (std::size_t i = 0; i < kVectors; ++i) store(to + i * kLanes, sum[i]);
}

inline Shorts widened(const std::int8_t* from) {
#if defined(__AVX512BW__)
  return Shorts(_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__AVX2__)
  return Shorts(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  return __builtin_convertvector(load<Bytes>(from), Shorts);
#endif
}

// int8 weights add up in int16, which 256 of them cannot overflow; then they go to the sums.
constexpr std::size_t kShortRun = 256;

template <std::size_t width>
inline void scaled(const std::int32_t* total, const float* scale, const float* bias, float* to) {
  for (std::size_t n = 0; n < width; ++n) to[n] = bias[n] + scale[n] * float(total[n]);
}

template <std::size_t width>
void add_small_rows(const std::int8_t* weights, const Events* lists, std::size_t count, const float* scale,
                    const float* bias, float* to) {
  constexpr std::size_t vectors = width / (2 * kLanes);
  std::int32_t total[width] = {};
  Shorts sum[vectors] = {};
  std::size_t room = kShortRun;
  const auto flush = [&] {
    std::int16_t all[width];
    for (std::size_t i = 0; i < vectors; ++i) store(all + i * 2 * kLanes, sum[i]), sum[i] = Shorts{};
    for (std::size_t n = 0; n < width; ++n) total[n] += all[n];
    room = kShortRun;
  };
  for (const Events* list = lists; list < lists + count; ++list)
    for (std::size_t e = 0; e < list->count;) {
      if (room == 0) flush();
      const std::size_t rest = list->count - e, next = rest < room ? rest : room, end = e + next;
      for (; e < end; ++e) {
        const std::int8_t* row = weights + row_of(*list, e);
        for (std::size_t i = 0; i < vectors; ++i) sum[i] += widened(row + i * 2 * kLanes);
      }
      room -= next;
    }
  flush();
  scaled<width>(total, scale, bias, to);
}

void add_small_rows_times(const std::int8_t* weights, const Events* lists, std::size_t count, const float* scale,
                          const float* bias, float* to) {
  std::int32_t total[kTile] = {};
  for (const Events* list = lists; list < lists + count; ++list)
    for (std::size_t e = 0; e < list->count; ++e) {
      const std::int8_t* row = weights + row_of(*list, e);
      const std::int32_t factor = list->factors[e];
      for (std::size_t n = 0; n < kTile; ++n) total[n] += factor * row[n];
    }
  scaled<kTile>(total, scale, bias, to);
}

// As many outputs at once as leaves the sums of all pixels in registers.
constexpr std::size_t kAtOnce = kLanes == 16 ? 2 : 1;

template <std::size_t width>
void multiply(const float* const* x, const float* weights, std::size_t count, float* sums) {
  for (std::size_t first = 0; first < width; first += kAtOnce * kLanes) {
    Floats sum[kPixels][kAtOnce];
    for (std::size_t p = 0; p < kPixels; ++p)
      for (std::size_t i = 0; i < kAtOnce; ++i) sum[p][i] = load<Floats>(sums + p * kTile + first + i * kLanes);
    for (std::size_t c = 0; c < count; ++c) {
      Floats row[kAtOnce];
      for (std::size_t i = 0; i < kAtOnce; ++i) row[i] = load<Floats>(weights + c * kTile + first + i * kLanes);
#pragma GCC unroll 8
      for (std::size_t p = 0; p < kPixels; ++p) {
        const Floats factor = broadcast(x[p][c]);
        for (std::size_t i = 0; i < kAtOnce; ++i) sum[p][i] = fused(factor, row[i], sum[p][i]);
      }
    }
    for (std::size_t p = 0; p < kPixels; ++p)
      for (std::size_t i = 0; i < kAtOnce; ++i) store(sums + p * kTile + first + i * kLanes, sum[p][i]);
  }
}

void add_products(const float* weights, const float* const* x, std::size_t taps, const float* from, float* to) {
  Floats sum[kVectors];
  for (std::size_t i = 0; i < kVectors; ++i) sum[i] = load<Floats>(from + i * kLanes);
  for (std::size_t tap = 0; tap < taps; ++tap)
    for (std::size_t i = 0; i < kVectors; ++i)
      sum[i] = fused(load<Floats>(x[tap] + i * kLanes), load<Floats>(weights + tap * kTile + i * kLanes), sum[i]);
  for (std::size_t i = 0; i < kVectors; ++i) store(to + i * kLanes, sum[i]);
}

#if defined(__AVX512F__)

inline Floats add_where(Floats sum, const std::uint64_t* word, std::size_t first, Floats weight) {
  __mmask16 bits;
  std::memcpy(&bits, reinterpret_cast<const char*>(word) + first / 8, sizeof bits);
  return Floats(_mm512_mask_add_ps(__m512(sum), bits, __m512(sum), __m512(weight)));
}

#else

// Adds the weight in the lanes whose bit is set, from bit `first` of the word on, and 0 in the others.
inline Floats add_where(Floats sum, const std::uint64_t* word, std::size_t first, Floats weight) {
  const std::uint64_t bits = *word >> first;
  Ints lane;
  for (std::size_t k = 0; k < kLanes; ++k) lane[k] = 1 << k;
  return sum + Floats(Ints(weight) & ((lane & std::int32_t(bits & 0xff)) != 0));
}

#endif

std::size_t add_masked(const float* weights, const std::uint64_t* words, const std::ptrdiff_t* offsets,
                       std::size_t taps, const float* from, float* to) {
  Floats sum[kVectors];
  for (std::size_t i = 0; i < kVectors; ++i) sum[i] = load<Floats>(from + i * kLanes);
  std::size_t added = 0;
  for (std::size_t tap = 0; tap < taps; ++tap) {
    if (offsets[tap] < 0) continue;
    const std::uint64_t* word = words + offsets[tap];
    added += std::size_t(__builtin_popcountll(*word));
    for (std::size_t i = 0; i < kVectors; ++i)
      sum[i] = add_where(sum[i], word, i * kLanes, load<Floats>(weights + tap * kTile + i * kLanes));
  }
  for (std::size_t i = 0; i < kVectors; ++i) store(to + i * kLanes, sum[i]);
  return added;
}

// Bit k of the result: lane k of a comparison's result.
inline std::uint64_t bits_of(const Ints& lanes) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(__m512i(lanes));
#elif defined(__AVX2__)
  return std::uint32_t(_mm256_movemask_ps(__m256(lanes)));
#else
  std::uint64_t bits = 0;
  for (std::size_t k = 0; k < kLanes; ++k) bits |= std::uint64_t(lanes[k] & 1) << k;
  return bits;
#endif
}

// `fire` for a whole vector of neurons.
inline std::uint64_t fire_vector(const Neuron& neuron, std::size_t c, const float* x, float* v) {
  const Floats decayed = load<Floats>(neuron.decay + c) * load<Floats>(v);
  const Floats current = load<Floats>(neuron.gain + c) * load<Floats>(x);
  const Floats h = decayed + current + load<Floats>(neuron.offset + c);
  const Ints fired = h >= load<Floats>(neuron.level + c);
  Floats after = h;
  if (neuron.reset == Reset::hard) after = fired ? broadcast(neuron.v_reset) : h;
  if (neuron.reset == Reset::soft) after = h - (fired ? load<Floats>(neuron.threshold + c) : Floats{});
  store(v, after);
  return bits_of(fired);
}

// What is left when a vector does not fit any more, filled up with zeros.
std::uint64_t fire_rest(const Neuron& neuron, std::size_t c, std::size_t count, const float* x, float* v) {
  float copies[7][kLanes] = {};
  const float* const from[7] = {neuron.decay + c,     neuron.gain + c,  neuron.offset + c,
                                neuron.threshold + c, neuron.level + c, x,
                                v};
  for (std::size_t i = 0; i < 7; ++i) std::memcpy(copies[i], from[i], count * sizeof(float));
  const Neuron padded{copies[0], copies[1], copies[2], copies[3], copies[4], neuron.reset, neuron.v_reset};
  const std::uint64_t bits = fire_vector(padded, 0, copies[5], copies[6]);
  std::memcpy(v, copies[6], count * sizeof(float));
  return bits & ((std::uint64_t(1) << count) - 1);
}

std::uint64_t fire(const Neuron& neuron, std::size_t channel, std::size_t count, const float* x, float* v) {
  std::uint64_t bits = 0;
  std::size_t n = 0;
  for (; n + kLanes <= count; n += kLanes) bits |= fire_vector(neuron, channel + n, x + n, v + n) << n;
  if (n < count) bits |= fire_rest(neuron, channel + n, count - n, x + n, v + n) << n;
  return bits;
}

}  // namespace

extern const Kernels NMX_KERNELS;
const Kernels NMX_KERNELS = {NMX_KERNELS_NAME,
                             list_bits,
                             {add_rows<kTile / 2>, add_rows<kTile>},
                             add_rows_times,
                             {add_small_rows<kTile / 2>, add_small_rows<kTile>},
                             add_small_rows_times,
                             {multiply<kTile / 2>, multiply<kTile>},
                             add_masked,
                             add_products,
                             fire};

}  // namespace nmx
