#include "conv_kernels.h"
#include "ops/native/instruction_set.h"

namespace nmx {

extern const Kernels kernels_portable;
#ifdef NEUROMIX_X86_SETS
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

const Kernels& kernels() {
#ifdef NEUROMIX_X86_SETS
  switch (neuromix::instruction_set()) {
    case neuromix::InstructionSet::avx512:
      return kernels_avx512;
    case neuromix::InstructionSet::avx2:
      return kernels_avx2;
    case neuromix::InstructionSet::portable:
      break;
  }
#endif
  return kernels_portable;
}

}  // namespace nmx
