#include <atomic>
#include <cstring>

#include "conv_layout.h"
#include "ops/native/pool.h"

namespace nmx {
namespace {

using neuromix::parallel_blocks;

// From this share of active inputs on, multiplying by all of them costs less than looking them up.
constexpr double kDense = 0.65;

// Takes pieces off the caller's scratch memory, or from address 0 to see how much that needs.
struct Carver {
  std::uintptr_t at;

  template <typename T>
  T* take(std::size_t count) {
    T* taken = reinterpret_cast<T*>(at);
    at += rounded_up(count * sizeof(T), 64);
    return taken;
  }
};

// What a thread works with while it does a row of outputs.
struct Slot {
  float* sums;           // [max(kSteps, kPixels)][kTile]
  float* zeros;          // [kTile]
  // Of an output: its events, and under each tap the input pixel, where its spikes are, or its values.
  Events* lists;
  std::size_t* sources;  // [kPixels][taps]
  std::ptrdiff_t* offsets;
  const float** values;
  // Inputs copied together: of each pixel of a dense product, or of each tap of a depthwise one.
  float* copies;
  const float** patch;  // of each pixel

  Slot(const Conv::Layout& c, Carver& carver) {
    sums = carver.take<float>(std::max(kSteps, kPixels) * kTile);
    zeros = carver.take<float>(kTile);
    lists = carver.take<Events>(c.taps);
    sources = carver.take<std::size_t>(kPixels * c.taps);
    offsets = carver.take<std::ptrdiff_t>(c.taps);
    values = carver.take<const float*>(c.taps);
    copies = carver.take<float>(c.depthwise ? c.taps * kTile : kPixels * c.rows);
    patch = carver.take<const float*>(kPixels);
  }
};

// A tap that lies outside the map.
constexpr std::size_t kOutside = ~std::size_t{0};

class Run {
 public:
  Run(const Conv::Layout& layout, const void* input, std::size_t steps, const ConvOutput& output, void* scratch,
      std::size_t threads)
      : c_(layout), s_(layout.s), input_(input), steps_(steps), output_(output), threads_(threads) {
    carve(Carver{rounded_up(reinterpret_cast<std::uintptr_t>(scratch), 64)});
  }

  std::uint64_t operator()();

  // Where scratch memory ends that begins at `carver`.
  std::uintptr_t carve(Carver carver);

 private:
  void list_active();
  void list_row(std::size_t row);
  std::size_t row_size() const { return s_.in_width * s_.in_channels; }
  void expand();
  void run_rows(std::size_t first, std::size_t last, std::size_t parts);
  std::size_t take_slot();

  void add_up(const Slot& slot, std::size_t y, std::size_t tile);
  Events events(std::size_t t, std::size_t y, std::size_t x, std::size_t tap, std::size_t group) const;
  void add_tile(std::size_t tile, const Slot& slot, std::size_t lists, float* to) const;
  void multiply(const Slot& slot, std::size_t y, std::size_t first_tile, std::size_t last_tile);
  void fill_patches(const Slot& slot, std::size_t t, std::size_t group, std::size_t pixels) const;
  void find_sources(const Slot& slot, std::size_t y, std::size_t x, std::size_t place) const;
  void multiply_depthwise(const Slot& slot, std::size_t y, std::size_t tile);
  void find_values(const Slot& slot, std::size_t t, std::size_t tile) const;
  void mask_depthwise(const Slot& slot, std::size_t y, std::size_t tile);

  std::size_t position(std::size_t t, std::size_t pixel) const { return t * c_.in_pixels() + pixel; }
  const std::uint64_t* bits(std::size_t position) const {
    return static_cast<const std::uint64_t*>(input_) + position * words(s_.in_channels);
  }
  const std::uint8_t* integers(std::size_t position) const {
    return static_cast<const std::uint8_t*>(input_) + position * s_.in_channels;
  }

  // What the sums of a tile begin with, and where they go: to the output itself if it can be.
  const float* begin(std::size_t tile, const Slot& slot) const {
    return c_.scaled ? slot.zeros : c_.bias.data() + tile * kTile;
  }
  float* sums(std::size_t tile, std::size_t t, std::size_t pixel, const Slot& slot) const {
    if (output_.neuron || output_.add || c_.outputs(tile) < kTile) return slot.sums;
    return output_.real + (t * c_.out_pixels() + pixel) * s_.out_channels + c_.first_output(tile);
  }
  void finish(std::size_t tile, std::size_t t, std::size_t pixel, float* sums) const;

