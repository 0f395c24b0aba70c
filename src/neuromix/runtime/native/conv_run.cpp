#include <atomic>
#include <utility>

#include "conv_ways.h"
#include "ops/native/pool.h"

namespace nmx {
namespace {

using neuromix::parallel_blocks;

// From this share of active integers on, multiplying by all of them costs less than looking them up.
constexpr double kDense = 0.65;

// Memory for each thread that is at work.
class Slots {
 public:
  Slots(std::uintptr_t at, std::size_t bytes) : at_(at), bytes_(bytes) {}

  // One that no other thread has: there are as many as threads, of which there are at most 64.
  std::size_t take() {
    for (std::uint64_t taken = taken_;;) {
      const std::size_t slot = std::size_t(__builtin_ctzll(~taken));
      if (taken_.compare_exchange_weak(taken, taken | std::uint64_t(1) << slot)) return slot;
    }
  }
  void give_back(std::size_t slot) { taken_ &= ~(std::uint64_t(1) << slot); }
  std::uintptr_t at(std::size_t slot) const { return at_ + slot * bytes_; }

 private:
  const std::uintptr_t at_;
  const std::size_t bytes_;
  std::atomic<std::uint64_t> taken_{0};
};

// How the outputs are divided among the threads: in ranges of pixels, each in ranges of tiles.
struct Division {
  std::size_t pixels, tiles, ranges, tile_ranges;

