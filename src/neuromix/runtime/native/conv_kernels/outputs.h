// What becomes of the sums of a tile.
#pragma once

#include "vectors.h"

namespace nmx {
namespace {  // see vectors.h

void scale(const float* scale, const float* bias, std::size_t places, float* sums) {
  for (std::size_t i = 0; i < places; ++i, sums += kTile)
    for (std::size_t n = 0; n < kTile; n += kLanes)
      store(sums + n, load<Floats>(bias + n) + load<Floats>(scale + n) * load<Floats>(sums + n));
}

void add(const float* from, std::size_t pixel, std::size_t step, std::size_t outputs, std::size_t pixels,
         std::size_t steps, float* sums) {
  for (std::size_t p = 0; p < pixels; ++p, from += pixel)
    for (std::size_t t = 0; t < steps; ++t, sums += kTile) {
      std::size_t n = 0;
      for (; n + kLanes <= outputs; n += kLanes)
        store(sums + n, load<Floats>(sums + n) + load<Floats>(from + t * step + n));
      for (; n < outputs; ++n) sums[n] += from[t * step + n];
    }
}

void put(const float* sums, std::size_t outputs, std::size_t pixels, std::size_t steps, float* to, std::size_t pixel,
         std::size_t step) {
  for (std::size_t p = 0; p < pixels; ++p, to += pixel)
    for (std::size_t t = 0; t < steps; ++t, sums += kTile) {
      std::size_t n = 0;
      for (; n + kLanes <= outputs; n += kLanes) store(to + t * step + n, load<Floats>(sums + n));
      for (; n < outputs; ++n) to[t * step + n] = sums[n];
    }
}

// What `fire` reads of some vectors of neurons.
template <std::size_t vectors>
struct Constants {
  Floats decay[vectors], gain[vectors], offset[vectors], threshold[vectors], level[vectors];

  Constants(const Neuron& neuron, std::size_t channel) {
    for (std::size_t i = 0, n = channel; i < vectors; ++i, n += kLanes) {
      decay[i] = load<Floats>(neuron.decay + n), gain[i] = load<Floats>(neuron.gain + n);
      offset[i] = load<Floats>(neuron.offset + n), level[i] = load<Floats>(neuron.level + n);
      threshold[i] = load<Floats>(neuron.threshold + n);
    }
  }
};

// `fire` for some whole vectors of neurons, those from `first` on in the tile.
template <Reset reset, std::size_t vectors>
void fire_vectors(const Neuron& neuron, std::size_t channel, std::size_t first, const Firing& at) {
  const Constants<vectors> of(neuron, channel + first);
  const Floats v_reset = broadcast(neuron.v_reset), v_init = broadcast(neuron.v_init);
  for (std::size_t pixel = 0; pixel < at.pixels; ++pixel) {
    float* const v = at.v ? at.v + pixel * at.v_pixel + first : nullptr;
    const float* x = at.x + pixel * at.x_pixel + first;
    std::uint64_t* to = at.bits + pixel * at.bits_pixel;
    Floats potential[vectors];
    for (std::size_t i = 0; i < vectors; ++i) potential[i] = v ? load<Floats>(v + i * kLanes) : v_init;
    for (std::size_t t = 0; t < at.steps; ++t, x += at.x_step, to += at.bits_step) {
      std::uint64_t bits = 0;
      for (std::size_t i = 0; i < vectors; ++i) {
        const Floats h = of.decay[i] * potential[i] + of.gain[i] * load<Floats>(x + i * kLanes) + of.offset[i];
        const Mask fired = at_least(h, of.level[i]);
        potential[i] = reset == Reset::hard   ? choose(fired, v_reset, h)
                       : reset == Reset::soft ? h - choose(fired, of.threshold[i], Floats{})
                                              : h;
        bits |= bits_of(fired) << (i * kLanes);
      }
      *to = first == 0 ? bits : *to | bits << first;
    }
    for (std::size_t i = 0; v && i < vectors; ++i) store(v + i * kLanes, potential[i]);
  }
}

// What is left when a vector does not fit any more, filled up with zeros.
template <Reset reset>
void fire_rest(const Neuron& neuron, std::size_t channel, std::size_t first, std::size_t count, const Firing& at) {
  for (std::size_t pixel = 0; pixel < at.pixels; ++pixel) {
    float* const v = at.v ? at.v + pixel * at.v_pixel + first : nullptr;
    float x[kLanes] = {}, potential[kLanes];
    store(potential, broadcast(neuron.v_init));
    if (v) std::memcpy(potential, v, count * sizeof(float));
    for (std::size_t t = 0; t < at.steps; ++t) {
      std::uint64_t bits, &to = at.bits[pixel * at.bits_pixel + t * at.bits_step];
      std::memcpy(x, at.x + pixel * at.x_pixel + t * at.x_step + first, count * sizeof(float));
      fire_vectors<reset, 1>(neuron, channel + first, 0, {1, 1, x, 0, 0, potential, 0, &bits, 0, 0});
      bits &= (std::uint64_t(1) << count) - 1;
      to = first == 0 ? bits : to | bits << first;
    }
    if (v) std::memcpy(v, potential, count * sizeof(float));
  }
}

template <Reset reset>
void fire_as(const Neuron& neuron, std::size_t channel, std::size_t count, const Firing& at) {
  std::size_t n = 0;
  for (; n + 4 * kLanes <= count; n += 4 * kLanes)  // their sums do not wait for one another
    fire_vectors<reset, 4>(neuron, channel, n, at);
  for (; n + kLanes <= count; n += kLanes) fire_vectors<reset, 1>(neuron, channel, n, at);
  if (n < count) fire_rest<reset>(neuron, channel, n, count - n, at);
}

void fire(const Neuron& neuron, std::size_t channel, std::size_t count, const Firing& at) {
  if (neuron.reset == Reset::hard) return fire_as<Reset::hard>(neuron, channel, count, at);
  if (neuron.reset == Reset::soft) return fire_as<Reset::soft>(neuron, channel, count, at);
  fire_as<Reset::none>(neuron, channel, count, at);
}

}  // namespace
}  // namespace nmx
