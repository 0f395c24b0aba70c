#include "lif_step.h"
#include "pool.h"
#include "traffic.h"

namespace neuromix {
namespace {

template <typename Stored, typename P>
void walk(const LifForward<Stored>& job, const Coefficients<P>& c, std::size_t first, std::size_t count,
          RealOf<Stored>* v, RealOf<Stored>* e, const RowWriter<Stored>& writer) {
  for (std::size_t t = 0; t < job.steps; ++t) {
    prefetch(t + 1 < job.steps ? job.x_row(t + 1, first) : job.x_row(0, first + count),
             count * sizeof(Stored));
    Stored* output = job.output_TN + t * job.neurons + first;
    step(job.options, count, c, job.x_row(t, first), v, e, writer.place(output), {});
    writer.write(output, count);
  }
}

template <typename Stored>
void run_block(const LifForward<Stored>& job, const Table<RealOf<Stored>>& table, std::size_t first,
               std::size_t count) {
  using Real = RealOf<Stored>;
  thread_local Buffer<Real> state;
  thread_local EachNeuron<Real> each;
  thread_local RowWriter<Stored> writer;
  const std::size_t block = rounded_up(count, kLanes);
  Real *v = state.of_size(2 * block), *e = v + block;
  load_state(job, first, count, v, e);
  writer.begin(block, job.is_large());
  if (shares(job))
    walk(job, table.shared(), first, count, v, e, writer);
  else
    walk(job, each.fill(table, first, count), first, count, v, e, writer);
  writer.end();
  if (job.v_last_N) std::copy(v, v + count, job.v_last_N + first);
  if (job.extra_last_N) std::copy(e, e + count, job.extra_last_N + first);
}

}  // namespace

template <typename Stored>
void run(const LifForward<Stored>& job, std::size_t threads) {
  const Table<RealOf<Stored>> table(job);
  threads = useful_threads(threads, job.steps * job.neurons);
  parallel_blocks(
      job.neurons, block_size(job.neurons, kBlock, threads), threads,
      [&](std::size_t first, std::size_t last) noexcept { run_block(job, table, first, last - first); });
}

template void run(const LifForward<float>&, std::size_t);
template void run(const LifForward<double>&, std::size_t);
template void run(const LifForward<bfloat16>&, std::size_t);

}  // namespace neuromix
