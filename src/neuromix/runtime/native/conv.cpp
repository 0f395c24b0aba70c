#include "conv.h"

#include <cmath>

#include "conv_layout.h"

namespace nmx {
namespace {

// Calls visit(place) for each tap within the map, over all outputs along one axis.
template <typename Visit>
void visit_taps(const ConvShape& s, int axis, const Visit& visit) {
  const std::size_t in[] = {s.in_height, s.in_width}, out[] = {s.out_height, s.out_width};
  for (std::size_t o = 0; o < out[axis]; ++o)
    for (std::size_t k = 0; k < s.kernel[axis]; ++k) {
      const std::size_t at = o * s.stride[axis] + k * s.dilation[axis] - s.padding[axis];  // below 0 it is huge
      if (at < in[axis]) visit(at);
    }
}

}  // namespace

std::uint64_t dense_operations(const ConvShape& s) {
  std::uint64_t taps[2] = {};
  for (const int axis : {0, 1}) visit_taps(s, axis, [&](std::size_t) { ++taps[axis]; });
  return taps[0] * taps[1] * (s.in_channels / s.groups) * s.out_channels;
}

Conv::Layout::Layout(const ConvShape& shape, Type type, const ConvWeights& weights)
    : s(shape),
      input(type),
      taps(shape.kernel[0] * shape.kernel[1]),
      in_group(shape.in_channels / shape.groups),
      out_group(shape.out_channels / shape.groups),
      depthwise(shape.is_depthwise()),
      scaled(weights.small),
      finite(true) {
  rows = taps * in_group;
  // A depthwise convolution has one output a group, so that tiles go over groups.
  const std::size_t groups = depthwise ? 1 : s.groups, of_group = s.out_channels / groups;
  for (std::size_t group = 0; group < groups; ++group)
    for (std::size_t first = 0; first < of_group; first += kTile)
      tiles.push_back({group, group * of_group + first, std::min(kTile, of_group - first)});
  for (std::size_t y = 0; y < s.kernel[0]; ++y)
    for (std::size_t x = 0; x < s.kernel[1]; ++x)
      offsets.push_back({std::ptrdiff_t(y * s.dilation[0]) - std::ptrdiff_t(s.padding[0]),
                         std::ptrdiff_t(x * s.dilation[1]) - std::ptrdiff_t(s.padding[1])});
  seen[0].resize(s.in_height);
  seen[1].resize(s.in_width);
  for (const int axis : {0, 1}) visit_taps(s, axis, [&](std::size_t at) { ++seen[axis][at]; });
  taps_of_list = s.groups == 1 && s.dilation[1] == 1 ? s.kernel[1] : 1;
  if (!weights.small)
    pack(weights.real, real);
  else if (input == Type::binary && depthwise && taps <= kMostShorts)
    pack(weights.small, shorts);
  else if (input == Type::real || depthwise)
    pack(weights.small, real);
  else
    pack_small(weights.small);
  for (const float w : real) finite = finite && std::isfinite(w);
  scale.assign(tiles.size() * kTile, 1);
  bias.assign(tiles.size() * kTile, 0);
  for (std::size_t tile = 0; tile < tiles.size(); ++tile)
    for (std::size_t n = 0; n < tiles[tile].outputs; ++n) {
      const std::size_t o = tiles[tile].first_output + n;
      if (weights.scale) scale[tile * kTile + n] = weights.scale[o];
      if (weights.bias) bias[tile * kTile + n] = weights.bias[o] + 0.0f;  // no -0, to which adding 0 is no nothing
    }
}

// Calls place(tile, row, n, i) for weight i of those in the file, which output n of a tile has in a row.
template <typename Place>
void Conv::Layout::for_each_weight(const Place& place) const {
  for (std::size_t tile = 0; tile < tiles.size(); ++tile)
    for (std::size_t n = 0; n < tiles[tile].outputs; ++n)
      for (std::size_t c = 0; c < in_group; ++c)
        for (std::size_t tap = 0; tap < taps; ++tap)
          place(tile, tap * in_group + c, n, ((tiles[tile].first_output + n) * in_group + c) * taps + tap);
}

template <typename From, typename To>
void Conv::Layout::pack(const From* from, Aligned<To>& to) {
  to.assign(tiles.size() * rows * kTile, 0);
  for_each_weight([&](std::size_t tile, std::size_t row, std::size_t n, std::size_t i) {
    to[(tile * rows + row) * kTile + n] = To(from[i]);
  });
}

void Conv::Layout::pack_small(const std::int8_t* from) {
  small.assign(tiles.size() * rows * kTile, 0);
  for_each_weight([&](std::size_t tile, std::size_t row, std::size_t n, std::size_t i) {
    small[(tile * rows + row) * kTile + small_place(n)] = std::uint8_t(from[i] + kSmallZero);
  });
}

Conv::Conv(const ConvShape& shape, Type input, const ConvWeights& weights)
    : layout_(std::make_unique<Layout>(shape, input, weights)) {}

Conv::~Conv() = default;

std::size_t Conv::scratch_bytes(std::size_t threads, const Conv* before) const {
  return run_scratch_bytes(*layout_, before ? before->layout_.get() : nullptr, threads);
}

std::uint64_t Conv::run(const void* input, std::size_t steps, const ConvOutput& output, void* scratch,
                        std::size_t threads, const Conv* before, bool again) const {
  const ConvShape& s = layout_->s;
  const Layout& first = before ? *before->layout_ : *layout_;
  const std::size_t in_step = first.in_pixels() * row_bytes(first.input, first.s.in_channels);
  const std::size_t out_pixels = layout_->out_pixels();
  std::uint64_t operations = 0;
  for (std::size_t t = 0; t < steps; t += kStepsAtOnce) {
    ConvOutput part = output;
    if (part.base && !part.base_is_static) part.base += t * out_pixels * s.out_channels;
    if (part.real) part.real += t * out_pixels * s.out_channels;
    if (part.bits) part.bits += t * out_pixels * words(s.out_channels);
    operations += run_steps(*layout_, before ? &first : nullptr, static_cast<const std::byte*>(input) + t * in_step,
                            std::min(kStepsAtOnce, steps - t), part, scratch, threads, again && steps <= kStepsAtOnce);
  }
  return operations;
}

std::uint64_t Conv::seen_spikes(const void* input, std::size_t steps) const {
  return nmx::seen_spikes(*layout_, input, steps);
}

}  // namespace nmx
