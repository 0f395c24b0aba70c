// Compiled once for each instruction set, as kernels_portable, kernels_avx2, ...
#include "conv_kernels.h"

#include <algorithm>
#include <cstring>

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

std::uint64_t count_bits(const std::uint64_t* words, std::size_t count) {
  std::uint64_t all = 0;
  for (std::size_t i = 0; i < count; ++i) all += std::uint64_t(__builtin_popcountll(words[i]));
  return all;
}

// For each byte the numbers of its bits that are set, ascending.
struct BitNumbers {
  std::uint8_t of[256][8];

  constexpr BitNumbers() : of() {
    for (std::size_t byte = 0; byte < 256; ++byte)
      for (std::size_t bit = 0, n = 0; bit < 8; ++bit)
        if (byte >> bit & 1) of[byte][n++] = std::uint8_t(bit);
  }
};
constexpr BitNumbers kBitNumbers;

void list_bits(const std::uint64_t* words, std::size_t stride, std::size_t count, std::size_t places,
               std::uint8_t* rows, std::uint32_t* begins) {
  std::uint8_t* to = rows + begins[0];
  for (std::size_t place = 0; place < places; ++place, words += stride) {
    std::uint64_t first = 0;  // in all eight bytes
    for (std::size_t w = 0; w < count; ++w) {
      std::uint64_t rest = words[w];
      for (int k = 0; k < 8; ++k, rest >>= 8, first += 0x0808080808080808u) {
        std::uint64_t numbers;
        std::memcpy(&numbers, kBitNumbers.of[rest & 0xff], sizeof numbers);
        numbers += first;
        std::memcpy(to, &numbers, sizeof numbers);
        to += __builtin_popcount(unsigned(rest & 0xff));
      }
    }
    begins[place + 1] = std::uint32_t(to - rows);
  }
}

#if defined(__AVX512F__)

// For processors that can also pick bytes; not all with AVX-512 can.
__attribute__((target("avx512vbmi2"))) void list_bits_at_once(const std::uint64_t* words, std::size_t stride,
                                                              std::size_t count, std::size_t places,
                                                              std::uint8_t* rows, std::uint32_t* begins) {
  alignas(64) std::uint8_t all[kSmallPanel];
  for (std::size_t i = 0; i < kSmallPanel; ++i) all[i] = std::uint8_t(i);
  std::uint8_t* to = rows + begins[0];
  for (std::size_t place = 0; place < places; ++place, words += stride) {
    for (std::size_t w = 0; w < count; ++w) {
      const __m512i set = _mm512_maskz_compress_epi8(words[w], _mm512_load_si512(all + 64 * w));
      const int some = __builtin_popcountll(words[w]);
      std::memcpy(to, &set, some > 32 ? 64 : 32);
      to += some;
    }
    begins[place + 1] = std::uint32_t(to - rows);
  }
}

const auto best_list_bits = __builtin_cpu_supports("avx512vbmi2") ? list_bits_at_once : list_bits;

#else

constexpr auto best_list_bits = list_bits;

#endif

void copy_list(const std::uint32_t* from, std::size_t count, std::uint32_t offset, std::uint32_t* to) {
  for (std::size_t i = 0; i < count; i += kLanes) store(to + i, load<UInts>(from + i) + offset);
}

// Fetches a piece of the panel that comes next, which lies behind this one. Panels are as large for floats as for
// integers.
inline void fetch_ahead(const void* panel, std::size_t place) {
  constexpr std::size_t kBytes = kSmallPanel * kTile, kLine = 64;
  static_assert(kBytes == 64 * kTile * sizeof(float));
  const std::size_t at = 2 * kLine * place;
  if (at >= kBytes) return;
  __builtin_prefetch(static_cast<const char*>(panel) + kBytes + at);
  __builtin_prefetch(static_cast<const char*>(panel) + kBytes + at + kLine);
}

