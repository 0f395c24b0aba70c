// The ways in which a convolution can be computed. Each takes parts of the output, on any number of threads.
#pragma once

#include <atomic>
#include <cstring>

#include "conv_layout.h"

namespace nmx {

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

// Outputs at some pixels of the map, at all steps, and of them some tiles.
struct Part {
  std::size_t first_pixel, last_pixel, first_tile, last_tile;

  std::size_t places(std::size_t steps) const { return (last_pixel - first_pixel) * steps; }
};

// Outputs of a tile that a part has at most, over its pixels and steps: their sums stay in the second-nearest cache.
constexpr std::size_t kPlaces = 224;
inline std::size_t pixels_at_once(std::size_t steps) { return std::max<std::size_t>(1, kPlaces / steps); }
inline std::size_t most_places(const Conv::Layout& c) { return std::min(kPlaces, c.out_pixels() * kStepsAtOnce); }

// A tap that lies outside the map.
constexpr std::size_t kOutside = ~std::size_t{0};

// What is to be computed.
struct Job {
  const Conv::Layout& c;
  const void* input;
  std::size_t steps;
  const ConvOutput& output;
  std::size_t threads;
  // The pixels that there are in `output.real`: all of them, or some.
  std::size_t first_real = 0, reals = c.out_pixels();
  const Kernels& kernel = kernels();

  std::size_t position(std::size_t t, std::size_t pixel) const { return t * c.in_pixels() + pixel; }
  const std::uint64_t* bits(std::size_t position) const {
    return static_cast<const std::uint64_t*>(input) + position * words(c.s.in_channels);
  }
  const std::uint8_t* integers(std::size_t position) const {
    return static_cast<const std::uint8_t*>(input) + position * c.s.in_channels;
  }

  // The input pixel under each tap of an output.
  void find_sources(std::size_t pixel, std::size_t* sources) const;

  // What the sums of a tile begin with.
  void begin(std::size_t tile, float* sums) const {
    if (c.scaled)
      std::memset(sums, 0, kTile * sizeof(float));
    else
      std::memcpy(sums, c.bias.data() + tile * kTile, kTile * sizeof(float));
  }
  // Makes the sums of a part, [pixel][step][kTile], its output.
  void finish(std::size_t tile, const Part& part, float* sums) const;

 private:
  void fire(std::size_t tile, const Part& part, const float* sums) const;
};

class Way {
 public:
  explicit Way(const Job& job) : job_(job), c_(job.c), s_(job.c.s) {}
  virtual ~Way() = default;

  // Memory that each thread needs for itself.
  virtual std::size_t slot_bytes() const = 0;
  // Computes a part, with such memory. Returns the synaptic operations done, where they depend on the input.
  virtual std::uint64_t run(const Part& part, std::uintptr_t slot) const = 0;

 protected:
  // Computes the tiles of a part one by one: gather(group) before the first of each group, which tells how many rows
  // are added for an output, over all places; add_up(tile). Returns the operations.
  template <typename Gather, typename AddUp>
  std::uint64_t run_tiles(const Part& part, const Gather& gather, const AddUp& add_up) const {
    std::size_t group = s_.groups;
    std::uint64_t added = 0, operations = 0;
    for (std::size_t tile = part.first_tile; tile < part.last_tile; ++tile) {
      if (c_.tiles[tile].group != group) added = gather(group = c_.tiles[tile].group);
      add_up(tile);
      operations += added * c_.tiles[tile].outputs;
    }
    return operations;
  }

  const Job& job_;
  const Conv::Layout& c_;
  const ConvShape& s_;
};

// ---- Inputs of which most are 0 ----

// Spikes. The rows of a tile come in panels, which stay in the nearest cache while they are added to the sums of all
// outputs of a part, wherever there is a spike.
class Spikes : public Way {
 protected:
  explicit Spikes(const Job& job) : Way(job) {}
  void gather(const Part& part, std::size_t group, std::uint64_t* to, std::size_t* sources) const;

 private:
  // Of one output, from the map of one step. kCount: words of a group, where it is known beforehand, else 0.
  template <std::size_t kCount>
  void gather_words(const std::uint64_t* map, std::size_t group, const std::size_t* sources, std::uint64_t* to) const;
  void gather_bits(const std::uint64_t* map, std::size_t group, const std::size_t* sources, std::uint64_t* to) const;
};

// With float weights, in panels of 64 rows.
class Panels final : public Spikes {
 public:
  explicit Panels(const Job& job) : Spikes(job) {}
  std::size_t slot_bytes() const override { return Slot(c_, {0}).end; }
  std::uint64_t run(const Part& part, std::uintptr_t slot) const override;

 private:
  struct Slot {
    std::uint64_t* masks;  // [place][panel]: a bit for each row, whether it is to be added
    float* sums;           // [place][kTile]
    std::size_t* sources;
    std::uintptr_t end;
    Slot(const Conv::Layout& c, Carver carver);
  };
  void add_up(const Part& part, std::size_t tile, const Slot& slot) const;
};

// With integer weights, in panels of kSmallPanel rows.
class SmallPanels final : public Spikes {
 public:
  // `again`: the memory of each part has the lists of its inputs already.
  SmallPanels(const Job& job, bool again) : Spikes(job), again_(again) {}
  std::size_t slot_bytes() const override { return Slot(c_, {0}).end; }
  std::uint64_t run(const Part& part, std::uintptr_t slot) const override;

