#include "kernels.h"
#include "rows.h"

namespace nmx {
namespace {

NEUROMIX_CLONES void affine_row(Type type, const std::byte* x, std::size_t channels, const float* scale,
                                const float* shift, float* y) {
  float chunk[kChunk];
  for (std::size_t first = 0; first < channels; first += kChunk) {
    const std::size_t count = std::min(kChunk, channels - first);
    load_floats(type, x, first, count, chunk);
    NEUROMIX_INDEPENDENT
    for (std::size_t c = 0; c < count; ++c) y[first + c] = chunk[c] * scale[first + c] + shift[first + c];
  }
}

NEUROMIX_CLONES void set_row(Type type, const std::byte* x, std::size_t channels, float* y) {
  load_floats(type, x, 0, channels, y);
}

NEUROMIX_CLONES void add_row(Type type, const std::byte* x, std::size_t channels, float* y) {
  float chunk[kChunk];
  for (std::size_t first = 0; first < channels; first += kChunk) {
    const std::size_t count = std::min(kChunk, channels - first);
    load_floats(type, x, first, count, chunk);
    NEUROMIX_INDEPENDENT
    for (std::size_t c = 0; c < count; ++c) y[first + c] += chunk[c];
  }
}

}  // namespace

void run_affine(const Value& x, const float* scale, const float* shift, const Value& y, std::size_t steps,
                std::size_t threads) {
  parallel_rows(x.shape, steps, threads, [&](std::size_t t, std::size_t p) {
    affine_row(x.type, x.row(t, p), x.shape.channels, scale, shift, y.row_of<float>(t, p));
  });
}

void run_add(const Value* inputs, std::size_t count, const Value& y, std::size_t steps, std::size_t threads) {
  const std::size_t channels = y.shape.channels;
  parallel_rows(y.shape, steps, threads, [&](std::size_t t, std::size_t p) {
    float* sum = y.row_of<float>(t, p);
    set_row(inputs[0].type, inputs[0].row(t, p), channels, sum);
    for (std::size_t i = 1; i < count; ++i) add_row(inputs[i].type, inputs[i].row(t, p), channels, sum);
  });
}

void run_gate(const Value& gate, const Value& x, const Value& y, std::size_t steps, std::size_t threads) {
  parallel_rows(x.shape, steps, threads, [&](std::size_t t, std::size_t p) {
    const auto *g = gate.row_of<const std::uint64_t>(t, 0), *from = x.row_of<const std::uint64_t>(t, p);
    auto* to = y.row_of<std::uint64_t>(t, p);
    for (std::size_t w = 0; w < words(x.shape.channels); ++w) to[w] = g[w] & from[w];
  });
}

}  // namespace nmx