// For tiles of which the first `width` outputs are wanted.
template <std::size_t width>
void add_panel(const float* weights, const std::uint64_t* masks, std::size_t stride, std::size_t places, float* sums) {
  constexpr std::size_t vectors = width / kLanes;
  for (std::size_t place = 0; place < places; ++place, masks += stride, sums += kTile) {
    fetch_ahead(weights, place);
    std::uint64_t rest = *masks;
    if (!rest) continue;
    Floats sum[vectors];
    for (std::size_t i = 0; i < vectors; ++i) sum[i] = load<Floats>(sums + i * kLanes);
    do {
      const float* row = weights + std::size_t(__builtin_ctzll(rest)) * kTile;
      for (std::size_t i = 0; i < vectors; ++i) sum[i] += load<Floats>(row + i * kLanes);
    } while (rest &= rest - 1);
    for (std::size_t i = 0; i < vectors; ++i) store(sums + i * kLanes, sum[i]);
  }
}

void add_rows_times(const float* weights, const Events& events, std::size_t places, float* sums) {
  for (std::size_t place = 0; place < places; ++place, sums += kTile) {
    Floats sum[kVectors];
    for (std::size_t i = 0; i < kVectors; ++i) sum[i] = load<Floats>(sums + i * kLanes);
    for (std::size_t e = events.begins[place]; e < events.begins[place + 1]; ++e) {
      const float* row = weights + events.rows[e] * kTile;
      const Floats factor = broadcast(float(events.factors[e]));
      for (std::size_t i = 0; i < kVectors; ++i) sum[i] = fused(factor, load<Floats>(row + i * kLanes), sum[i]);
    }
    for (std::size_t i = 0; i < kVectors; ++i) store(sums + i * kLanes, sum[i]);
  }
}

// The totals of a tile of integer weights, 16 outputs of each quarter at the index small_place has them.
struct SmallTotals {
  static constexpr std::size_t kQuarter = kTile / 4 / kLanes;
  UInts sum[4][kQuarter] = {};

  template <std::size_t width>
  void load_from(const float* from) {
    for (std::size_t q = 0; q < width / (kTile / 4); ++q)
      for (std::size_t i = 0; i < kQuarter; ++i) sum[q][i] = load<UInts>(from + (q * kQuarter + i) * kLanes);
  }
  template <std::size_t width>
  void store_to(float* to) const {
    for (std::size_t q = 0; q < width / (kTile / 4); ++q)
      for (std::size_t i = 0; i < kQuarter; ++i) store(to + (q * kQuarter + i) * kLanes, sum[q][i]);
  }
  // to = bias + scale * total, `zeros` being what all the bytes are too large by.
  template <std::size_t width>
  void finish(std::uint32_t zeros, const float* scale, const float* bias, float* to) const {
    for (std::size_t q = 0; q < width / (kTile / 4); ++q)
      for (std::size_t i = 0; i < kQuarter; ++i) {
        const std::size_t n = (q * kQuarter + i) * kLanes;
        const Floats total = __builtin_convertvector(Ints(sum[q][i] - zeros), Floats);
        store(to + n, load<Floats>(bias + n) + load<Floats>(scale + n) * total);
      }
  }
};

// Bytes add up in shorts, kSmallPanel of them at most. To add a row as shorts adds 256 times the high bytes to the sums
// of the low ones, which comes off at the end. In half a tile the high bytes are 0.
template <bool whole>
struct SmallRun {
  static constexpr std::size_t kVectors = SmallTotals::kQuarter, kShorts = 2 * kLanes;
  UShorts low[kVectors] = {}, high[kVectors] = {};

