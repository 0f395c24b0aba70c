// Spikes: lists of them, and rows of float weights added up where they are.
#pragma once

#include "vectors.h"

namespace nmx {
namespace {  // see vectors.h

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

}  // namespace
}  // namespace nmx
