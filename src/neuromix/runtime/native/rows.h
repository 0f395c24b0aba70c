// What the kernels share: loops over the positions of a value, and its numbers as floats.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "ops/native/common.h"
#include "ops/native/pool.h"
#include "value.h"

namespace nmx {

// Channels that a kernel takes at once, in memory of its own: whole words of spikes.
constexpr std::size_t kChunk = 256;

// Below this much work for each thread, waking one costs more than it saves.
constexpr std::size_t kElementsPerThread = std::size_t{1} << 15;

// Calls body(first, last) on ranges that together cover [0, count), each item being work on `elements`.
template <typename Body>
void parallel_items(std::size_t count, std::size_t elements, std::size_t threads, const Body& body) {
  threads = std::max<std::size_t>(1, std::min(threads, count * elements / kElementsPerThread));
  const std::size_t tasks = threads > 1 ? 4 * threads : 1;
  neuromix::parallel_blocks(count, std::max<std::size_t>(1, (count + tasks - 1) / tasks), threads,
                            [&](std::size_t first, std::size_t last) noexcept { body(first, last); });
}

// Calls body(t, position) for all rows of some steps of a value of this shape.
template <typename Body>
void parallel_rows(const Shape& shape, std::size_t steps, std::size_t threads, const Body& body) {
  const std::size_t positions = shape.positions();
  parallel_items(steps * positions, shape.channels, threads, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) body(i / positions, i % positions);
  });
}

// The channels [first, first + count) of a row of any type; first is a multiple of 64.
NEUROMIX_INLINE void load_floats(Type type, const std::byte* row, std::size_t first, std::size_t count,
                                 float* to) {
  if (type == Type::real) {
    std::memcpy(to, row + first * sizeof(float), count * sizeof(float));
  } else if (type == Type::integer) {
    const auto* from = reinterpret_cast<const std::uint8_t*>(row) + first;
    for (std::size_t c = 0; c < count; ++c) to[c] = float(from[c]);
  } else {
    const auto* from = reinterpret_cast<const std::uint64_t*>(row) + first / 64;
    for (std::size_t c = 0; c < count; c += 64) {
      const std::uint64_t word = from[c / 64];
      const std::size_t size = std::min<std::size_t>(64, count - c);
      for (std::size_t i = 0; i < size; ++i) to[c + i] = float(word >> i & 1);
    }
  }
}

}  // namespace nmx