  void load_from(const std::uint16_t* from) {
    for (std::size_t i = 0; i < kVectors; ++i) {
      low[i] = load<UShorts>(from + i * kShorts);
      if (whole) high[i] = load<UShorts>(from + kTile / 2 + i * kShorts);
    }
  }
  void store_to(std::uint16_t* to) const {
    for (std::size_t i = 0; i < kVectors; ++i) {
      store(to + i * kShorts, low[i]);
      if (whole) store(to + kTile / 2 + i * kShorts, high[i]);
    }
  }
  void add(const std::uint8_t* row) {
    for (std::size_t i = 0; i < kVectors; ++i) {
      const UShorts bytes = load<UShorts>(row + i * 4 * kLanes);
      low[i] += bytes;
      if (whole) high[i] += bytes >> 8;
    }
  }
  void move_to(SmallTotals& total) const {
    for (std::size_t i = 0; i < kVectors; ++i) {
      const UInts lows = UInts(low[i] - (high[i] << 8)), highs = UInts(high[i]);
      total.sum[0][i] += lows & 0xffff, total.sum[1][i] += lows >> 16;
      if (whole) total.sum[2][i] += highs & 0xffff, total.sum[3][i] += highs >> 16;
    }
  }
};

template <std::size_t width>
void add_small_panel(const SmallPanel& panel, std::size_t places, const SmallSums& to) {
  for (std::size_t place = 0; place < places; ++place) {
    fetch_ahead(panel.weights, place);
    SmallRun<width == kTile> run;
    if (panel.goes_on) run.load_from(to.shorts + place * kTile);
    const std::uint8_t *next = panel.rows + panel.begins[place], *const end = panel.rows + panel.begins[place + 1];
    for (; next + 4 <= end; next += 4)
      for (std::size_t i = 0; i < 4; ++i) run.add(panel.weights + next[i] * kTile);
    for (; next < end; ++next) run.add(panel.weights + *next * kTile);
    if (panel.then == Then::keep) {
      run.store_to(to.shorts + place * kTile);
      continue;
    }
    float* const sums = to.sums + place * kTile;
    SmallTotals total;
    if (panel.has_totals) total.load_from<width>(sums);
    run.move_to(total);
    if (panel.then == Then::move)
      total.store_to<width>(sums);
    else
      total.finish<width>(to.counts[place] * kSmallZero, to.scale, to.bias, sums);
  }
}

void add_small_rows_times(const std::uint8_t* weights, const Events& events, std::size_t places, const float* scale,
                          const float* bias, float* sums) {
  for (std::size_t place = 0; place < places; ++place, sums += kTile) {
    SmallTotals total;
    std::uint32_t zeros = 0;
    for (std::size_t e = events.begins[place]; e < events.begins[place + 1]; ++e) {
      const std::uint8_t* row = weights + events.rows[e] * kTile;
      const std::uint32_t factor = events.factors[e];
      zeros += factor * kSmallZero;
      for (std::size_t i = 0; i < SmallTotals::kQuarter; ++i) {
        const UInts bytes = load<UInts>(row + i * 4 * kLanes);
        total.sum[0][i] += factor * (bytes & 0xff), total.sum[1][i] += factor * (bytes >> 16 & 0xff);
        total.sum[2][i] += factor * (bytes >> 8 & 0xff), total.sum[3][i] += factor * (bytes >> 24);
      }
    }
    total.finish<kTile>(zeros, scale, bias, sums);
  }
}

// As many outputs at once as leaves the sums of all pixels in registers.
constexpr std::size_t kAtOnce = kLanes == 16 ? 2 : 1;

template <std::size_t width>
void multiply(const float* const* x, const float* weights, std::size_t count, float* sums, std::size_t pitch) {
  for (std::size_t first = 0; first < width; first += kAtOnce * kLanes) {
    Floats sum[kPixels][kAtOnce];
    for (std::size_t p = 0; p < kPixels; ++p)
      for (std::size_t i = 0; i < kAtOnce; ++i) sum[p][i] = load<Floats>(sums + p * pitch + first + i * kLanes);
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
      for (std::size_t i = 0; i < kAtOnce; ++i) store(sums + p * pitch + first + i * kLanes, sum[p][i]);
  }
}

