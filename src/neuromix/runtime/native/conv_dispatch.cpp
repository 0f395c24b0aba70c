#include <cstdlib>
#include <cstring>

#include "conv_kernels.h"

namespace nmx {

extern const Kernels kernels_portable;
#ifdef NMX_X86_KERNELS
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

const Kernels& kernels() {
  static const Kernels& best = []() -> const Kernels& {
#ifdef NMX_X86_KERNELS
    // NMX_KERNELS=portable or avx2 forgoes what is newer, so that these can be tested too.
    const char* most = std::getenv("NMX_KERNELS");
    const auto may = [most](const char* older) { return !most || std::strcmp(most, older) != 0; };
    __builtin_cpu_init();
    if (may("portable") && may("avx2") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return kernels_avx512;
    if (may("portable") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernels_avx2;
#endif
    return kernels_portable;
  }();
  return best;
}

}  // namespace nmx
