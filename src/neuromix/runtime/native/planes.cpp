#include <atomic>

#include "conv_kernels.h"
#include "kernels.h"
#include "rows.h"

namespace nmx {
namespace {

NEUROMIX_CLONES std::uint64_t count_bytes(const std::uint8_t* x, std::size_t count) {
  std::uint64_t all = 0;
  for (std::size_t i = 0; i < count; ++i) all += x[i] != 0;
  return all;
}

}  // namespace

std::uint64_t count_active(const Value& x, std::size_t steps, std::size_t threads) {
  std::atomic<std::uint64_t> all{0};
  const std::size_t size = x.bytes_per_row();
  parallel_items(steps * x.shape.positions(), size, threads, [&](std::size_t first, std::size_t last) {
    const auto* from = x.row_of<const std::uint8_t>(0, 0) + first * size;
    all += x.type == Type::binary
               ? kernels().count_bits(reinterpret_cast<const std::uint64_t*>(from), (last - first) * size / 8)
               : count_bytes(from, (last - first) * size);
  });
  return all;
}

void from_planes(const float* planes, const Value& to, std::size_t steps, std::size_t threads) {
  const std::size_t channels = to.shape.channels, positions = to.shape.positions();
  parallel_rows(to.shape, steps, threads, [&](std::size_t t, std::size_t p) {
    const float* from = planes + t * channels * positions + p;
    float* row = to.row_of<float>(t, p);
    for (std::size_t c = 0; c < channels; ++c) row[c] = from[c * positions];
  });
}

void to_planes(const Value& from, float* planes, std::size_t steps) {
  const std::size_t channels = from.shape.channels, positions = from.shape.positions();
  float chunk[kChunk];
  for (std::size_t t = 0; t < steps; ++t)
    for (std::size_t p = 0; p < positions; ++p)
      for (std::size_t first = 0; first < channels; first += kChunk) {
        const std::size_t count = std::min(kChunk, channels - first);
        load_floats(from.type, from.row(t, p), first, count, chunk);
        for (std::size_t c = 0; c < count; ++c) planes[(t * channels + first + c) * positions + p] = chunk[c];
      }
}

}  // namespace nmx