// The depthwise kernels for a vector of channels. Where outputs lie side by side, an input serves all that see it.
// kColumns: of the kernel, where it is known beforehand, else 0.
template <std::size_t kOutputs, std::size_t kColumns, typename Sums, typename T, typename Weight>
void slide(const Window& window, const Weight* weights, const T* const* rows, const Sums& sums) {
  const std::size_t columns = kColumns ? kColumns : window.columns, dilation = kColumns ? 1 : window.dilation;
  const std::size_t first = std::size_t(window.first), width = window.width, pitch = window.pitch;
  typename Sums::Vector sum[kOutputs];
  for (std::size_t p = 0; p < kOutputs; ++p)
    sum[p] = p < window.outputs ? sums.begin(p * window.sums_pitch) : typename Sums::Vector{};
  for (std::size_t row = 0; row < window.rows; ++row, weights += columns * kTile) {
    if (!rows[row]) continue;
#pragma GCC unroll 16
    for (std::size_t j = 0; j < columns + kOutputs - 1; ++j) {
      const std::size_t column = first + j * dilation;  // left of the map it is huge
      if (column >= width) continue;
      const auto x = sums.read(rows[row] + column * pitch);
#pragma GCC unroll 8
      for (std::size_t p = 0; p < kOutputs; ++p)
        if (j - p < columns)
          sum[p] = sums.add(x, load<typename Sums::Vector>(weights + (j - p) * kTile), sum[p]);
    }
  }
  for (std::size_t p = 0; p < kOutputs; ++p)
    if (p < window.outputs) sums.finish(p * window.sums_pitch, sum[p]);
}

template <typename Sums, typename T, typename Weight>
inline void slide(const Window& window, const Weight* weights, const T* const* rows, const Sums& sums) {
  if (window.outputs == 1) return slide<1, 0>(window, weights, rows, sums);
  if (window.columns == 3) return slide<kPixels, 3>(window, weights, rows, sums);
  if (window.columns == 5) return slide<kPixels, 5>(window, weights, rows, sums);
  return slide<kPixels, 7>(window, weights, rows, sums);
}

// Sums of `kLanes` channels, those from `first` on, in memory.
struct FloatSums {
  typedef Floats Vector;
  float* sums;
  std::size_t first;

  Floats begin(std::size_t at) const { return load<Floats>(sums + first + at); }
  void finish(std::size_t at, const Floats& sum) const { store(sums + first + at, sum); }
};

struct SumsOfSpikes : FloatSums {
  Mask read(const std::uint64_t* word) const { return mask_of(*word >> first); }
  static Floats add(const Mask& spikes, const Floats& weight, const Floats& sum) {
    return add_where(spikes, weight, sum);
  }
};

struct SumsOfProducts : FloatSums {
  std::size_t count;  // channels that there are

  Floats read(const float* x) const {
    if (count == kLanes) return load<Floats>(x + first);
    Floats rest = {};
    std::memcpy(&rest, x + first, count * sizeof(float));
    return rest;
  }
  static Floats add(const Floats& x, const Floats& weight, const Floats& sum) { return fused(x, weight, sum); }
};

// Of twice as many channels.
struct ShortSums {
  typedef Shorts Vector;
  float* sums;
  std::size_t first;
  const float *scale, *bias;

  static Shorts begin(std::size_t) { return Shorts{}; }
  ShortMask read(const std::uint64_t* word) const { return short_mask_of(*word >> first); }
  static Shorts add(const ShortMask& spikes, const Shorts& weight, const Shorts& sum) {
    return add_where(spikes, weight, sum);
  }
  void finish(std::size_t at, const Shorts& sum) const {
    std::int16_t shorts[2 * kLanes];
    store(shorts, sum);
    for (std::size_t n = first; n < first + 2 * kLanes; n += kLanes) {
      const Floats total = __builtin_convertvector(load<HalfShorts>(shorts + n - first), Floats);
      store(sums + at + n, load<Floats>(bias + n) + load<Floats>(scale + n) * total);
    }
  }
};

