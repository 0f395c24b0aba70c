// Lists of integer inputs, and rows of float weights added up as often as they say.
#pragma once

#include "vectors.h"

namespace nmx {
namespace {  // see vectors.h

void copy_list(const std::uint32_t* from, std::size_t count, std::uint32_t offset, std::uint32_t* to) {
  for (std::size_t i = 0; i < count; i += kLanes) store(to + i, load<UInts>(from + i) + offset);
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

}  // namespace
}  // namespace nmx
