#include "conv_ways.h"

namespace nmx {

Separable::Slot::Slot(const Separable& way, Carver carver)
    : values(carver.take<float>(kStepsAtOnce * kPixels * way.s_.in_channels)), of_depthwise(carver.at) {
  const ConvOutput output;
  const Job job{way.before_, nullptr, kStepsAtOnce, output, 1};
  of_products = of_depthwise + Depthwise(job, job.bits(0)).slot_bytes();
  end = of_products + Products(way.job_, values).slot_bytes();
}

std::uint64_t Separable::run(const Part& part, std::uintptr_t memory) const {
  const Slot slot(*this, {memory});
  ConvOutput output;
  output.real = slot.values;
  for (std::size_t pixel = part.first_pixel, next; pixel < part.last_pixel; pixel = next) {
    next = std::min({part.last_pixel, pixel + kPixels, (pixel / s_.out_width + 1) * s_.out_width});
    const Job job{before_, job_.input, job_.steps, output, 1, pixel, kPixels};
    Depthwise(job, job.bits(0)).run({pixel, next, 0, before_.tiles.size()}, slot.of_depthwise);
    Products(job_, slot.values, pixel, kPixels).run({pixel, next, part.first_tile, part.last_tile}, slot.of_products);
  }
  return 0;
}

}  // namespace nmx