void add_spikes(const Window& window, const float* weights, const std::uint64_t* const* rows, float* sums) {
  for (std::size_t i = 0; i < kTile; i += kLanes) slide(window, weights + i, rows, SumsOfSpikes{{sums, i}});
}

void add_small_spikes(const Window& window, const std::int16_t* weights, const std::uint64_t* const* rows,
                      const float* scale, const float* bias, float* sums) {
  for (std::size_t i = 0; i < kTile; i += 2 * kLanes)
    slide(window, weights + i, rows, ShortSums{sums, i, scale, bias});
}

void add_products(const Window& window, const float* weights, const float* const* rows, std::size_t count,
                  float* sums) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    slide(window, weights + i, rows, SumsOfProducts{{sums, i}, std::integral_constant<std::size_t, kLanes>()});
  if (i < count) slide(window, weights + i, rows, SumsOfProducts{{sums, i}, count - i});
}

void scale(const float* scale, const float* bias, std::size_t places, float* sums) {
  for (std::size_t i = 0; i < places; ++i, sums += kTile)
    for (std::size_t n = 0; n < kTile; n += kLanes)
      store(sums + n, load<Floats>(bias + n) + load<Floats>(scale + n) * load<Floats>(sums + n));
}

void add(const float* from, std::size_t pixel, std::size_t step, std::size_t outputs, std::size_t pixels,
         std::size_t steps, float* sums) {
  for (std::size_t p = 0; p < pixels; ++p, from += pixel)
    for (std::size_t t = 0; t < steps; ++t, sums += kTile) {
      std::size_t n = 0;
      for (; n + kLanes <= outputs; n += kLanes)
        store(sums + n, load<Floats>(sums + n) + load<Floats>(from + t * step + n));
      for (; n < outputs; ++n) sums[n] += from[t * step + n];
    }
}

void put(const float* sums, std::size_t outputs, std::size_t pixels, std::size_t steps, float* to, std::size_t pixel,
         std::size_t step) {
  for (std::size_t p = 0; p < pixels; ++p, to += pixel)
    for (std::size_t t = 0; t < steps; ++t, sums += kTile) {
      std::size_t n = 0;
      for (; n + kLanes <= outputs; n += kLanes) store(to + t * step + n, load<Floats>(sums + n));
      for (; n < outputs; ++n) to[t * step + n] = sums[n];
    }
}

// What `fire` reads of some vectors of neurons.
template <std::size_t vectors>
struct Constants {
  Floats decay[vectors], gain[vectors], offset[vectors], threshold[vectors], level[vectors];

  Constants(const Neuron& neuron, std::size_t channel) {
    for (std::size_t i = 0, n = channel; i < vectors; ++i, n += kLanes) {
      decay[i] = load<Floats>(neuron.decay + n), gain[i] = load<Floats>(neuron.gain + n);
      offset[i] = load<Floats>(neuron.offset + n), level[i] = load<Floats>(neuron.level + n);
      threshold[i] = load<Floats>(neuron.threshold + n);
    }
  }
};

