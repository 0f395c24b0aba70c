#include <vector>

#include "lif_step.h"
#include "pool.h"
#include "traffic.h"

namespace neuromix {
namespace {

// What a block keeps of all steps should fit in the second-level cache.
constexpr std::size_t kKeptBytes = 256 * 1024;

// The memory of one thread for one block of N neurons.
template <typename Stored, typename Real = RealOf<Stored>>
class Scratch {
 public:
  EachNeuron<Real> each;
  std::size_t block = 0;  // N, rounded up
  Real *v, *extra;        // state while the steps are done again
  Real *slope, *fire;     // of one step
  Carried<Real> carried;
  Real* sums;                // gradients of the coefficients, [kRows, N]
  RowWriter<Stored> writer;  // of the gradient of x
  Stored* unwanted;          // where a gradient of x goes that nobody wants

  void resize(std::size_t count, std::size_t steps, bool learning, bool has_extra) {
    block = rounded_up(count, kLanes);
    const std::size_t of_steps = steps * block;
    Real* next = memory_.of_size((7 + kRows) * block + (1 + learning + has_extra) * of_steps);
    const auto take = [&next](std::size_t size) { return next += size, next - size; };
    for (Real** array : {&v, &extra, &slope, &fire, &carried.v, &carried.extra, &carried.h})
      *array = take(block);
    sums = take(kRows * block);
    kept_ = {take(of_steps), learning ? take(of_steps) : nullptr, has_extra ? take(of_steps) : nullptr};
    unwanted = unwanted_.of_size(block);
  }

  Kept<Real> kept(std::size_t t) const {
    const std::size_t offset = t * block;
    return {kept_.h + offset, kept_.before ? kept_.before + offset : nullptr,
            kept_.extra ? kept_.extra + offset : nullptr};
  }

