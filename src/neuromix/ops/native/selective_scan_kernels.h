// The kernels of the selective scan for one slice of channels, in each instruction set.
#pragma once

#include "instruction_set.h"
#include "selective_scan.h"

namespace neuromix {

#define NEUROMIX_SCAN_KERNELS(set)                                          \
  namespace set {                                                           \
  void scan_slice(const SelectiveScan<float>& job, std::size_t item);       \
  void scan_slice(const SelectiveScan<double>& job, std::size_t item);      \
  void scan_slice(const SelectiveScanBack<float>& job, std::size_t item);   \
  void scan_slice(const SelectiveScanBack<double>& job, std::size_t item);  \
  }
NEUROMIX_SCAN_KERNELS(portable)
NEUROMIX_SCAN_KERNELS(avx2)
NEUROMIX_SCAN_KERNELS(avx512)
#undef NEUROMIX_SCAN_KERNELS

}  // namespace neuromix
