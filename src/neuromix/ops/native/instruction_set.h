// Which instructions the processor has, for files that are compiled once for each set of them (see cmake/native.cmake):
// there NEUROMIX_SET is the name of the set.
#pragma once

namespace neuromix {

enum class InstructionSet { portable, avx2, avx512 };

// The newest set that is compiled for and that this processor has. The environment variable NEUROMIX_KERNELS (portable
// or avx2) forgoes what is newer, so that the others can be tested too.
InstructionSet instruction_set();

}  // namespace neuromix
