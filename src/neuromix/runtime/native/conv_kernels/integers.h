// Rows of integer weights, added up where there are spikes or as often as integers say.
#pragma once

#include "spikes.h"

namespace nmx {
namespace {  // see vectors.h

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

}  // namespace
}  // namespace nmx
