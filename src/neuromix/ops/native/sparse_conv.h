// Convolution over the sites of a sparse grid: gather, multiply, scatter, where a table says which sites meet.
#pragma once

#include <cstddef>
#include <cstdint>

namespace neuromix {

// y[m] = sum over taps k with table[k, m] >= 0 of x[table[k, m]] @ weight[k]. All arrays are dense. Where x is 0
// nothing is added, so that a layer of spikes costs what its spikes cost; with real numbers it costs 2 K M I O
// operations for a full table. Memory beside the arrays: 8 bytes (float) or 16 (double) for each x that is not 0.
template <typename Real>
struct SparseConv {
  std::size_t taps, outputs, rows, in_channels, out_channels;
  const Real* x_NI;
  const Real* weight_KIO;
  const std::int32_t* table_KM;
  Real* y_MO;
};

template <typename Real>
void run(const SparseConv<Real>& job, std::size_t threads);

// The gradient of the weight: for each tap the sum over its pairs of x[table[k, m]]^T grad[m].
template <typename Real>
struct SparseConvWeight {
  std::size_t taps, outputs, rows, in_channels, out_channels;
  const Real* x_NI;
  const Real* grad_MO;
  const std::int32_t* table_KM;
  Real* grad_KIO;
};

template <typename Real>
void run(const SparseConvWeight<Real>& job, std::size_t threads);

// table[k, order[i]] = order[j] where sorted[j] = sorted[i] + shift[k], else -1. `sorted` rises.
struct NeighbourTable {
  std::size_t taps, count;
  const std::int64_t* sorted_N;
  const std::int64_t* order_N;
  const std::int64_t* shift_K;
  std::int32_t* table_KN;
};

void run(const NeighbourTable& job, std::size_t threads);

}  // namespace neuromix
