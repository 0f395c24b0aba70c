#include <type_traits>

#include "conv_ways.h"

namespace nmx {

template <typename T>
Depthwise<T>::Slot::Slot(const Conv::Layout& c, Carver carver)
    : sums(carver.take<float>(kPixels * kStepsAtOnce * kTile)),
      rows(carver.take<const T*>(c.s.kernel[0])),
      end(carver.at) {}

template <typename T>
std::uint64_t Depthwise<T>::run(const Part& part, std::uintptr_t memory) const {
  const Slot slot(c_, {memory});
  const std::size_t most = takes_several(s_.kernel[1], s_.stride[1], s_.dilation[1]) ? kPixels : 1;
  for (std::size_t tile = part.first_tile; tile < part.last_tile; ++tile)
    for (std::size_t pixel = part.first_pixel, some; pixel < part.last_pixel; pixel += some) {
      some = std::min({most, part.last_pixel - pixel, s_.out_width - pixel % s_.out_width});
      add_up(tile, pixel, some, slot);
      job_.finish(tile, {pixel, pixel + some, tile, tile + 1}, slot.sums);
    }
  return 0;
}

// Some outputs side by side in a row of the map.
template <typename T>
void Depthwise<T>::add_up(std::size_t tile, std::size_t pixel, std::size_t some, const Slot& slot) const {
  const std::size_t y = pixel / s_.out_width, x = pixel % s_.out_width;
  const auto left = std::ptrdiff_t(x * s_.stride[1]) - std::ptrdiff_t(s_.padding[1]);
  const Window window{s_.kernel[0], s_.kernel[1], s_.dilation[1], left, s_.in_width, pitch(),
                      some,         job_.steps * kTile};
  const std::size_t at = tile * c_.rows * kTile;
  for (std::size_t i = 0; c_.shorts.empty() && i < some * job_.steps; ++i) job_.begin(tile, slot.sums + i * kTile);
  for (std::size_t t = 0; t < job_.steps; ++t) {
    find_rows(tile, t, y, slot);
    float* const sums = slot.sums + t * kTile;
    if constexpr (std::is_same_v<T, float>)
      job_.kernel.add_products(window, c_.real.data() + at, slot.rows, c_.tiles[tile].outputs, sums);
    else if (c_.shorts.empty())
      job_.kernel.add_spikes(window, c_.real.data() + at, slot.rows, sums);
    else
      job_.kernel.add_small_spikes(window, c_.shorts.data() + at, slot.rows, c_.scale.data() + tile * kTile,
                                   c_.bias.data() + tile * kTile, sums);
  }
}

// Where the rows of the map begin that the outputs at y see.
template <typename T>
void Depthwise<T>::find_rows(std::size_t tile, std::size_t t, std::size_t y, const Slot& slot) const {
  const std::size_t offset = std::is_same_v<T, float> ? tile * kTile : tile;
  for (std::size_t row = 0; row < s_.kernel[0]; ++row) {
    const std::size_t in_y = y * s_.stride[0] + row * s_.dilation[0] - s_.padding[0];  // above the map it is huge
    slot.rows[row] =
        in_y < s_.in_height ? input_ + job_.position(t, in_y * s_.in_width) * pitch() + offset : nullptr;
  }
}

template class Depthwise<float>;
template class Depthwise<std::uint64_t>;

}  // namespace nmx
