#include <cmath>

#include "kernels.h"
#include "rows.h"

namespace nmx {
namespace {

struct Greater {
  // NaN stays, as in PyTorch.
  float operator()(float a, float b) const { return b > a || std::isnan(b) ? b : a; }
  std::uint8_t operator()(std::uint8_t a, std::uint8_t b) const { return std::max(a, b); }
  std::uint64_t operator()(std::uint64_t a, std::uint64_t b) const { return a | b; }
};

template <typename T>
NEUROMIX_INLINE void raise(std::size_t count, const std::byte* x, std::byte* y) {
  const T* from = reinterpret_cast<const T*>(x);
  T* to = reinterpret_cast<T*>(y);
  NEUROMIX_INDEPENDENT
  for (std::size_t i = 0; i < count; ++i) to[i] = Greater{}(to[i], from[i]);
}

NEUROMIX_CLONES void raise_row(Type type, std::size_t channels, const std::byte* x, std::byte* y) {
  if (type == Type::real)
    raise<float>(channels, x, y);
  else if (type == Type::integer)
    raise<std::uint8_t>(channels, x, y);
  else
    raise<std::uint64_t>(words(channels), x, y);
}

// Where a window lies within the map, along one axis.
struct Range {
  std::size_t first, last;

  Range(std::size_t i, std::size_t in, std::size_t kernel, std::size_t stride, std::size_t padding) {
    const std::size_t begin = i * stride, end = begin + kernel;  // from the beginning of the padding
    first = begin > padding ? begin - padding : 0;
    last = std::min(in, end - padding);
  }
  std::size_t size() const { return last - first; }
};

// Calls body(t, position, rows, columns) for each output of a pooling layer.
template <typename Body>
void parallel_windows(const Shape& in, const Shape& out, const op::Window& w, std::size_t steps,
                      std::size_t threads, const Body& body) {
  parallel_rows(out, steps, threads, [&](std::size_t t, std::size_t p) {
    body(t, p, Range(p / out.width, in.height, w.kernel[0], w.stride[0], w.padding[0]),
         Range(p % out.width, in.width, w.kernel[1], w.stride[1], w.padding[1]));
  });
}

NEUROMIX_CLONES void average(const Value& x, std::size_t t, const Range& rows, const Range& columns,
                             std::size_t divisor, float* y) {
  float sum[kChunk], chunk[kChunk];
  for (std::size_t first = 0; first < x.shape.channels; first += kChunk) {
    const std::size_t count = std::min(kChunk, x.shape.channels - first);
    std::fill(sum, sum + count, 0.0f);
    for (std::size_t r = rows.first; r < rows.last; ++r)
      for (std::size_t c = columns.first; c < columns.last; ++c) {
        load_floats(x.type, x.row(t, r * x.shape.width + c), first, count, chunk);
        NEUROMIX_INDEPENDENT
        for (std::size_t i = 0; i < count; ++i) sum[i] += chunk[i];
      }
    NEUROMIX_INDEPENDENT
    for (std::size_t i = 0; i < count; ++i) y[first + i] = sum[i] / float(divisor);
  }
}

// In double: sums of spikes and of integers are exact, whatever the size of the map.
NEUROMIX_CLONES void average_positions(const Value& x, std::size_t t, std::size_t first, std::size_t count,
                                       float* y) {
  double sum[kChunk] = {};
  float chunk[kChunk];
  const std::size_t positions = x.shape.positions();
  for (std::size_t p = 0; p < positions; ++p) {
    load_floats(x.type, x.row(t, p), first, count, chunk);
    NEUROMIX_INDEPENDENT
    for (std::size_t i = 0; i < count; ++i) sum[i] += double(chunk[i]);
  }
  for (std::size_t i = 0; i < count; ++i) y[i] = float(sum[i] / double(positions));
}

// The channels of word w.
NEUROMIX_CLONES void count_tokens(const Value& a, const Value* b, std::size_t t, std::size_t w,
                                  std::size_t count, float* y) {
  std::uint32_t sums[64] = {};
  for (std::size_t p = 0; p < a.shape.positions(); ++p) {
    std::uint64_t word = a.row_of<const std::uint64_t>(t, p)[w];
    if (b) word &= b->row_of<const std::uint64_t>(t, p)[w];
    for (std::size_t i = 0; i < 64; ++i) sums[i] += std::uint32_t(word >> i & 1);
  }
  for (std::size_t i = 0; i < count; ++i) y[i] = float(sums[i]);
}

}  // namespace

void run_max_pool(const Value& x, const op::Window& w, const Value& y, std::size_t steps,
                  std::size_t threads) {
  const std::size_t channels = x.shape.channels, width = x.shape.width;
  parallel_windows(x.shape, y.shape, w, steps, threads,
                   [&](std::size_t t, std::size_t p, const Range& rows, const Range& columns) {
                     std::byte* to = y.row(t, p);
                     std::memcpy(to, x.row(t, rows.first * width + columns.first), x.bytes_per_row());
                     for (std::size_t r = rows.first; r < rows.last; ++r)
                       for (std::size_t c = columns.first; c < columns.last; ++c)
                         raise_row(x.type, channels, x.row(t, r * width + c), to);
                   });
}

void run_avg_pool(const Value& x, const op::AvgPool& op, const Value& y, std::size_t steps,
                  std::size_t threads) {
  const std::size_t all = op.window.kernel[0] * op.window.kernel[1];
  parallel_windows(x.shape, y.shape, op.window, steps, threads,
                   [&](std::size_t t, std::size_t p, const Range& rows, const Range& columns) {
                     const std::size_t divisor = op.count_padding ? all : rows.size() * columns.size();
                     average(x, t, rows, columns, divisor, y.row_of<float>(t, p));
                   });
}

void run_mean(const Value& x, const Value& y, std::size_t steps, std::size_t threads) {
  const std::size_t channels = y.shape.channels, chunks = (channels + kChunk - 1) / kChunk;
  const std::size_t elements = x.shape.positions() * std::min(channels, kChunk);
  parallel_items(steps * chunks, elements, threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t t = i / chunks, first = i % chunks * kChunk;
      average_positions(x, t, first, std::min(kChunk, channels - first), y.row_of<float>(t, 0) + first);
    }
  });
}

void run_token_sum(const Value& a, const Value* b, const Value& y, std::size_t steps, std::size_t threads) {
  const std::size_t channels = y.shape.channels, columns = words(channels);
  parallel_items(steps * columns, 64 * a.shape.positions(), threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t t = i / columns, w = i % columns;
      count_tokens(a, b, t, w, std::min<std::size_t>(64, channels - 64 * w), y.row_of<float>(t, 0) + 64 * w);
    }
  });
}

}  // namespace nmx
