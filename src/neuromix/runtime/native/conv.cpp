#include "conv.h"

#include <cmath>

#include "conv_layout.h"

namespace nmx {
namespace {

// Taps that lie within the map, over all outputs along one axis.
std::uint64_t taps_within(std::size_t in, std::size_t out, std::size_t kernel, std::size_t stride,
                          std::size_t padding, std::size_t dilation) {
  std::uint64_t taps = 0;
  for (std::size_t o = 0; o < out; ++o)
    for (std::size_t k = 0; k < kernel; ++k) {
      const std::size_t at = o * stride + k * dilation;
      taps += at >= padding && at - padding < in;
    }
  return taps;
}

}  // namespace

std::uint64_t dense_operations(const ConvShape& s) {
  const auto along = [&](int axis, std::size_t in, std::size_t out) {
    return taps_within(in, out, s.kernel[axis], s.stride[axis], s.padding[axis], s.dilation[axis]);
  };
  return along(0, s.in_height, s.out_height) * along(1, s.in_width, s.out_width) *
         (s.in_channels / s.groups) * s.out_channels;
}

Conv::Layout::Layout(const ConvShape& shape, Type type, const ConvWeights& weights)
    : s(shape),
      input(type),
      taps(shape.kernel[0] * shape.kernel[1]),
      in_group(shape.in_channels / shape.groups),
      out_group(shape.out_channels / shape.groups),
      depthwise(shape.groups > 1 && in_group == 1 && out_group == 1),
      scaled(weights.small),
      finite(true) {
  tiles = rounded_up(depthwise ? s.out_channels : out_group, kTile) / kTile;
  rows = taps * in_group;
  for (std::size_t y = 0; y < s.kernel[0]; ++y)
    for (std::size_t x = 0; x < s.kernel[1]; ++x)
      offsets.push_back({std::ptrdiff_t(y * s.dilation[0]) - std::ptrdiff_t(s.padding[0]),
                         std::ptrdiff_t(x * s.dilation[1]) - std::ptrdiff_t(s.padding[1])});
  taps_of_list = s.groups == 1 && s.dilation[1] == 1 ? s.kernel[1] : 1;
  if (!weights.small)
    pack(weights.real, real);
  else if (depthwise || input == Type::real)
    pack(weights.small, real);
  else
    pack(weights.small, small);
  for (const float w : real) finite = finite && std::isfinite(w);
  scale.assign(all_tiles() * kTile, 1);
  bias.assign(all_tiles() * kTile, 0);
  for (std::size_t tile = 0; tile < all_tiles(); ++tile)
    for (std::size_t n = 0; n < outputs(tile); ++n) {
      const std::size_t o = first_output(tile) + n;
      if (weights.scale) scale[tile * kTile + n] = weights.scale[o];
      if (weights.bias) bias[tile * kTile + n] = weights.bias[o] + 0.0f;  // no -0, to which adding 0 is no nothing
    }
}

template <typename From, typename To>
void Conv::Layout::pack(const From* from, Aligned<To>& to) const {
  to.assign(all_tiles() * rows * kTile, To(0));
  for (std::size_t tile = 0; tile < all_tiles(); ++tile)
    for (std::size_t n = 0; n < outputs(tile); ++n) {
      const From* of_output = from + (first_output(tile) + n) * in_group * taps;
      for (std::size_t c = 0; c < in_group; ++c)
        for (std::size_t tap = 0; tap < taps; ++tap)
          to[(tile * rows + tap * in_group + c) * kTile + n] = To(of_output[c * taps + tap]);
    }
}

Conv::Conv(const ConvShape& shape, Type input, const ConvWeights& weights)
    : layout_(std::make_unique<Layout>(shape, input, weights)) {}

Conv::~Conv() = default;

std::size_t Conv::scratch_bytes(std::size_t threads) const {
  return run_scratch_bytes(*layout_, threads);
}

std::uint64_t Conv::run(const void* input, std::size_t steps, const ConvOutput& output, void* scratch,
                        std::size_t threads) const {
  const ConvShape& s = layout_->s;
  const std::size_t per_position = layout_->input == Type::real     ? s.in_channels * sizeof(float)
                                   : layout_->input == Type::binary ? words(s.in_channels) * 8
                                                                    : s.in_channels;
  const std::size_t in_step = layout_->in_pixels() * per_position, out_pixels = layout_->out_pixels();
  std::uint64_t operations = 0;
  for (std::size_t t = 0; t < steps; t += kSteps) {
    ConvOutput part = output;
    if (part.real) part.real += t * out_pixels * s.out_channels;
    if (part.bits) part.bits += t * out_pixels * words(s.out_channels);
    operations += run_steps(*layout_, static_cast<const std::byte*>(input) + t * in_step,
                            std::min(kSteps, steps - t), part, scratch, threads);
  }
  return operations;
}

}  // namespace nmx
