# How native code is compiled. Products and sums stay apart (no fused multiply-add), so that results equal the
# PyTorch references bit for bit.
include_guard()

if(MSVC)
  set(kernel_flags /O2 /fp:precise)
  set(warning_flags /W4)
else()
  set(kernel_flags -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math)
  set(warning_flags -Wall -Wextra)
endif()

# Function multiversioning: the kernels are compiled for several instruction sets and the loader
# picks one. Other processors have one vector instruction set, which is used anyway.
include(CheckCXXSourceCompiles)
function(check_clones result)
  list(JOIN ARGN "\", \"" names)
  check_cxx_source_compiles("
    #ifndef __x86_64__
    #error \"x86-64 only\"
    #endif
    __attribute__((target_clones(\"${names}\"))) int twice(int x) { return 2 * x; }
    int main(int argc, char**) { return twice(argc); }
  " ${result})
endfunction()
set(clones arch=x86-64-v4 arch=x86-64-v3 default)  # with AVX-512, with AVX2
check_clones(NEUROMIX_HAS_LEVELS ${clones})
if(NOT NEUROMIX_HAS_LEVELS)  # compilers before GCC 12
  set(clones avx512f avx2 default)
  check_clones(NEUROMIX_HAS_SETS ${clones})
endif()

# The flags of kernels, and NEUROMIX_CLONE_TARGETS for those who include common.h.
function(compile_kernels target)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
  target_compile_features(${target} PUBLIC cxx_std_17)
  target_compile_options(${target} PRIVATE ${kernel_flags} ${warning_flags})
  if(NMX_SANITIZE)  # what is watched takes long to compile
    target_compile_options(${target} PRIVATE -O1)
  endif()
  if((NEUROMIX_HAS_LEVELS OR NEUROMIX_HAS_SETS) AND NOT NMX_SANITIZE)
    list(JOIN clones "\", \"" names)
    target_compile_definitions(${target} PUBLIC "NEUROMIX_CLONE_TARGETS=\"${names}\"")
  endif()
endfunction()

# Adds sources to a library once for each instruction set, with NEUROMIX_SET for its name (see instruction_set.h). The
# sets must share no function: what is not in an unnamed namespace or inline always would be linked once for all.
set(x86_sets OFF)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT MSVC)
  set(x86_sets ON)
endif()
function(add_sets target name)
  set(flags_portable)
  set(flags_avx2 -mavx2 -mfma)
  set(flags_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma)
  foreach(set portable avx2 avx512)
    if(set STREQUAL portable OR x86_sets)
      add_library(${name}_${set} OBJECT ${ARGN})
      compile_kernels(${name}_${set})
      target_compile_options(${name}_${set} PRIVATE ${flags_${set}})
      target_compile_definitions(${name}_${set} PRIVATE NEUROMIX_SET=${set})
      target_include_directories(${name}_${set} PRIVATE $<TARGET_PROPERTY:${target},INCLUDE_DIRECTORIES>)
      target_sources(${target} PRIVATE $<TARGET_OBJECTS:${name}_${set}>)
    endif()
  endforeach()
  if(x86_sets)
    target_compile_definitions(${target} PRIVATE NEUROMIX_X86_SETS)
  endif()
endfunction()
