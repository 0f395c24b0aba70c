// A block of neurons over all steps, forward and backward. These are the loops that are compiled for several
// instruction sets; which of the variants runs is decided once for each block.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "buffer.h"
#include "lif.h"

namespace neuromix {

// Blocks are multiples of this many neurons, so that rows of them begin with a cache line.
constexpr std::size_t kLanes = 64;
// The most neurons of a block, and the bytes of what it keeps of all steps. With the rows that come and go
// meanwhile it then stays in the first-level cache; several times as much was measured to be up to twice as slow.
constexpr std::size_t kBlock = 512;
constexpr std::size_t kKeptBytes = 4096;
// Below this much work for each thread, waking one costs more than it saves.
constexpr std::size_t kElementsPerThread = 1 << 16;

inline std::size_t rounded_up(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// How many neurons a block has, of each of which `bytes` are kept.
inline std::size_t block_size(std::size_t bytes) {
  return std::clamp(kKeptBytes / std::max<std::size_t>(bytes, 1) / kLanes * kLanes, kLanes, kBlock);
}

// How many neurons a task has: some blocks, and a few tasks for each thread.
inline std::size_t task_size(std::size_t neurons, std::size_t block, std::size_t threads) {
  const std::size_t tasks = threads > 1 ? 4 * threads : 1;
  return std::max(block, rounded_up((neurons + tasks - 1) / tasks, block));
}

inline std::size_t useful_threads(std::size_t threads, std::size_t elements) {
  return std::max<std::size_t>(1, std::min(threads, elements / kElementsPerThread));
}

// P is Real where all neurons share the coefficients, or const Real* for one each.
template <typename P>
struct Coefficients {
  P decay, gain, offset, threshold, height, extra_decay, strength;
  P fire;     // fire_at * threshold
  P level;    // the least h that fires
  P inverse;  // 1, or 1/fire where the surrogate takes the ratio
};

// Shared coefficients are the common case: it has loops of its own, of which rarer kinds of neurons have
// none.
template <typename Stored>
bool shares(const LifInput<Stored>& in) {
  const LifOptions& o = in.options;
  return !in.table && o.extra == Extra::none && o.reset != Reset::next && !o.ratio;
}

// The coefficients of one call, those that follow from others included.
template <typename Real>
class Table {
 public:
  template <typename Stored>
  explicit Table(const LifInput<Stored>& in)
      : channels_(in.table ? in.channels : 1),
        inner_(channels_ > 1 ? in.inner : std::max<std::size_t>(in.neurons, 1)),
        serial_(next_serial()),
        values_((kRows + 3) * channels_) {
    const LifOptions& o = in.options;
    for (std::size_t r = 0; r < kRows; ++r)
      for (std::size_t c = 0; c < channels_; ++c)
        at(r, c) = in.table ? in.table[r * channels_ + c] : Real(o.row[r]);
    for (std::size_t c = 0; c < channels_; ++c) {
      // In the order of the reference: a Python number is multiplied in double, a tensor in its own type.
      const Real fire = in.table ? Real(o.fire_at) * at(kThreshold, c) : Real(o.fire_at * o.row[kThreshold]);
      at(kRows, c) = fire;
      at(kRows + 1, c) = o.strict ? std::nextafter(fire, std::numeric_limits<Real>::infinity()) : fire;
      at(kRows + 2, c) = o.ratio ? 1 / fire : Real(1);
    }
  }

  // Those of the first channel.
  Coefficients<Real> shared() const {
    const auto c = [this](std::size_t row) { return values_[row * channels_]; };
    return {c(kDecay),      c(kGain),     c(kOffset), c(kThreshold), c(kHeight),
            c(kExtraDecay), c(kStrength), c(kRows),   c(kRows + 1),  c(kRows + 2)};
  }

  // Calls function(n, size, channel, step) for the neurons of a block, which begins at neuron `first`, in
  // runs of one channel (step 0) or of successive ones (step 1).
  template <typename Function>
  void for_each_run(std::size_t first, std::size_t count, const Function& function) const {
    std::size_t channel = first / inner_ % channels_, offset = first % inner_;
    for (std::size_t n = 0; n < count;) {
      const std::size_t run = inner_ == 1 ? channels_ - channel : inner_ - offset;
      const std::size_t size = std::min(run, count - n);
      function(n, size, channel, inner_ == 1 ? 1 : 0);
      n += size;
      offset = 0;
      channel = inner_ == 1 ? 0 : (channel + 1) % channels_;
    }
  }

  const Real* row(std::size_t r) const { return values_.data() + r * channels_; }
  std::size_t channels() const { return channels_; }
  std::size_t period() const { return channels_ > 1 ? channels_ * inner_ : 1; }
  std::size_t serial() const { return serial_; }

 private:
  Real& at(std::size_t row, std::size_t channel) { return values_[row * channels_ + channel]; }

  // No two tables have the same.
  static std::size_t next_serial() {
    static std::atomic<std::size_t> serial{0};
    return ++serial;
  }

  std::size_t channels_, inner_, serial_;
  std::vector<Real> values_;
};

// Coefficients for each neuron of a block, in memory of its own.
template <typename Real>
class EachNeuron {
 public:
  Coefficients<const Real*> fill(const Table<Real>& table, std::size_t first, std::size_t count) {
    const std::size_t phase = first % table.period();
    if (table.serial() != serial_ || phase != phase_ || count > block_) {  // else as for the block before
      serial_ = table.serial();
      phase_ = phase;
      block_ = rounded_up(count, kLanes);
      values_ = buffer_.of_size((kRows + 3) * block_);
      for (std::size_t r = 0; r < kRows + 3; ++r)
        table.for_each_run(first, count, [&](std::size_t n, std::size_t size, std::size_t channel, int step) {
          const Real* from = table.row(r) + channel;
          if (step)
            std::copy(from, from + size, row(r) + n);
          else
            std::fill(row(r) + n, row(r) + n + size, *from);
        });
    }
    return {row(kDecay),      row(kGain),     row(kOffset), row(kThreshold), row(kHeight),
            row(kExtraDecay), row(kStrength), row(kRows),   row(kRows + 1),  row(kRows + 2)};
  }

 private:
  Real* row(std::size_t r) { return values_ + r * block_; }

  std::size_t serial_ = 0, phase_ = 0, block_ = 0;
  Real* values_ = nullptr;
  Buffer<Real> buffer_;
};

// `to` becomes the values of a block, or the same everywhere where there are none.
template <typename Real>
void load_block(const Real* values, std::size_t first, std::size_t count, Real otherwise, Real* to) {
  if (values)
    std::copy(values + first, values + first + count, to);
  else
    std::fill(to, to + count, otherwise);
}

// Whatever a kind of neuron does not have is left alone, as blocks are short.
template <typename Stored, typename Real = RealOf<Stored>>
void load_state(const LifInput<Stored>& in, std::size_t first, std::size_t count, Real* v, Real* extra) {
  load_block(in.v_N, first, count, Real(in.options.v_init), v);
  if (in.options.extra != Extra::none) load_block(in.extra_N, first, count, Real(0), extra);
}

// The threshold of an adapting neuron at one step, from its trace of the step before.
template <typename P, typename Real>
NEUROMIX_INLINE Real adapted(const Coefficients<P>& c, Real fire_at, Real trace, std::size_t n) {
  return fire_at * (at(c.threshold, n) + at(c.strength, n) * trace);
}

// What backward needs of each step, [T, N] each with rows `stride` apart: h, and the potential before it if
// there is a table of coefficients, whose gradients need it; the current of a synapse after it, or the trace of
// an adaptation before it.
template <typename Real>
struct Kept {
  Real *h = nullptr, *before = nullptr, *extra = nullptr;
  std::size_t stride = 0;

  NEUROMIX_INLINE Kept at(std::size_t t) const {
    const std::size_t offset = t * stride;
    return {h ? h + offset : nullptr, before ? before + offset : nullptr, extra ? extra + offset : nullptr,
            stride};
  }
};

// What a block of `count` neurons reads on its way through the steps, and its state, which goes with it.
template <typename Stored>
struct Walk {
  std::size_t steps, count;
  Rows<const Stored> x;
  Rows<const Stored> ahead;  // what will be read after it
  RealOf<Stored>*v, *e;
};

// Walks over all steps and writes the output, or if `kept.h` is set what backward needs.
template <typename Stored, typename P>
void walk(const LifOptions& options, const Coefficients<P>& c, const Walk<Stored>& w,
          const Rows<Stored>& output, const RowWriter<Stored>& writer, const Kept<RealOf<Stored>>& kept);

// The gradients that are carried from one step to the one before it: of v, of e, and of h (for reset `next`).
template <typename Real>
struct Carried {
  Real *v, *extra, *h;
};

// What the way back reads and writes beside the carried gradients. The state in `w` is the one before the
// first step.
template <typename Stored>
struct WayBack {
  using Real = RealOf<Stored>;
  Walk<Stored> w;
  Rows<const Stored> grad_output;
  Kept<Real> kept;
  Real *fire, *slope;   // scratch of a step, for coefficients of each neuron
  Rows<Stored> grad_x;  // all rows the same memory where nobody wants it
  Real* sums;           // gradients of the coefficients, [kRows, kept.stride], added to; null if not wanted
};

template <typename Stored, typename P>
void walk_back(const LifOptions& options, const Coefficients<P>& c, const WayBack<Stored>& back,
               const RowWriter<Stored>& writer, const Carried<RealOf<Stored>>& carried);

}  // namespace neuromix
