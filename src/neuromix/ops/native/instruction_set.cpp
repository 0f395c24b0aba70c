#include "instruction_set.h"

#include <cstdlib>
#include <cstring>

namespace neuromix {

InstructionSet instruction_set() {
  static const InstructionSet best = [] {
#ifdef NEUROMIX_X86_SETS
    const char* most = std::getenv("NEUROMIX_KERNELS");
    const auto may = [most](const char* older) { return !most || std::strcmp(most, older) != 0; };
    __builtin_cpu_init();
    const bool avx2 = may("portable") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && may("avx2") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return InstructionSet::avx512;
    if (avx2) return InstructionSet::avx2;
#endif
    return InstructionSet::portable;
  }();
  return best;
}

}  // namespace neuromix
