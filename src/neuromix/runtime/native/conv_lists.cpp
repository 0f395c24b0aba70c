#include "conv_ways.h"
#include "ops/native/pool.h"

namespace nmx {

Lists::Slot::Slot(const Conv::Layout& c, Carver carver)
    : rows(carver.take<std::uint32_t>(most_places(c) * c.rows + kListSlack)),
      factors(carver.take<std::uint8_t>(most_places(c) * c.rows)),
      begins(carver.take<std::size_t>(most_places(c) + 1)),
      sums(carver.take<float>(most_places(c) * kTile)),
      end(carver.at) {}

Lists::Lists(const Job& job, Carver& carver) : Way(job) {
  const std::size_t rows = kStepsAtOnce * s_.in_height;
  active_ = carver.take<std::uint32_t>(rows * row_size());
  begins_ = carver.take<std::uint32_t>(rows * (s_.in_width + 1));
  factors_ = carver.take<std::uint8_t>(rows * row_size());
}

std::uint64_t Lists::fill() {
  const std::size_t rows = job_.steps * s_.in_height;
  neuromix::parallel_blocks(rows, std::max<std::size_t>(1, rows / (4 * job_.threads)), job_.threads,
                            [&](std::size_t first, std::size_t last) noexcept {
                              for (std::size_t row = first; row < last; ++row) list_row(row);
                            });
  std::uint64_t active = 0;
  for (std::size_t row = 0; row < rows; ++row) active += begins_[row * (s_.in_width + 1) + s_.in_width];
  return active;
}

void Lists::list_row(std::size_t row) {
  std::uint32_t *to = active_ + row * row_size(), *begins = begins_ + row * (s_.in_width + 1), count = 0;
  for (std::size_t x = 0; x < s_.in_width; ++x) {
    begins[x] = count;
    const std::size_t position = row * s_.in_width + x, first = x * s_.in_channels;
    for (std::size_t n = 0; n < s_.in_channels; ++n)
      if (job_.integers(position)[n]) {
        factors_[row * row_size() + count] = job_.integers(position)[n];
        to[count++] = std::uint32_t(first + n);
      }
  }
  begins[s_.in_width] = count;
}

std::uint64_t Lists::run(const Part& part, std::uintptr_t memory) const {
  const Slot slot(c_, {memory});
  return run_tiles(
      part, [&](std::size_t group) { return gather(part, group, slot); },
      [&](std::size_t tile) { add_up(part, tile, slot); });
}

// The rows to add at all places of a part; returns how many there are.
std::size_t Lists::gather(const Part& part, std::size_t group, const Slot& slot) const {
  std::size_t place = 0, at = slot.begins[0] = 0;
  for (std::size_t pixel = part.first_pixel; pixel < part.last_pixel; ++pixel)
    for (std::size_t t = 0; t < job_.steps; ++t) {
      for (std::size_t tap = 0; tap < c_.taps; tap += c_.taps_of_list) at += copy(t, pixel, tap, group, at, slot);
      slot.begins[++place] = at;
    }
  return at;
}

// Those of a tap, or of a row of taps from this one on.
std::size_t Lists::copy(std::size_t t, std::size_t pixel, std::size_t tap, std::size_t group, std::size_t at,
                        const Slot& slot) const {
  const std::size_t y = pixel / s_.out_width, x = pixel % s_.out_width;
  const std::size_t in_y = y * s_.stride[0] + std::size_t(c_.offsets[tap].y);
  if (in_y >= s_.in_height) return 0;  // below 0 it is huge
  const auto left = std::ptrdiff_t(x * s_.stride[1]) + c_.offsets[tap].x, width = std::ptrdiff_t(s_.in_width);
  const std::ptrdiff_t from = std::clamp<std::ptrdiff_t>(left, 0, width);
  const std::ptrdiff_t to = std::clamp<std::ptrdiff_t>(left + std::ptrdiff_t(c_.taps_of_list), 0, width);
  const std::size_t row = t * s_.in_height + in_y;
  const std::uint32_t* begins = begins_ + row * (s_.in_width + 1);
  const std::uint32_t *inputs = active_ + row * row_size(), *first = inputs + begins[from],
                      *last = inputs + begins[to];
  const std::ptrdiff_t input = left * std::ptrdiff_t(s_.in_channels) + std::ptrdiff_t(group * c_.in_group);
  if (s_.groups > 1) {
    first = std::lower_bound(first, last, std::uint32_t(std::max<std::ptrdiff_t>(input, 0)));
    last = std::lower_bound(first, last, std::uint32_t(std::max<std::ptrdiff_t>(input, 0) + c_.in_group));
  }
  const auto count = std::size_t(last - first);
  job_.kernel.copy_list(first, count, std::uint32_t(std::ptrdiff_t(tap * c_.in_group) - input), slot.rows + at);
  std::memcpy(slot.factors + at, factors_ + row * row_size() + (first - inputs), count);
  return count;
}

void Lists::add_up(const Part& part, std::size_t tile, const Slot& slot) const {
  const std::size_t at = tile * c_.rows * kTile, places = part.places(job_.steps);
  const Events events{slot.rows, slot.factors, slot.begins};
  if (c_.small.empty()) {
    for (std::size_t i = 0; i < places; ++i) job_.begin(tile, slot.sums + i * kTile);
    job_.kernel.add_rows_times(c_.real.data() + at, events, places, slot.sums);
  } else {
    const float *scale = c_.scale.data() + tile * kTile, *bias = c_.bias.data() + tile * kTile;
    job_.kernel.add_small_rows_times(c_.small.data() + at, events, places, scale, bias, slot.sums);
  }
  job_.finish(tile, part, slot.sums);
}

}  // namespace nmx