 private:
  Kept<Real> kept_;  // [T, N]
  Buffer<Real> memory_;
  Buffer<Stored> unwanted_;
};

// Shared coefficients need no slopes beforehand: they are computed within the step.
template <typename Stored, typename Real>
void fill_step_slopes(const LifOptions&, std::size_t, const Coefficients<Real>&, const Kept<Real>&,
                      const Scratch<Stored>&) {}

template <typename Stored, typename Real>
void fill_step_slopes(const LifOptions& o, std::size_t count, const Coefficients<const Real*>& c,
                      const Kept<Real>& kept, const Scratch<Stored>& s) {
  if (o.reset == Reset::none) return;
  if (o.extra == Extra::adaptation)
    for (std::size_t n = 0; n < count; ++n) s.fire[n] = adapted(c, Real(o.fire_at), kept.extra[n], n);
  fill_slopes(o.slope, count, kept.h, o.extra == Extra::adaptation ? s.fire : c.fire, c.inverse, s.slope);
}

// The i-th row that a block reads: those of x, then those of the gradient backwards, then those of the next
// block.
template <typename Stored>
const Stored* row_read(const LifBackward<Stored>& job, std::size_t i, std::size_t first, std::size_t count) {
  if (i < job.steps) return job.x_row(i, first);
  if (i < 2 * job.steps) return job.grad_row(2 * job.steps - 1 - i, first);
  return job.x_row(i % job.steps, first + count);
}

// The steps once more, to keep what the way back needs of them.
template <typename Stored, typename P>
void walk_again(const LifBackward<Stored>& job, const Coefficients<P>& c, std::size_t first,
                std::size_t count, const Scratch<Stored>& s) {
  load_state(job, first, count, s.v, s.extra);
  for (std::size_t t = 0; t < job.steps; ++t) {
    prefetch(row_read(job, t + 1, first, count), count * sizeof(Stored));
    step<Stored>(job.options, count, c, job.x_row(t, first), s.v, s.extra, nullptr, s.kept(t));
  }
  load_state(job, first, count, s.v, s.extra);
}

template <typename Stored, typename P>
void walk_back(const LifBackward<Stored>& job, const Coefficients<P>& c, std::size_t first, std::size_t count,
               const Scratch<Stored>& s) {
  for (std::size_t t = job.steps; t-- > 0;) {
    prefetch(row_read(job, 2 * job.steps - t, first, count), count * sizeof(Stored));
    fill_step_slopes(job.options, count, c, s.kept(t), s);
    Stored* grad_x = job.grad_x_TN ? job.grad_x_TN + t * job.neurons + first : s.unwanted;
    step_back<Stored>(
        job.options, count, c,
        {job.x_row(t, first), job.grad_row(t, first), s.kept(t), t > 0 ? s.kept(t - 1).extra : s.extra,
         s.fire, s.slope, s.writer.place(grad_x), job.grad_table ? s.sums : nullptr, s.block},
        s.carried);
    s.writer.write(grad_x, count);
  }
}

// With reset `next` the first step also subtracts what the potential before it had fired.
template <typename Stored, typename Real = RealOf<Stored>>
void walk_before(const LifOptions& o, const Coefficients<const Real*>& c, std::size_t count,
                 const Scratch<Stored>& s) {
  if (o.reset != Reset::next || o.detach_reset) return;
  fill_slopes(o.slope, count, s.v, c.fire, c.inverse, s.slope);
  for (std::size_t n = 0; n < count; ++n) {
    const Real gu = -s.carried.h[n] * c.threshold[n] * s.slope[n];
    s.carried.v[n] += gu;
    s.sums[kThreshold * s.block + n] -= Real(o.fire_at) * gu * (o.ratio ? s.v[n] * c.inverse[n] : Real(1));
  }
}

template <typename Real>
double sum(const Real* values, std::size_t count) {
  double parts[8] = {};  // several, as each addition waits for the one before it
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (std::size_t k = 0; k < 8; ++k) parts[k] += double(values[i + k]);
  for (; i < count; ++i) parts[0] += double(values[i]);
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

template <typename Stored>
void run_block(const LifBackward<Stored>& job, const Table<RealOf<Stored>>& table, std::size_t first,
               std::size_t count, double* sums) {
  using Real = RealOf<Stored>;
  thread_local Scratch<Stored> s;
  s.resize(count, job.steps, job.grad_table != nullptr, job.options.extra != Extra::none);
  s.writer.begin(s.block, job.grad_x_TN && job.is_large());
  if (job.grad_table || job.options.reset == Reset::next)
    std::fill(s.sums, s.sums + kRows * s.block, Real(0));
  for (std::size_t n = 0; n < count; ++n) {
    s.carried.v[n] = job.grad_v_last_N ? job.grad_v_last_N[first + n] : Real(0);
    s.carried.extra[n] = job.grad_extra_last_N ? job.grad_extra_last_N[first + n] : Real(0);
    s.carried.h[n] = 0;
  }
  if (shares(job)) {
    const auto c = table.shared();
    walk_again(job, c, first, count, s);
    walk_back(job, c, first, count, s);
  } else {
    const auto c = s.each.fill(table, first, count);
    walk_again(job, c, first, count, s);
    walk_back(job, c, first, count, s);
    walk_before(job.options, c, count, s);
  }
  s.writer.end();
  if (job.grad_v_N) std::copy(s.carried.v, s.carried.v + count, job.grad_v_N + first);
  if (job.grad_extra_N) std::copy(s.carried.extra, s.carried.extra + count, job.grad_extra_N + first);
  if (!job.grad_table) return;
  for (std::size_t r = 0; r < kRows; ++r)
    table.for_each_run(first, count, [&](std::size_t n, std::size_t size, std::size_t channel, int step) {
      const Real* from = s.sums + r * s.block + n;
      double* to = sums + r * job.channels + channel;
      if (step)
        for (std::size_t i = 0; i < size; ++i) to[i] += double(from[i]);
      else
        *to += sum(from, size);
    });
}

template <typename Real>
std::size_t largest_block(std::size_t steps, bool learning, bool has_extra) {
  const std::size_t per_neuron = steps * sizeof(Real) * (1 + learning + has_extra);
  return std::max(kLanes, std::min(kBlock, kKeptBytes / per_neuron / kLanes * kLanes));
}

// Gradients of the coefficients are summed in double, apart for each task, so that they do not depend on
// which thread took which block.
template <typename Stored>
void run_learning(const LifBackward<Stored>& job, const Table<RealOf<Stored>>& table, std::size_t block,
                  std::size_t threads) {
  const std::size_t blocks = (job.neurons + block - 1) / block;
  const std::size_t tasks = std::max<std::size_t>(1, std::min(blocks, 4 * threads));
  const std::size_t values = kRows * job.channels,
                    task = std::max(block, (blocks + tasks - 1) / tasks * block);
  std::vector<std::vector<double>> sums((job.neurons + task - 1) / task, std::vector<double>(values));
  parallel_blocks(job.neurons, task, threads, [&](std::size_t first, std::size_t last) noexcept {
    double* own = sums[first / task].data();
    for (; first < last; first += block) run_block(job, table, first, std::min(block, last - first), own);
  });
  for (std::size_t i = 0; i < values; ++i) {
    double sum = 0;
    for (const auto& of_task : sums) sum += of_task[i];
    job.grad_table[i] = RealOf<Stored>(sum);
  }
}

}  // namespace

template <typename Stored>
void run(const LifBackward<Stored>& job, std::size_t threads) {
  const Table<RealOf<Stored>> table(job);
  threads = useful_threads(threads, job.steps * job.neurons);
  const bool has_extra = job.options.extra != Extra::none;
  const std::size_t most = largest_block<RealOf<Stored>>(job.steps, job.grad_table != nullptr, has_extra);
  const std::size_t block = block_size(job.neurons, most, threads);
  if (job.grad_table) return run_learning(job, table, block, threads);
  parallel_blocks(job.neurons, block, threads, [&](std::size_t first, std::size_t last) noexcept {
    run_block(job, table, first, last - first, nullptr);
  });
}

template void run(const LifBackward<float>&, std::size_t);
template void run(const LifBackward<double>&, std::size_t);
template void run(const LifBackward<bfloat16>&, std::size_t);

}  // namespace neuromix