 private:
  struct Slot {
    std::uint64_t* masks;   // [place][word]
    std::uint8_t* rows;     // to be added, [panel][place][as many as there are]
    std::uint32_t* begins;  // [panel][place], and the end
    std::uint32_t* counts;  // [place], in all panels
    std::uint32_t* held;    // [place], of them in the shorts
    bool* full;             // [panel]: whether no more goes into the shorts
    std::uint16_t* shorts;  // [place][kTile]
    float* sums;            // [place][kTile]
    std::size_t* sources;
    std::uintptr_t end;
    Slot(const Conv::Layout& c, Carver carver);
  };
  std::size_t list(std::size_t places, const Slot& slot) const;
  void add_up(const Part& part, std::size_t tile, const Slot& slot) const;

  bool again_;
};

// Integer inputs. The active ones are listed, and the rows of an output times them added up one after the other.
class Lists final : public Way {
 public:
  Lists(const Job& job, Carver& carver);
  std::size_t slot_bytes() const override { return Slot(c_, {0}).end; }
  std::uint64_t run(const Part& part, std::uintptr_t slot) const override;

  // To be called before a part is run. Returns how many inputs are active.
  std::uint64_t fill();

 private:
  struct Slot {
    std::uint32_t* rows;    // of all places, as many as there can be
    std::uint8_t* factors;
    std::size_t* begins;    // [place + 1]
    float* sums;            // [place][kTile]
    std::uintptr_t end;
    Slot(const Conv::Layout& c, Carver carver);
  };
  void list_row(std::size_t row);
  std::size_t row_size() const { return s_.in_width * s_.in_channels + kListSlack; }
  std::size_t gather(const Part& part, std::size_t group, const Slot& slot) const;
  std::size_t copy(std::size_t t, std::size_t pixel, std::size_t tap, std::size_t group, std::size_t at,
                   const Slot& slot) const;
  void add_up(const Part& part, std::size_t tile, const Slot& slot) const;

  // The active inputs of each row of each step, as x * channels + channel, ascending. A row has `row_size()` places,
  // and begins_ tells for each of its pixels, and for the end, where in the row its inputs begin.
  std::uint32_t *active_, *begins_;
  std::uint8_t* factors_;
};

// ---- Others ----

// Input values as floats, in memory of their own.
const float* expand(const Job& job, Carver& carver);

// Multiplies with all weights. `values` are the inputs, [T][pixels][C], or those from some pixel on.
class Products final : public Way {
 public:
  Products(const Job& job, const float* values) : Products(job, values, 0, job.c.in_pixels()) {}
  Products(const Job& job, const float* values, std::size_t first_pixel, std::size_t pixels)
      : Way(job), values_(values), first_pixel_(first_pixel), pixels_(pixels) {}
  std::size_t slot_bytes() const override { return Slot(c_, {0}).end; }
  std::uint64_t run(const Part& part, std::uintptr_t slot) const override;

 private:
  struct Slot {
    float* sums;            // [kPixels][step][kTile]
    std::size_t* sources;   // [kPixels][taps]
    float* copies;          // [step][kPixels][row]: inputs copied together
    const float** patches;  // [step][kPixels]
    std::uintptr_t end;
    Slot(const Conv::Layout& c, Carver carver);
  };
  void multiply(const Part& part, const Slot& slot) const;
  void fill_patches(std::size_t group, std::size_t pixels, const Slot& slot) const;

  const float* values_;
  std::size_t first_pixel_, pixels_;
};

// A depthwise convolution of real inputs, [T][pixels][C], or of the words of spikes.
template <typename T>
class Depthwise final : public Way {
 public:
  Depthwise(const Job& job, const T* input) : Way(job), input_(input) {}
  std::size_t slot_bytes() const override { return Slot(c_, {0}).end; }
  std::uint64_t run(const Part& part, std::uintptr_t slot) const override;

 private:
  struct Slot {
    float* sums;     // [kPixels][steps][kTile]
    const T** rows;  // of the map, under each row of the kernel
    std::uintptr_t end;
    Slot(const Conv::Layout& c, Carver carver);
  };
  std::size_t pitch() const { return sizeof(T) == sizeof(float) ? s_.in_channels : words(s_.in_channels); }
  void add_up(std::size_t tile, std::size_t pixel, std::size_t some, const Slot& slot) const;
  void find_rows(std::size_t tile, std::size_t t, std::size_t y, const Slot& slot) const;

  const T* input_;
};

// A pointwise convolution after a depthwise one of spikes, for some pixels at a time.
class Separable final : public Way {
 public:
  Separable(const Job& job, const Conv::Layout& before) : Way(job), before_(before) {}
  std::size_t slot_bytes() const override { return Slot(*this, {0}).end; }
  std::uint64_t run(const Part& part, std::uintptr_t slot) const override;

 private:
  struct Slot {
    float* values;  // [step][kPixels][C]
    std::uintptr_t of_depthwise, of_products, end;
    Slot(const Separable& way, Carver carver);
  };

  const Conv::Layout& before_;
};

}  // namespace nmx