  explicit Division(const Job& job) : pixels(job.c.out_pixels()), tiles(job.c.tiles.size()), tile_ranges(1) {
    const std::size_t wanted = job.threads > 1 ? 2 * job.threads : 1, most = pixels_at_once(job.steps);
    ranges = (pixels + most - 1) / most;
    // Where tiles share words of output spikes, one thread has them all.
    if (job.c.has_words()) tile_ranges = std::min(tiles, (wanted + ranges - 1) / ranges);
    ranges = std::max(ranges, std::min(pixels, (wanted + tile_ranges - 1) / tile_ranges));
  }
  std::size_t parts() const { return ranges * tile_ranges; }
  Part part(std::size_t i) const {
    const std::size_t range = i / tile_ranges, of_tiles = i % tile_ranges;
    return {pixels * range / ranges, pixels * (range + 1) / ranges, tiles * of_tiles / tile_ranges,
            tiles * (of_tiles + 1) / tile_ranges};
  }
};

void clear_bits(const Job& job, const Part& part) {
  const std::size_t row = words(job.c.s.out_channels);
  for (std::size_t t = 0; t < job.steps; ++t)
    std::fill_n(job.output.bits + (t * job.c.out_pixels() + part.first_pixel) * row,
                (part.last_pixel - part.first_pixel) * row, 0);
}

// Up to so many parts have memory of their own, where the next run finds again what this one has gathered.
constexpr std::size_t kKeptParts = 8;

bool keeps_parts(const Job& job) { return job.c.s.groups == 1 && Division(job).parts() <= kKeptParts; }

std::uint64_t run_all(const Job& job, const Way& way, std::uintptr_t memory, bool keeps = false) {
  std::atomic<std::uint64_t> operations{0};
  Slots slots(memory, way.slot_bytes());
  const Division division(job);
  parallel_blocks(division.parts(), 1, job.threads, [&](std::size_t first, std::size_t last) noexcept {
    const std::size_t slot = slots.take();
    for (std::size_t i = first; i < last; ++i) {
      const Part part = division.part(i);
      if (job.output.neuron && !job.c.has_words()) clear_bits(job, part);
      operations += way.run(part, slots.at(keeps ? i : slot));
    }
    slots.give_back(slot);
  });
  return operations;
}

}  // namespace

void Job::find_sources(std::size_t pixel, std::size_t* sources) const {
  const ConvShape& s = c.s;
  const std::size_t y = pixel / s.out_width * s.stride[0], x = pixel % s.out_width * s.stride[1];
  for (std::size_t tap = 0; tap < c.taps; ++tap) {
    const std::size_t in_y = y + std::size_t(c.offsets[tap].y), in_x = x + std::size_t(c.offsets[tap].x);
    sources[tap] = in_y < s.in_height && in_x < s.in_width ? in_y * s.in_width + in_x : kOutside;  // below 0: huge
  }
}

void Job::finish(std::size_t tile, const Part& part, float* sums) const {
  const Conv::Layout::Tile& of = c.tiles[tile];
  const std::size_t channels = c.s.out_channels, pixels = part.last_pixel - part.first_pixel, first = of.first_output;
  if (c.scales_sums())
    kernel.scale(c.scale.data() + tile * kTile, c.bias.data() + tile * kTile, part.places(steps), sums);
  const std::size_t base_step = output.base_is_static ? 0 : c.out_pixels() * channels;
  if (output.base)
    kernel.add(output.base + part.first_pixel * channels + first, channels, base_step, of.outputs, pixels, steps, sums);
  if (output.real)
    kernel.put(sums, of.outputs, pixels, steps, output.real + (part.first_pixel - first_real) * channels + first,
               channels, reals * channels);
  if (output.neuron) fire(tile, part, sums);
}

void Job::fire(std::size_t tile, const Part& part, const float* sums) const {
  const Conv::Layout::Tile& of = c.tiles[tile];
  const std::size_t channels = c.s.out_channels, size = words(channels), step = c.out_pixels() * size;
  float* const v = output.v ? output.v + part.first_pixel * channels + of.first_output : nullptr;
  std::uint64_t* const bits = output.bits + part.first_pixel * size + of.first_output / 64;
  Firing at{part.last_pixel - part.first_pixel, steps, sums, steps * kTile, kTile, v, channels, bits, size, step};
  if (c.has_words()) return kernel.fire(*output.neuron, of.first_output, of.outputs, at);
  // Others have bits in the same words: it is done apart, pixel by pixel.
  std::uint64_t spikes[kStepsAtOnce];
  const std::size_t shift = of.first_output % 64, pixels = std::exchange(at.pixels, 1);
  at.bits = spikes, at.bits_step = 1;
  for (std::size_t pixel = 0; pixel < pixels; ++pixel, at.x += at.x_pixel, at.v += v ? at.v_pixel : 0) {
    kernel.fire(*output.neuron, of.first_output, of.outputs, at);
    for (std::size_t t = 0; t < steps; ++t) {
      std::uint64_t* const word = bits + pixel * size + t * step;
      word[0] |= spikes[t] << shift;
      if (shift + of.outputs > 64) word[1] |= spikes[t] >> (64 - shift);
    }
  }
}

std::uint64_t seen_spikes(const Conv::Layout& layout, const void* input, std::size_t steps) {
  const ConvShape& s = layout.s;
  const std::size_t size = words(s.in_channels);
  const auto* spikes = static_cast<const std::uint64_t*>(input);
  std::uint64_t seen = 0;
  for (std::size_t t = 0; t < steps; ++t)
    for (std::size_t y = 0; y < s.in_height; ++y)
      for (std::size_t x = 0; x < s.in_width; ++x, spikes += size)
        seen += kernels().count_bits(spikes, size) * layout.seen[0][y] * layout.seen[1][x];
  return seen;
}

std::uint64_t run_steps(const Conv::Layout& layout, const Conv::Layout* before, const void* input, std::size_t steps,
                        const ConvOutput& output, void* scratch, std::size_t threads, bool again) {
  const Job job{layout, input, steps, output, std::clamp<std::size_t>(threads, 1, 64)};
  Carver carver{rounded_up(reinterpret_cast<std::uintptr_t>(scratch), 64)};
  if (layout.adds_rows()) {
    if (layout.small.empty()) return run_all(job, Panels(job), carver.at);
    const bool keeps = keeps_parts(job);
    return run_all(job, SmallPanels(job, again && keeps), carver.at, keeps);
  }
  if (layout.input == Type::binary) {
    run_all(job, Depthwise(job, job.bits(0)), carver.at);
    return seen_spikes(layout, input, steps);
  }
  if (before) {
    run_all(job, Separable(job, *before), carver.at);
    return steps * dense_operations(layout.s);
  }
  if (layout.input == Type::integer && !layout.depthwise) {
    Carver rest = carver;
    Lists lists(job, rest);
    const double all = double(steps * layout.in_pixels() * layout.s.in_channels);
    if (double(lists.fill()) <= kDense * all || layout.real.empty() || !layout.finite)
      return run_all(job, lists, rest.at);
  }
  const float* values = layout.input == Type::real ? static_cast<const float*>(input) : expand(job, carver);
  if (layout.depthwise)
    run_all(job, Depthwise(job, values), carver.at);
  else
    run_all(job, Products(job, values), carver.at);
  return steps * dense_operations(layout.s);
}

std::size_t run_scratch_bytes(const Conv::Layout& layout, const Conv::Layout* before, std::size_t threads) {
  const ConvOutput output;
  const Job job{layout, nullptr, kStepsAtOnce, output, std::clamp<std::size_t>(threads, 1, 64)};
  const auto all = [&job](const Way& way, const Carver& shared, std::size_t kept = 0) {
    return 64 + shared.at + std::max(job.threads, kept) * way.slot_bytes();
  };
  Carver none{0}, of_values{0}, of_lists{0};
  if (layout.adds_rows())
    return layout.small.empty() ? all(Panels(job), none) : all(SmallPanels(job, false), none, kKeptParts);
  if (layout.input == Type::binary) return all(Depthwise(job, job.bits(0)), none);
  if (before) return all(Separable(job, *before), none);
  if (layout.input == Type::integer) of_values.take<float>(kStepsAtOnce * layout.in_pixels() * layout.s.in_channels);
  if (layout.depthwise) return all(Depthwise<float>(job, nullptr), of_values);
  if (layout.input == Type::real) return all(Products(job, nullptr), none);
  return std::max(all(Lists(job, of_lists), of_lists), all(Products(job, nullptr), of_values));
}

}  // namespace nmx
