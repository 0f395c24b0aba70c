#include "conv_ways.h"

namespace nmx {
namespace {

// Sets bits from bit `at` of words on, which are 0 there, to the bits [first, first + count) of others.
inline void copy_bits(const std::uint64_t* from, std::size_t first, std::size_t count, std::uint64_t* to,
                      std::size_t at) {
  from += first / 64, to += at / 64;
  const std::size_t skip = first % 64, shift = at % 64;
  for (; count > 0; ++from, ++to) {
    const std::size_t some = std::min<std::size_t>(64, count);
    std::uint64_t bits = from[0] >> skip;
    if (skip + some > 64) bits |= from[1] << (64 - skip);
    if (some < 64) bits &= (std::uint64_t(1) << some) - 1;
    to[0] |= bits << shift;
    if (shift + some > 64) to[1] |= bits >> (64 - shift);
    count -= some;
  }
}

constexpr std::size_t kWordsOfPanel = kSmallPanel / 64;

std::size_t small_panels(const Conv::Layout& c) { return (c.rows + kSmallPanel - 1) / kSmallPanel; }

}  // namespace

// The inputs of each output of a part, in rows of bits [place][words].
void Spikes::gather(const Part& part, std::size_t group, std::uint64_t* to, std::size_t* sources) const {
  const std::size_t count = c_.in_group / 64;
  const auto gather = c_.in_group % 64 ? &Spikes::gather_bits
                      : count == 1     ? &Spikes::gather_words<1>
                      : count == 2     ? &Spikes::gather_words<2>
                                       : &Spikes::gather_words<0>;
  for (std::size_t pixel = part.first_pixel; pixel < part.last_pixel; ++pixel) {
    job_.find_sources(pixel, sources);
    for (std::size_t t = 0; t < job_.steps; ++t, to += words(c_.rows))
      (this->*gather)(job_.bits(job_.position(t, 0)), group, sources, to);
  }
}

template <std::size_t kCount>
void Spikes::gather_words(const std::uint64_t* map, std::size_t group, const std::size_t* sources,
                          std::uint64_t* to) const {
  const std::size_t count = kCount ? kCount : c_.in_group / 64, size = words(s_.in_channels);
  for (std::size_t tap = 0; tap < c_.taps; ++tap, to += count)
    if (sources[tap] == kOutside)
      for (std::size_t i = 0; i < count; ++i) to[i] = 0;
    else
      for (std::size_t i = 0; i < count; ++i) to[i] = map[sources[tap] * size + group * count + i];
}

void Spikes::gather_bits(const std::uint64_t* map, std::size_t group, const std::size_t* sources,
                         std::uint64_t* to) const {
  const std::size_t count = c_.in_group, size = words(s_.in_channels);
  for (std::size_t i = 0; i < words(c_.rows); ++i) to[i] = 0;
  for (std::size_t tap = 0, at = 0; tap < c_.taps; ++tap, at += count) {
    if (sources[tap] == kOutside) continue;
    const std::uint64_t* const from = map + sources[tap] * size;
    if (size > 1) {
      copy_bits(from, group * count, count, to, at);
      continue;
    }
    const std::uint64_t bits = from[0] >> group * count & ((std::uint64_t(1) << count) - 1);
    to[at / 64] |= bits << at % 64;
    if (at % 64 + count > 64) to[at / 64 + 1] |= bits >> (64 - at % 64);
  }
}

// ---- Float weights ----

Panels::Slot::Slot(const Conv::Layout& c, Carver carver)
    : masks(carver.take<std::uint64_t>(most_places(c) * words(c.rows))),
      sums(carver.take<float>(most_places(c) * kTile)),
      sources(carver.take<std::size_t>(c.taps)),
      end(carver.at) {}

std::uint64_t Panels::run(const Part& part, std::uintptr_t memory) const {
  const Slot slot(c_, {memory});
  const auto gather_all = [&](std::size_t group) {
    gather(part, group, slot.masks, slot.sources);
    return job_.kernel.count_bits(slot.masks, part.places(job_.steps) * words(c_.rows));
  };
  return run_tiles(part, gather_all, [&](std::size_t tile) { add_up(part, tile, slot); });
}

void Panels::add_up(const Part& part, std::size_t tile, const Slot& slot) const {
  const std::size_t places = part.places(job_.steps), panels = words(c_.rows);
  for (std::size_t i = 0; i < places; ++i) job_.begin(tile, slot.sums + i * kTile);
  const float* weights = c_.real.data() + tile * c_.rows * kTile;
  for (std::size_t p = 0; p < panels; ++p)
    job_.kernel.add_panel[c_.tiles[tile].is_whole()](weights + p * 64 * kTile, slot.masks + p, panels, places,
                                                     slot.sums);
  job_.finish(tile, part, slot.sums);
}

// ---- Integer weights ----

SmallPanels::Slot::Slot(const Conv::Layout& c, Carver carver)
    : masks(carver.take<std::uint64_t>(most_places(c) * words(c.rows))),
      rows(carver.take<std::uint8_t>(most_places(c) * c.rows + kListSlack)),
      begins(carver.take<std::uint32_t>(most_places(c) * small_panels(c) + 1)),
      counts(carver.take<std::uint32_t>(most_places(c))),
      held(carver.take<std::uint32_t>(most_places(c))),
      full(carver.take<bool>(small_panels(c))),
      shorts(carver.take<std::uint16_t>(most_places(c) * kTile)),
      sums(carver.take<float>(most_places(c) * kTile)),
      sources(carver.take<std::size_t>(c.taps)),
      end(carver.at) {}

std::uint64_t SmallPanels::run(const Part& part, std::uintptr_t memory) const {
  const Slot slot(c_, {memory});
  const std::size_t places = part.places(job_.steps);
  const auto gather_all = [&](std::size_t group) -> std::size_t {
    if (again_) return slot.begins[small_panels(c_) * places];
    gather(part, group, slot.masks, slot.sources);
    return list(places, slot);
  };
  return run_tiles(part, gather_all, [&](std::size_t tile) { add_up(part, tile, slot); });
}

// Lists the rows to add, panel by panel; returns how many there are.
std::size_t SmallPanels::list(std::size_t places, const Slot& slot) const {
  const std::size_t size = words(c_.rows), panels = small_panels(c_);
  std::uint32_t* begins = slot.begins;
  begins[0] = 0;
  std::fill_n(slot.counts, places, 0);
  std::fill_n(slot.held, places, 0);
  for (std::size_t p = 0; p < panels; ++p, begins += places) {
    const std::size_t first = p * kWordsOfPanel, count = std::min(kWordsOfPanel, size - first);
    job_.kernel.list_bits(slot.masks + first, size, count, places, slot.rows, begins);
    std::uint32_t most = 0;
    for (std::size_t i = 0; i < places; ++i) {
      const std::uint32_t some = begins[i + 1] - begins[i];
      slot.counts[i] += some;
      slot.held[i] += some;
      most = std::max(most, slot.held[i]);
    }
    slot.full[p] = p + 1 == panels;
    if (most <= kSmallPanel) continue;
    slot.full[p - 1] = true;
    for (std::size_t i = 0; i < places; ++i) slot.held[i] = begins[i + 1] - begins[i];
  }
  return begins[0];
}

void SmallPanels::add_up(const Part& part, std::size_t tile, const Slot& slot) const {
  const std::size_t places = part.places(job_.steps), panels = small_panels(c_);
  const auto add = job_.kernel.add_small_panel[c_.tiles[tile].is_whole()];
  const float *scale = c_.scale.data() + tile * kTile, *bias = c_.bias.data() + tile * kTile;
  const SmallSums sums{slot.shorts, slot.sums, slot.counts, scale, bias};
  SmallPanel panel{c_.small.data() + tile * c_.rows * kTile, slot.rows, slot.begins};
  for (std::size_t p = 0; p < panels; ++p) {
    panel.then = p + 1 == panels ? Then::finish : slot.full[p] ? Then::move : Then::keep;
    add(panel, places, sums);
    panel.goes_on = !slot.full[p];
    panel.has_totals |= slot.full[p];
    panel.weights += kSmallPanel * kTile;
    panel.begins += places;
  }
  job_.finish(tile, part, slot.sums);
}

}  // namespace nmx
