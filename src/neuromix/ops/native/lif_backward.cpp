#include <vector>

#include "lif_step.h"
#include "pool.h"
#include "traffic.h"

namespace neuromix {
namespace {

// The memory of one thread for blocks of up to N neurons.
template <typename Stored, typename Real = RealOf<Stored>>
class Scratch {
 public:
  EachNeuron<Real> each;
  Real *v, *extra;    // state while the steps are done again
  Real *fire, *slope;  // of one step
  Carried<Real> carried;
  Real* sums;  // gradients of the coefficients, [kRows, N]
  Kept<Real> kept;
  RowWriter<Stored> writer;  // of the gradient of x
  Stored* unwanted;          // where a gradient of x goes that nobody wants

  void resize(std::size_t block, std::size_t steps, bool learning, bool has_extra) {
    const std::size_t of_steps = steps * block;
    Real* next = memory_.of_size((7 + kRows) * block + (1 + learning + has_extra) * of_steps);
    const auto take = [&next](std::size_t size) { return next += size, next - size; };
    for (Real** array : {&v, &extra, &slope, &fire, &carried.v, &carried.extra, &carried.h})
      *array = take(block);
    sums = take(kRows * block);
    kept = {take(of_steps), learning ? take(of_steps) : nullptr, has_extra ? take(of_steps) : nullptr, block};
    unwanted = unwanted_.of_size(block);
  }

 private:
  Buffer<Real> memory_;
  Buffer<Stored> unwanted_;
};

// The steps once more to keep what the way back needs of them, then the way back.
template <typename Stored, typename P>
void there_and_back(const LifBackward<Stored>& job, const Coefficients<P>& c, std::size_t first,
                    std::size_t count, const Scratch<Stored>& s) {
  const Rows<const Stored> x = job.x_rows(first), grad = job.grad_output_rows(first);
  load_state(job, first, count, s.v, s.extra);
  walk<Stored>(job.options, c, {job.steps, count, x, grad.backwards(job.steps), s.v, s.extra}, {}, {}, s.kept);
  load_state(job, first, count, s.v, s.extra);
  const Rows<Stored> grad_x = job.grad_x_TN ? job.grad_x_rows(first) : Rows<Stored>{s.unwanted, 0};
  const Walk<Stored> w{job.steps, count, x, x.from(s.kept.stride), s.v, s.extra};
  walk_back<Stored>(job.options, c,
                    {w, grad, s.kept, s.fire, s.slope, grad_x, job.grad_table ? s.sums : nullptr}, s.writer,
                    s.carried);
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
    s.sums[kThreshold * s.kept.stride + n] -= Real(o.fire_at) * gu * (o.ratio ? s.v[n] * c.inverse[n] : Real(1));
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
void begin_block(const LifBackward<Stored>& job, std::size_t first, std::size_t count,
                 const Scratch<Stored>& s) {
  using Real = RealOf<Stored>;
  if (job.grad_table || job.options.reset == Reset::next)
    std::fill(s.sums, s.sums + kRows * s.kept.stride, Real(0));
  load_block(job.grad_v_last_N, first, count, Real(0), s.carried.v);
  if (job.options.extra != Extra::none)
    load_block(job.grad_extra_last_N, first, count, Real(0), s.carried.extra);
  if (job.options.reset == Reset::next) std::fill(s.carried.h, s.carried.h + count, Real(0));
}

// Adds a block's gradients of the coefficients to `sums`, [kRows, channels].
template <typename Stored>
void add_sums(const LifBackward<Stored>& job, const Table<RealOf<Stored>>& table, std::size_t first,
              std::size_t count, const Scratch<Stored>& s, double* sums) {
  for (std::size_t r = 0; r < kRows; ++r)
    table.for_each_run(first, count, [&](std::size_t n, std::size_t size, std::size_t channel, int step) {
      const RealOf<Stored>* from = s.sums + r * s.kept.stride + n;
      double* to = sums + r * job.channels + channel;
      if (step)
        for (std::size_t i = 0; i < size; ++i) to[i] += double(from[i]);
      else
        *to += sum(from, size);
    });
}

// The neurons from `first` to `last`, block by block; `sums` is null where there is no table.
template <typename Stored>
void run_task(const LifBackward<Stored>& job, const Table<RealOf<Stored>>& table, std::size_t block,
              std::size_t first, std::size_t last, double* sums) {
  thread_local Scratch<Stored> s;
  s.resize(block, job.steps, job.grad_table != nullptr, job.options.extra != Extra::none);
  s.writer.begin(block, job.grad_x_TN && job.is_large());
  for (; first < last; first += block) {
    const std::size_t count = std::min(block, last - first);
    begin_block(job, first, count, s);
    if (shares(job)) {
      there_and_back(job, table.shared(), first, count, s);
    } else {
      const auto c = s.each.fill(table, first, count);
      there_and_back(job, c, first, count, s);
      walk_before(job.options, c, count, s);
    }
    if (job.grad_v_N) std::copy(s.carried.v, s.carried.v + count, job.grad_v_N + first);
    if (job.grad_extra_N) std::copy(s.carried.extra, s.carried.extra + count, job.grad_extra_N + first);
    if (job.grad_table) add_sums(job, table, first, count, s, sums);
  }
  s.writer.end();
}

}  // namespace

// Gradients of the coefficients are summed in double, apart for each task, so that they do not depend on
// which thread took which task.
template <typename Stored>
void run(const LifBackward<Stored>& job, std::size_t threads) {
  using Real = RealOf<Stored>;
  const Table<Real> table(job);
  threads = useful_threads(threads, job.steps * job.neurons);
  const bool learning = job.grad_table != nullptr, has_extra = job.options.extra != Extra::none;
  const std::size_t block = block_size(job.steps * sizeof(Real) * (1 + learning + has_extra));
  const std::size_t task = task_size(job.neurons, block, threads);
  const std::size_t tasks = (job.neurons + task - 1) / task, values = learning ? kRows * job.channels : 0;
  std::vector<double> sums(tasks * values);
  parallel_blocks(job.neurons, task, threads, [&](std::size_t first, std::size_t last) noexcept {
    run_task(job, table, block, first, last, sums.data() + first / task * values);
  });
  for (std::size_t i = 0; i < values; ++i) {
    double sum = 0;
    for (std::size_t k = 0; k < tasks; ++k) sum += sums[k * values + i];
    job.grad_table[i] = Real(sum);
  }
}

template void run(const LifBackward<float>&, std::size_t);
template void run(const LifBackward<double>&, std::size_t);
template void run(const LifBackward<bfloat16>&, std::size_t);

}  // namespace neuromix
