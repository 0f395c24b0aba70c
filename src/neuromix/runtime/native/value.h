// The value of a node over some steps, in memory: [T][positions][C], channels last (see conv.h).
#pragma once

#include <cstddef>
#include <limits>

#include "conv.h"
#include "error.h"

namespace nmx {

struct Shape {
  std::size_t channels = 0, height = 0, width = 0;

  std::size_t positions() const { return height * width; }
  std::size_t elements() const { return channels * positions(); }
  bool operator==(const Shape& o) const {
    return channels == o.channels && height == o.height && width == o.width;
  }
};

struct Value {
  Type type;
  Shape shape;
  std::byte* data;
  bool is_static;  // one step stands for all of them

  std::size_t bytes_per_row() const { return row_bytes(type, shape.channels); }
  std::byte* row(std::size_t t, std::size_t position) const {
    return data + ((is_static ? 0 : t * shape.positions()) + position) * bytes_per_row();
  }
  template <typename T>
  T* row_of(std::size_t t, std::size_t position) const {
    return reinterpret_cast<T*>(row(t, position));
  }
};

// Sizes of memory, refused where they go beyond what can be addressed.
inline std::size_t checked_product(std::size_t a, std::size_t b) {
  if (b > 0 && a > std::numeric_limits<std::size_t>::max() / 2 / b)
    fail("more memory is needed than there can be");
  return a * b;
}
inline std::size_t checked_sum(std::size_t a, std::size_t b) {
  if (a > std::numeric_limits<std::size_t>::max() / 2 - b) fail("more memory is needed than there can be");
  return a + b;
}

}  // namespace nmx
