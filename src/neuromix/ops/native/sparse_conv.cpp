#include "sparse_conv.h"

#include <algorithm>
#include <memory>

#include "common.h"
#include "pool.h"

namespace neuromix {
namespace {

// Output rows that a thread works on at a time: with the weights of one tap they stay in the first cache.
constexpr std::size_t kRows = 64;
// Multiplications below which a thread is not worth waking.
constexpr std::size_t kWorkPerThread = 1 << 16;

// One input that is not zero.
template <typename Real>
struct Event {
  Real value;
  std::uint32_t channel;
};

// The events of each row of x, one row after the other: looked for once, used by every tap.
template <typename Real>
struct Events {
  std::unique_ptr<std::size_t[]> first;  // [rows + 1]
  std::unique_ptr<Event<Real>[]> events;

  Events(const Real* x_NI, std::size_t rows, std::size_t channels)
      : first(new std::size_t[rows + 1]), events(new Event<Real>[rows * channels + 1]) {
    std::size_t count = 0;
    for (std::size_t n = 0; n < rows; ++n) {
      first[n] = count;
      // Written always and counted only where there is something: without a branch to guess.
      for (std::size_t i = 0; i < channels; ++i) {
        const Real value = x_NI[n * channels + i];
        events[count] = {value, std::uint32_t(i)};
        count += value != 0;
      }
    }
    first[rows] = count;
  }
};

// As many numbers as a compiler keeps in registers where they are an array.
template <typename Real>
constexpr std::size_t kLanes = 64 / sizeof(Real);

template <std::size_t kWidth, typename Real>
NEUROMIX_INLINE void copy(const Real* from, Real* to) {
  for (std::size_t o = 0; o < kWidth; ++o) to[o] = from[o];
}
template <std::size_t kWidth, typename Real>
NEUROMIX_INLINE void add(Real value, const Real* weight, Real* sum) {
  for (std::size_t o = 0; o < kWidth; ++o) sum[o] += value * weight[o];
}

// y[0..kWidth) += the sum over events of value * weight[channel][0..kWidth).
template <std::size_t kWidth, typename Real>
NEUROMIX_INLINE void add_events(const Event<Real>* event, const Event<Real>* end, const Real* weight_IO,
                                std::size_t stride, Real* y) {
  Real sum[kWidth];
  copy<kWidth>(y, sum);
  for (; event != end; ++event) add<kWidth>(event->value, weight_IO + event->channel * stride, sum);
  copy<kWidth>(sum, y);
}

// The same of four times kLanes outputs: four sums at once hide how long one of them takes.
template <typename Real>
NEUROMIX_INLINE void add_events_wide(const Event<Real>* event, const Event<Real>* end,
                                     const Real* weight_IO, std::size_t stride, Real* y) {
  constexpr std::size_t n = kLanes<Real>;
  Real a[n], b[n], c[n], d[n];
  copy<n>(y, a), copy<n>(y + n, b), copy<n>(y + 2 * n, c), copy<n>(y + 3 * n, d);
  for (; event != end; ++event) {
    const Real* const weight = weight_IO + event->channel * stride;
    const Real value = event->value;
    add<n>(value, weight, a);
    add<n>(value, weight + n, b);
    add<n>(value, weight + 2 * n, c);
    add<n>(value, weight + 3 * n, d);
  }
  copy<n>(a, y), copy<n>(b, y + n), copy<n>(c, y + 2 * n), copy<n>(d, y + 3 * n);
}

template <typename Real>
NEUROMIX_INLINE void add_row(const Event<Real>* event, const Event<Real>* end, const Real* weight_IO,
                             std::size_t outputs, Real* y) {
  constexpr std::size_t n = kLanes<Real>;
  std::size_t o = 0;
  for (; o + 4 * n <= outputs; o += 4 * n) add_events_wide(event, end, weight_IO + o, outputs, y + o);
  for (; o + n <= outputs; o += n) add_events<n>(event, end, weight_IO + o, outputs, y + o);
  for (; o + n / 4 <= outputs; o += n / 4) add_events<n / 4>(event, end, weight_IO + o, outputs, y + o);
  for (; o < outputs; ++o) add_events<1>(event, end, weight_IO + o, outputs, y + o);
}

// Beyond all rows where the table says -1: one comparison keeps every reading inside x.
NEUROMIX_INLINE std::size_t row_of(std::int32_t entry) { return std::uint32_t(entry); }

template <typename Real>
NEUROMIX_INLINE void convolve(const SparseConv<Real>& job, const Events<Real>& events, std::size_t first,
                              std::size_t last) {
  std::fill(job.y_MO + first * job.out_channels, job.y_MO + last * job.out_channels, Real(0));
  for (std::size_t k = 0; k < job.taps; ++k) {
    const Real* const weight_IO = job.weight_KIO + k * job.in_channels * job.out_channels;
    const std::int32_t* const table_M = job.table_KM + k * job.outputs;
    for (std::size_t m = first; m < last; ++m) {
      const std::size_t row = row_of(table_M[m]);
      if (row < job.rows)
        add_row(&events.events[events.first[row]], &events.events[events.first[row + 1]], weight_IO,
                job.out_channels, job.y_MO + m * job.out_channels);
    }
  }
}

template <typename Real>
NEUROMIX_INLINE void correlate(const SparseConvWeight<Real>& job, const Events<Real>& events,
                               std::size_t k) {
  const std::size_t outputs = job.out_channels;
  Real* const grad_IO = job.grad_KIO + k * job.in_channels * outputs;
  std::fill(grad_IO, grad_IO + job.in_channels * outputs, Real(0));
  for (std::size_t m = 0; m < job.outputs; ++m) {
    const std::size_t row = row_of(job.table_KM[k * job.outputs + m]);
    if (row >= job.rows) continue;
    const Real* const grad_O = job.grad_MO + m * outputs;
    for (std::size_t e = events.first[row]; e < events.first[row + 1]; ++e) {
      Real* const sum_O = grad_IO + events.events[e].channel * outputs;
      const Real value = events.events[e].value;
      NEUROMIX_INDEPENDENT
      for (std::size_t o = 0; o < outputs; ++o) sum_O[o] += value * grad_O[o];
    }
  }
}

#define NEUROMIX_SPARSE_CONV(Real)                                                                          \
  NEUROMIX_CLONES void run_rows(const SparseConv<Real>& job, const Events<Real>& events, std::size_t first, \
                                std::size_t last) {                                                         \
    convolve(job, events, first, last);                                                                     \
  }                                                                                                         \
  NEUROMIX_CLONES void run_tap(const SparseConvWeight<Real>& job, const Events<Real>& events,               \
                               std::size_t k) {                                                             \
    correlate(job, events, k);                                                                              \
  }
NEUROMIX_SPARSE_CONV(float)
NEUROMIX_SPARSE_CONV(double)
#undef NEUROMIX_SPARSE_CONV

template <typename Job>
std::size_t fitting_threads(const Job& job, std::size_t threads) {
  const std::size_t work = job.outputs * job.taps * job.in_channels * job.out_channels;
  return std::max<std::size_t>(1, std::min(threads, work / kWorkPerThread));
}

}  // namespace

template <typename Real>
void run(const SparseConv<Real>& job, std::size_t threads) {
  const Events<Real> events(job.x_NI, job.rows, job.in_channels);
  parallel_blocks(
      job.outputs, kRows, fitting_threads(job, threads),
      [&](std::size_t first, std::size_t last) noexcept { run_rows(job, events, first, last); });
}

template <typename Real>
void run(const SparseConvWeight<Real>& job, std::size_t threads) {
  const Events<Real> events(job.x_NI, job.rows, job.in_channels);
  parallel_blocks(job.taps, 1, fitting_threads(job, threads), [&](std::size_t k, std::size_t) noexcept {
    run_tap(job, events, k);
  });
}

template void run(const SparseConv<float>&, std::size_t);
template void run(const SparseConv<double>&, std::size_t);
template void run(const SparseConvWeight<float>&, std::size_t);
template void run(const SparseConvWeight<double>&, std::size_t);

void run(const NeighbourTable& job, std::size_t threads) {
  threads = std::max<std::size_t>(1, std::min(threads, job.taps * job.count / kWorkPerThread));
  parallel_blocks(job.taps, 1, threads, [&](std::size_t k, std::size_t) noexcept {
    // Both keys and wanted keys rise, so one walk finds all.
    for (std::size_t i = 0, j = 0; i < job.count; ++i) {
      const std::int64_t wanted = job.sorted_N[i] + job.shift_K[k];
      while (j < job.count && job.sorted_N[j] < wanted) ++j;
      const bool found = j < job.count && job.sorted_N[j] == wanted;
      job.table_KN[k * job.count + job.order_N[i]] = found ? std::int32_t(job.order_N[j]) : -1;
    }
  });
}

}  // namespace neuromix
