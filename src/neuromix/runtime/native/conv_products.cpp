#include "conv_ways.h"
#include "ops/native/pool.h"

namespace nmx {

const float* expand(const Job& job, Carver& carver) {
  const std::size_t channels = job.c.s.in_channels;
  float* const values = carver.take<float>(kStepsAtOnce * job.c.in_pixels() * channels);
  const std::size_t positions = job.steps * job.c.in_pixels();
  neuromix::parallel_blocks(positions, std::max<std::size_t>(64, positions / (4 * job.threads)), job.threads,
                            [&](std::size_t first, std::size_t last) noexcept {
                              const std::uint8_t* from = job.integers(0);
                              for (std::size_t i = first * channels; i < last * channels; ++i)
                                values[i] = float(from[i]);
                            });
  return values;
}

Products::Slot::Slot(const Conv::Layout& c, Carver carver)
    : sums(carver.take<float>(kPixels * kStepsAtOnce * kTile)),
      sources(carver.take<std::size_t>(kPixels * c.taps)),
      copies(carver.take<float>(kStepsAtOnce * kPixels * c.rows)),
      patches(carver.take<const float*>(kStepsAtOnce * kPixels)),
      end(carver.at) {}

std::uint64_t Products::run(const Part& part, std::uintptr_t memory) const {
  const Slot slot(c_, {memory});
  for (std::size_t pixel = part.first_pixel; pixel < part.last_pixel; pixel += kPixels)
    multiply({pixel, std::min(pixel + kPixels, part.last_pixel), part.first_tile, part.last_tile}, slot);
  return 0;
}

// Some pixels, kPixels at most. Each has its inputs side by side in a patch, which is copied together unless the input
// itself is one.
void Products::multiply(const Part& part, const Slot& slot) const {
  const std::size_t pixels = part.last_pixel - part.first_pixel;
  for (std::size_t p = 0; p < pixels; ++p) job_.find_sources(part.first_pixel + p, slot.sources + p * c_.taps);
  std::size_t group = s_.groups;
  for (std::size_t tile = part.first_tile; tile < part.last_tile; ++tile) {
    if (c_.tiles[tile].group != group) fill_patches(group = c_.tiles[tile].group, pixels, slot);
    for (std::size_t i = 0; i < kPixels * job_.steps; ++i) job_.begin(tile, slot.sums + i * kTile);
    for (std::size_t t = 0; t < job_.steps; ++t)
      job_.kernel.multiply[c_.tiles[tile].is_whole()](slot.patches + t * kPixels,
                                                      c_.real.data() + tile * c_.rows * kTile, c_.rows,
                                                      slot.sums + t * kTile, job_.steps * kTile);
    job_.finish(tile, part, slot.sums);
  }
}

void Products::fill_patches(std::size_t group, std::size_t pixels, const Slot& slot) const {
  const std::size_t offset = group * c_.in_group, size = c_.in_group;
  const auto input = [&](std::size_t t, std::size_t source) {
    return values_ + (t * pixels_ + source - first_pixel_) * s_.in_channels + offset;
  };
  for (std::size_t i = 0; i < job_.steps * kPixels; ++i) {
    const std::size_t t = i / kPixels, *sources = slot.sources + std::min(i % kPixels, pixels - 1) * c_.taps;
    if (c_.taps == 1 && sources[0] != kOutside) {
      slot.patches[i] = input(t, sources[0]);
      continue;
    }
    float* to = slot.copies + i * c_.rows;
    slot.patches[i] = to;
    for (std::size_t tap = 0, some; tap < c_.taps; tap += some, to += some * size) {
      some = 1;
      if (sources[tap] == kOutside) {
        std::memset(to, 0, size * sizeof(float));
        continue;
      }
      while (s_.groups == 1 && tap + some < c_.taps && sources[tap + some] == sources[tap] + some) ++some;
      std::memcpy(to, input(t, sources[tap]), some * size * sizeof(float));
    }
  }
}

}  // namespace nmx