  const Conv::Layout& c_;
  const ConvShape& s_;
  const Kernels& kernel_ = kernels();
  const void* input_;
  std::size_t steps_;
  const ConvOutput& output_;
  std::size_t threads_;

  // The active inputs of each row of each step, as x * channels + channel, ascending. A row has `row_size()` places,
  // and begins_ tells for each of its pixels, and for the end, where in the row its inputs begin.
  std::uint32_t* active_inputs_ = nullptr;
  std::uint8_t* factors_ = nullptr;  // of integer inputs, their values
  std::uint32_t* begins_ = nullptr;
  const float* values_ = nullptr;    // [T][pixels][C]: real inputs, or others that are not sparse
  std::uintptr_t slots_ = 0;
  std::size_t slot_bytes_ = 0;
  std::atomic<std::uint64_t> slots_taken_{0}, active_{0}, operations_{0};
};

std::uintptr_t Run::carve(Carver carver) {
  const std::size_t positions = kSteps * c_.in_pixels();
  if (c_.input != Type::real) {
    active_inputs_ = carver.take<std::uint32_t>(positions * s_.in_channels);
    if (c_.input == Type::integer) factors_ = carver.take<std::uint8_t>(positions * s_.in_channels);
    begins_ = carver.take<std::uint32_t>(kSteps * s_.in_height * (s_.in_width + 1));
  }
  slots_ = carver.at;
  Carver one{slots_};
  Slot(c_, one);
  slot_bytes_ = one.at - slots_;
  return slots_ + threads_ * slot_bytes_;
}

std::uint64_t Run::operator()() {
  if (c_.input == Type::real) {
    values_ = static_cast<const float*>(input_);
    operations_ = steps_ * dense_operations(s_);
  } else if (!(c_.depthwise && c_.input == Type::binary)) {
    list_active();
    const double share = double(active_) / double(steps_ * c_.in_pixels() * s_.in_channels);
    if (c_.depthwise || (share > kDense && !c_.real.empty() && c_.finite)) expand();
  }
  // A few tasks for each thread: rows of outputs, or where there are few rows some tiles of one.
  const std::size_t wanted = threads_ > 1 ? 4 * threads_ : 1;
  std::size_t parts = std::min(c_.all_tiles(), (wanted + s_.out_height - 1) / s_.out_height);
  if (!c_.has_words()) parts = 1;  // tiles share words of output spikes, so one thread has them all
  const std::size_t tasks = s_.out_height * parts;
  parallel_blocks(tasks, std::max<std::size_t>(1, tasks / wanted), threads_,
                  [&](std::size_t first, std::size_t last) noexcept { run_rows(first, last, parts); });
  return operations_;
}

// ---- The input ----

void Run::list_active() {
  const std::size_t rows = steps_ * s_.in_height;
  parallel_blocks(rows, std::max<std::size_t>(1, rows / (4 * threads_)), threads_,
                  [&](std::size_t first, std::size_t last) noexcept {
                    for (std::size_t row = first; row < last; ++row) list_row(row);
                  });
}

void Run::list_row(std::size_t row) {
  std::uint32_t *to = active_inputs_ + row * row_size(), *begins = begins_ + row * (s_.in_width + 1), count = 0;
  for (std::size_t x = 0; x < s_.in_width; ++x) {
    begins[x] = count;
    const std::size_t position = row * s_.in_width + x, first = x * s_.in_channels;
    if (c_.input == Type::binary)
      count += std::uint32_t(
          kernel_.list_bits(bits(position), words(s_.in_channels), std::uint32_t(first), to + count));
    else
      for (std::size_t n = 0; n < s_.in_channels; ++n)
        if (integers(position)[n]) {
          factors_[row * row_size() + count] = integers(position)[n];
          to[count++] = std::uint32_t(first + n);
        }
  }
  begins[s_.in_width] = count;
  active_ += count;
}

// Into the memory that the list would have had.
void Run::expand() {
  float* values = reinterpret_cast<float*>(active_inputs_);
  values_ = values;
  const std::size_t positions = steps_ * c_.in_pixels();
  parallel_blocks(positions, std::max<std::size_t>(64, positions / (4 * threads_)), threads_,
                  [&](std::size_t first, std::size_t last) noexcept {
                    for (std::size_t i = first; i < last; ++i) {
                      float* to = values + i * s_.in_channels;
                      if (c_.input == Type::binary)
                        for (std::size_t n = 0; n < s_.in_channels; ++n)
                          to[n] = float(bits(i)[n / 64] >> (n % 64) & 1);
                      else
                        for (std::size_t n = 0; n < s_.in_channels; ++n) to[n] = float(integers(i)[n]);
                    }
                  });
}

// ---- Rows of outputs ----

// One that no other thread has: there are as many as threads, of which there are at most 64.
std::size_t Run::take_slot() {
  for (std::uint64_t taken = slots_taken_;;) {
    const std::size_t slot = std::size_t(__builtin_ctzll(~taken));
    if (slots_taken_.compare_exchange_weak(taken, taken | std::uint64_t(1) << slot)) return slot;
  }
}

void Run::run_rows(std::size_t first, std::size_t last, std::size_t parts) {
  const std::size_t number = take_slot();
  Carver carver{slots_ + number * slot_bytes_};
  const Slot slot(c_, carver);
  std::memset(slot.zeros, 0, kTile * sizeof(float));
  if (c_.depthwise) std::memset(slot.copies, 0, c_.taps * kTile * sizeof(float));
  for (std::size_t i = first; i < last; ++i) {
    const std::size_t y = i / parts, part = i % parts, tiles = c_.all_tiles();
    const std::size_t begin = tiles * part / parts, end = tiles * (part + 1) / parts;
    if (output_.neuron && !c_.has_words())
      for (std::size_t t = 0; t < steps_; ++t)
        std::memset(output_.bits + (t * c_.out_pixels() + y * s_.out_width) * words(s_.out_channels), 0,
                    s_.out_width * words(s_.out_channels) * 8);
    if (values_ && !c_.depthwise)
      multiply(slot, y, begin, end);
    else
      for (std::size_t tile = begin; tile < end; ++tile)
        !c_.depthwise ? add_up(slot, y, tile)
        : values_     ? multiply_depthwise(slot, y, tile)
                      : mask_depthwise(slot, y, tile);
  }
  slots_taken_ &= ~(std::uint64_t(1) << number);
}

void Run::finish(std::size_t tile, std::size_t t, std::size_t pixel, float* sums) const {
  const std::size_t first = c_.first_output(tile), count = c_.outputs(tile), o = s_.out_channels;
  const std::size_t position = t * c_.out_pixels() + pixel;
  if (c_.scaled && c_.small.empty()) {  // sums of integers that came as floats
    const float *scale = c_.scale.data() + tile * kTile, *bias = c_.bias.data() + tile * kTile;
    for (std::size_t n = 0; n < kTile; ++n) sums[n] = bias[n] + scale[n] * sums[n];
  }
  if (output_.neuron) {
    const std::uint64_t spikes =
        kernel_.fire(*output_.neuron, first, count, sums, output_.v + pixel * o + first);
    std::uint64_t* word = output_.bits + position * words(o) + first / 64;
    if (c_.has_words()) {
      *word = spikes;
    } else {
      word[0] |= spikes << first % 64;
      if (first % 64 + count > 64) word[1] |= spikes >> (64 - first % 64);
    }
    return;
  }
  float* out = output_.real + position * o + first;
  if (output_.add)
    for (std::size_t n = 0; n < count; ++n) out[n] += sums[n];
  else if (out != sums)
    std::memcpy(out, sums, count * sizeof(float));
}

// ---- Sparse inputs ----

void Run::add_up(const Slot& slot, std::size_t y, std::size_t tile) {
  std::uint64_t operations = 0;
  for (std::size_t x = 0; x < s_.out_width; ++x)
    for (std::size_t t = 0; t < steps_; ++t) {
      std::size_t lists = 0, pixel = y * s_.out_width + x;
      for (std::size_t tap = 0; tap < c_.taps; tap += c_.taps_of_list) {
        slot.lists[lists] = events(t, y, x, tap, c_.group(tile));
        operations += slot.lists[lists].count * c_.outputs(tile);
        lists += slot.lists[lists].count > 0;
      }
      float* const to = sums(tile, t, pixel, slot);
      add_tile(tile, slot, lists, to);
      finish(tile, t, pixel, to);
    }
  operations_ += operations;
}

// The events of a tap, or of a row of taps from this one on.
Events Run::events(std::size_t t, std::size_t y, std::size_t x, std::size_t tap, std::size_t group) const {
  const std::size_t in_y = y * s_.stride[0] + std::size_t(c_.offsets[tap].y);
  if (in_y >= s_.in_height) return {nullptr, nullptr, 0, 0};  // below 0 it is huge
  const auto left = std::ptrdiff_t(x * s_.stride[1]) + c_.offsets[tap].x, width = std::ptrdiff_t(s_.in_width);
  const std::ptrdiff_t from = std::clamp<std::ptrdiff_t>(left, 0, width);
  const std::ptrdiff_t to = std::clamp<std::ptrdiff_t>(left + std::ptrdiff_t(c_.taps_of_list), 0, width);
  const std::size_t row = t * s_.in_height + in_y;
  const std::uint32_t* begins = begins_ + row * (s_.in_width + 1);
  const std::uint32_t *inputs = active_inputs_ + row * row_size(), *first = inputs + begins[from],
                      *last = inputs + begins[to];
  const std::ptrdiff_t input = left * std::ptrdiff_t(s_.in_channels) + std::ptrdiff_t(group * c_.in_group);
  if (s_.groups > 1) {
    first = std::lower_bound(first, last, std::uint32_t(std::max<std::ptrdiff_t>(input, 0)));
    last = std::lower_bound(first, last, std::uint32_t(std::max<std::ptrdiff_t>(input, 0) + c_.in_group));
  }
  const std::uint8_t* factors = factors_ ? factors_ + row * row_size() + (first - inputs) : nullptr;
  return {first, factors, std::size_t(last - first), std::ptrdiff_t(tap * c_.in_group) - input};
}

void Run::add_tile(std::size_t tile, const Slot& slot, std::size_t lists, float* to) const {
  const std::size_t at = tile * c_.rows * kTile, whole = c_.is_whole(tile);
  if (c_.scaled) {
    const float *scale = c_.scale.data() + tile * kTile, *bias = c_.bias.data() + tile * kTile;
    const auto add = factors_ ? kernel_.add_small_rows_times : kernel_.add_small_rows[whole];
    return add(c_.small.data() + at, slot.lists, lists, scale, bias, to);
  }
  const auto add = factors_ ? kernel_.add_rows_times : kernel_.add_rows[whole];
  add(c_.real.data() + at, slot.lists, lists, begin(tile, slot), to);
}

// ---- Inputs that are not sparse ----

// All steps of the outputs at y, some pixels side by side at a time. Each has its inputs side by side in a patch,
// which is copied together unless the input itself is one.
void Run::multiply(const Slot& slot, std::size_t y, std::size_t first_tile, std::size_t last_tile) {
  for (std::size_t x = 0; x < s_.out_width; x += kPixels) {
    const std::size_t pixels = std::min(kPixels, s_.out_width - x);
    for (std::size_t p = 0; p < pixels; ++p) find_sources(slot, y, x + p, p);
    for (std::size_t t = 0; t < steps_; ++t) {
      std::size_t group = s_.groups;
      for (std::size_t tile = first_tile; tile < last_tile; ++tile) {
        if (c_.group(tile) != group) fill_patches(slot, t, group = c_.group(tile), pixels);
        for (std::size_t p = 0; p < pixels; ++p)
          std::memcpy(slot.sums + p * kTile, begin(tile, slot), kTile * sizeof(float));
        kernel_.multiply[c_.is_whole(tile)](slot.patch, c_.real.data() + tile * c_.rows * kTile, c_.rows, slot.sums);
        for (std::size_t p = 0; p < pixels; ++p)
          finish(tile, t, y * s_.out_width + x + p, slot.sums + p * kTile);
      }
    }
  }
}

void Run::fill_patches(const Slot& slot, std::size_t t, std::size_t group, std::size_t pixels) const {
  const std::size_t offset = group * c_.in_group, size = c_.in_group;
  for (std::size_t p = 0; p < kPixels; ++p) {
    const std::size_t* sources = slot.sources + std::min(p, pixels - 1) * c_.taps;
    if (c_.taps == 1 && sources[0] != kOutside) {
      slot.patch[p] = values_ + position(t, sources[0]) * s_.in_channels + offset;
      continue;
    }
    float* to = slot.copies + p * c_.rows;
    slot.patch[p] = to;
    for (std::size_t tap = 0; tap < c_.taps; ++tap, to += size)
      if (sources[tap] == kOutside)
        std::memset(to, 0, size * sizeof(float));
      else
        std::memcpy(to, values_ + position(t, sources[tap]) * s_.in_channels + offset, size * sizeof(float));
  }
}

// The input pixel under each tap of the output at (y, x).
void Run::find_sources(const Slot& slot, std::size_t y, std::size_t x, std::size_t place) const {
  std::size_t* sources = slot.sources + place * c_.taps;
  for (std::size_t tap = 0; tap < c_.taps; ++tap) {
    const std::size_t in_y = y * s_.stride[0] + std::size_t(c_.offsets[tap].y);  // below 0 it is huge
    const std::size_t in_x = x * s_.stride[1] + std::size_t(c_.offsets[tap].x);
    sources[tap] = in_y < s_.in_height && in_x < s_.in_width ? in_y * s_.in_width + in_x : kOutside;
  }
}

// ---- Depthwise convolutions ----

void Run::multiply_depthwise(const Slot& slot, std::size_t y, std::size_t tile) {
  const float* weights = c_.real.data() + tile * c_.rows * kTile;
  for (std::size_t x = 0; x < s_.out_width; ++x) {
    find_sources(slot, y, x, 0);
    for (std::size_t t = 0; t < steps_; ++t) {
      find_values(slot, t, tile);
      const std::size_t pixel = y * s_.out_width + x;
      float* const to = sums(tile, t, pixel, slot);
      kernel_.add_products(weights, slot.values, c_.taps, begin(tile, slot), to);
      finish(tile, t, pixel, to);
    }
  }
}

// The values of a tile under each tap. Where the tile is not full they are copied, as what lies behind the last
// channel may be the end of memory.
void Run::find_values(const Slot& slot, std::size_t t, std::size_t tile) const {
  const std::size_t first = c_.first_output(tile), count = c_.outputs(tile);
  for (std::size_t tap = 0; tap < c_.taps; ++tap) {
    slot.values[tap] = slot.zeros;
    if (slot.sources[tap] == kOutside) continue;
    const float* from = values_ + position(t, slot.sources[tap]) * s_.in_channels + first;
    float* const copy = slot.copies + tap * kTile;
    slot.values[tap] = count == kTile ? from : static_cast<float*>(std::memcpy(copy, from, count * sizeof(float)));
  }
}

void Run::mask_depthwise(const Slot& slot, std::size_t y, std::size_t tile) {
  const float* weights = c_.real.data() + tile * c_.rows * kTile;
  std::size_t count = 0;
  for (std::size_t x = 0; x < s_.out_width; ++x) {
    find_sources(slot, y, x, 0);
    for (std::size_t tap = 0; tap < c_.taps; ++tap)
      slot.offsets[tap] =
          slot.sources[tap] == kOutside ? -1 : std::ptrdiff_t(slot.sources[tap] * words(s_.in_channels));
    for (std::size_t t = 0; t < steps_; ++t) {
      const std::size_t pixel = y * s_.out_width + x;
      float* const to = sums(tile, t, pixel, slot);
      count += kernel_.add_masked(weights, bits(position(t, 0)) + tile, slot.offsets, c_.taps, begin(tile, slot), to);
      finish(tile, t, pixel, to);
    }
  }
  operations_ += count;
}

}  // namespace

std::uint64_t run_steps(const Conv::Layout& layout, const void* input, std::size_t steps,
                        const ConvOutput& output, void* scratch, std::size_t threads) {
  return Run(layout, input, steps, output, scratch, std::clamp<std::size_t>(threads, 1, 64))();
}

std::size_t run_scratch_bytes(const Conv::Layout& layout, std::size_t threads) {
  threads = std::clamp<std::size_t>(threads, 1, 64);
  const ConvOutput output;
  return Run(layout, nullptr, 1, output, nullptr, threads).carve(Carver{0}) + 64;
}

}  // namespace nmx
