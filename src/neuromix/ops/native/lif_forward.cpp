#include "lif_step.h"
#include "pool.h"
#include "traffic.h"

namespace neuromix {
namespace {

// The neurons from `first` to `last`, block by block.
template <typename Stored>
void run_task(const LifForward<Stored>& job, const Table<RealOf<Stored>>& table, std::size_t block,
              std::size_t first, std::size_t last) {
  using Real = RealOf<Stored>;
  thread_local Buffer<Real> state;
  thread_local EachNeuron<Real> each;
  thread_local RowWriter<Stored> writer;
  Real *v = state.of_size(2 * block), *e = v + block;
  writer.begin(block, job.is_large());
  for (; first < last; first += block) {
    const std::size_t count = std::min(block, last - first);
    load_state(job, first, count, v, e);
    const Rows<const Stored> x = job.x_rows(first);
    const Walk<Stored> w{job.steps, count, x, x.from(block), v, e};
    if (shares(job))
      walk<Stored>(job.options, table.shared(), w, job.output_rows(first), writer, {});
    else
      walk<Stored>(job.options, each.fill(table, first, count), w, job.output_rows(first), writer, {});
    if (job.v_last_N) std::copy(v, v + count, job.v_last_N + first);
    if (job.extra_last_N) std::copy(e, e + count, job.extra_last_N + first);
  }
  writer.end();
}

}  // namespace

template <typename Stored>
void run(const LifForward<Stored>& job, std::size_t threads) {
  const Table<RealOf<Stored>> table(job);
  threads = useful_threads(threads, job.steps * job.neurons);
  const std::size_t block = block_size(job.steps * sizeof(Stored));
  parallel_blocks(
      job.neurons, task_size(job.neurons, block, threads), threads,
      [&](std::size_t first, std::size_t last) noexcept { run_task(job, table, block, first, last); });
}

template void run(const LifForward<float>&, std::size_t);
template void run(const LifForward<double>&, std::size_t);
template void run(const LifForward<bfloat16>&, std::size_t);

}  // namespace neuromix
