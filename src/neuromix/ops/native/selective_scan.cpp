#include "pool.h"
#include "selective_scan_kernels.h"

namespace neuromix {
namespace {

template <typename Job>
using Kernel = void (*)(const Job& job, std::size_t item);

template <typename Job>
Kernel<Job> best_kernel() {
#ifdef NEUROMIX_X86_SETS
  if (instruction_set() == InstructionSet::avx512) return avx512::scan_slice;
  if (instruction_set() == InstructionSet::avx2) return avx2::scan_slice;
#endif
  return portable::scan_slice;
}

template <typename Job>
void run_slices(const Job& job, std::size_t threads) {
  const Kernel<Job> kernel = best_kernel<Job>();
  const std::size_t slices = job.batch * job.groups * job.group_slices();
  parallel_blocks(slices, 1, threads, [&](std::size_t item, std::size_t) noexcept { kernel(job, item); });
}

}  // namespace

template <typename Real>
void run(const SelectiveScan<Real>& job, std::size_t threads) {
  run_slices(job, threads);
}
template <typename Real>
void run(const SelectiveScanBack<Real>& job, std::size_t threads) {
  run_slices(job, threads);
}

template void run(const SelectiveScan<float>&, std::size_t);
template void run(const SelectiveScan<double>&, std::size_t);
template void run(const SelectiveScanBack<float>&, std::size_t);
template void run(const SelectiveScanBack<double>&, std::size_t);

}  // namespace neuromix
