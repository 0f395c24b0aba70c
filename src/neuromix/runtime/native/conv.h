// Convolution of spikes, of small integers and of real numbers, for a run of time steps.
//
// Values are held as [T][H*W][C], channels last: real as float, integers as one byte each, and spikes as bits,
// 64 channels a word, the words of a position side by side (the last one filled up with zeros).
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <tuple>

namespace nmx {

enum class Type { real, binary, integer };

struct ConvShape {
  std::size_t in_channels, in_height, in_width;
  std::size_t out_channels, out_height, out_width;
  std::size_t kernel[2], stride[2], padding[2], dilation[2];  // along height, along width
  std::size_t groups;

  bool operator==(const ConvShape& o) const {
    const auto numbers = [](const ConvShape& s) {
      return std::tie(s.in_channels, s.in_height, s.in_width, s.out_channels, s.out_height, s.out_width, s.kernel[0],
                      s.kernel[1], s.stride[0], s.stride[1], s.padding[0], s.padding[1], s.dilation[0], s.dilation[1],
                      s.groups);
    };
    return numbers(*this) == numbers(o);
  }
  bool is_depthwise() const { return groups > 1 && groups == in_channels && groups == out_channels; }
  bool is_pointwise() const {  // each output has one input, that at the same place
    for (const int axis : {0, 1})
      if (kernel[axis] != 1 || stride[axis] != 1 || padding[axis] != 0) return false;
    return true;
  }
};

// As in the file: weight [O, I/groups, kh, kw], either float or int8 with a scale for each output.
struct ConvWeights {
  const float* real = nullptr;
  const std::int8_t* small = nullptr;
  const float* scale = nullptr;
  const float* bias = nullptr;  // null: 0
};

enum class Reset { hard, soft, none };

// h = decay * v + gain * x + offset; s = h >= level; see docs/nmx.md. Arrays have a value for each channel, filled up
// to whole words of spikes.
struct Neuron {
  const float *decay, *gain, *offset, *threshold;
  const float* level;  // the least h that fires
  Reset reset;
  float v_reset, v_init;
};

// What becomes of the sums: they are added to `base`, if there is one; then they are written to `real`, or they are the
// input of a neuron, whose state `v` [positions][O] is taken through the steps and whose spikes are written to `bits`,
// or both. Up to kStepsAtOnce steps can do without `v`: neurons begin with v_init, and where they end is not kept.
struct ConvOutput {
  const float* base = nullptr;  // as `real`, which it may be, or where it is static [positions][O]
  bool base_is_static = false;
  float* real = nullptr;  // [T][positions][O]
  const Neuron* neuron = nullptr;
  float* v = nullptr;
  std::uint64_t* bits = nullptr;  // [T][positions][words(O)]
};

// Steps of which the sums of an output are computed together.
constexpr std::size_t kStepsAtOnce = 8;

inline std::size_t words(std::size_t channels) { return (channels + 63) / 64; }

inline std::size_t row_bytes(Type type, std::size_t channels) {
  if (type == Type::binary) return words(channels) * sizeof(std::uint64_t);
  return type == Type::real ? channels * sizeof(float) : channels;
}

// A convolution with its weights laid out for the engine. Immutable: any number of threads may run it at once.
class Conv {
 public:
  Conv(const ConvShape& shape, Type input, const ConvWeights& weights);
  ~Conv();
  Conv(const Conv&) = delete;
  Conv& operator=(const Conv&) = delete;

  // Bytes of `scratch` that a run needs, of any number of steps.
  std::size_t scratch_bytes(std::size_t threads, const Conv* before = nullptr) const;

  // Runs `steps` steps on up to `threads` threads. Returns the synaptic operations done: a weight added, for
  // spikes (for integers: each non-zero one times a weight); a weight multiplied and added, for real inputs.
  //
  // `again`: the run before, with this memory, was of a convolution of the same shape and kind of weights on the same
  // input, so that what it found there need not be looked for.
  //
  // A pointwise convolution can have a depthwise one `before` it, which makes its inputs, from spikes, as they are
  // needed: they are never in memory all at once. What that one does is told by `seen_spikes`.
  std::uint64_t run(const void* input, std::size_t steps, const ConvOutput& output, void* scratch,
                    std::size_t threads, const Conv* before = nullptr, bool again = false) const;

  // The synaptic operations of a depthwise convolution: spikes times the outputs that see them.
  std::uint64_t seen_spikes(const void* input, std::size_t steps) const;

  struct Layout;

 private:
  std::unique_ptr<const Layout> layout_;
};

// The synaptic operations of one step where nothing is skipped: taps within the map only.
std::uint64_t dense_operations(const ConvShape& shape);

}  // namespace nmx