// `fire` for some whole vectors of neurons, those from `first` on in the tile.
template <Reset reset, std::size_t vectors>
void fire_vectors(const Neuron& neuron, std::size_t channel, std::size_t first, const Firing& at) {
  const Constants<vectors> of(neuron, channel + first);
  const Floats v_reset = broadcast(neuron.v_reset), v_init = broadcast(neuron.v_init);
  for (std::size_t pixel = 0; pixel < at.pixels; ++pixel) {
    float* const v = at.v ? at.v + pixel * at.v_pixel + first : nullptr;
    const float* x = at.x + pixel * at.x_pixel + first;
    std::uint64_t* to = at.bits + pixel * at.bits_pixel;
    Floats potential[vectors];
    for (std::size_t i = 0; i < vectors; ++i) potential[i] = v ? load<Floats>(v + i * kLanes) : v_init;
    for (std::size_t t = 0; t < at.steps; ++t, x += at.x_step, to += at.bits_step) {
      std::uint64_t bits = 0;
      for (std::size_t i = 0; i < vectors; ++i) {
        const Floats h = of.decay[i] * potential[i] + of.gain[i] * load<Floats>(x + i * kLanes) + of.offset[i];
        const Mask fired = at_least(h, of.level[i]);
        potential[i] = reset == Reset::hard   ? choose(fired, v_reset, h)
                       : reset == Reset::soft ? h - choose(fired, of.threshold[i], Floats{})
                                              : h;
        bits |= bits_of(fired) << (i * kLanes);
      }
      *to = first == 0 ? bits : *to | bits << first;
    }
    for (std::size_t i = 0; v && i < vectors; ++i) store(v + i * kLanes, potential[i]);
  }
}

// What is left when a vector does not fit any more, filled up with zeros.
template <Reset reset>
void fire_rest(const Neuron& neuron, std::size_t channel, std::size_t first, std::size_t count, const Firing& at) {
  for (std::size_t pixel = 0; pixel < at.pixels; ++pixel) {
    float* const v = at.v ? at.v + pixel * at.v_pixel + first : nullptr;
    float x[kLanes] = {}, potential[kLanes];
    store(potential, broadcast(neuron.v_init));
    if (v) std::memcpy(potential, v, count * sizeof(float));
    for (std::size_t t = 0; t < at.steps; ++t) {
      std::uint64_t bits, &to = at.bits[pixel * at.bits_pixel + t * at.bits_step];
      std::memcpy(x, at.x + pixel * at.x_pixel + t * at.x_step + first, count * sizeof(float));
      fire_vectors<reset, 1>(neuron, channel + first, 0, {1, 1, x, 0, 0, potential, 0, &bits, 0, 0});
      bits &= (std::uint64_t(1) << count) - 1;
      to = first == 0 ? bits : to | bits << first;
    }
    if (v) std::memcpy(v, potential, count * sizeof(float));
  }
}

template <Reset reset>
void fire_as(const Neuron& neuron, std::size_t channel, std::size_t count, const Firing& at) {
  std::size_t n = 0;
  for (; n + 4 * kLanes <= count; n += 4 * kLanes)  // their sums do not wait for one another
    fire_vectors<reset, 4>(neuron, channel, n, at);
  for (; n + kLanes <= count; n += kLanes) fire_vectors<reset, 1>(neuron, channel, n, at);
  if (n < count) fire_rest<reset>(neuron, channel, n, count - n, at);
}

void fire(const Neuron& neuron, std::size_t channel, std::size_t count, const Firing& at) {
  if (neuron.reset == Reset::hard) return fire_as<Reset::hard>(neuron, channel, count, at);
  if (neuron.reset == Reset::soft) return fire_as<Reset::soft>(neuron, channel, count, at);
  fire_as<Reset::none>(neuron, channel, count, at);
}

}  // namespace

#define NMX_TABLE_OF(set) kernels_##set
#define NMX_NAME_OF(set) #set
#define NMX_EXPAND(macro, set) macro(set)

extern const Kernels NMX_EXPAND(NMX_TABLE_OF, NEUROMIX_SET);
const Kernels NMX_EXPAND(NMX_TABLE_OF, NEUROMIX_SET) = {NMX_EXPAND(NMX_NAME_OF, NEUROMIX_SET),
                             count_bits,
                             best_list_bits,
                             copy_list,
                             {add_panel<kTile / 2>, add_panel<kTile>},
                             add_rows_times,
                             {add_small_panel<kTile / 2>, add_small_panel<kTile>},
                             add_small_rows_times,
                             {multiply<kTile / 2>, multiply<kTile>},
                             add_spikes,
                             add_small_spikes,
                             add_products,
                             scale,
                             add,
                             put,
                             fire};

}  // namespace nmx
