// What every kernel uses: function multiversioning and loops without dependences.
#pragma once

#include <cstddef>

// Compiled once for each instruction set; templates go inline into such a function, since only
// code inside it is compiled again.
#ifdef NEUROMIX_CLONE_TARGETS
#define NEUROMIX_CLONES __attribute__((target_clones(NEUROMIX_CLONE_TARGETS)))
#else
#define NEUROMIX_CLONES
#endif

// NEUROMIX_INDEPENDENT goes before a loop whose iterations do not meet in memory: the compiler
// vectorises it without comparing all the pointers first. NEUROMIX_PREFETCH asks for what will be read soon.
#if defined(_MSC_VER)
#define NEUROMIX_INLINE __forceinline
#define NEUROMIX_INDEPENDENT __pragma(loop(ivdep))
#define NEUROMIX_PREFETCH(address)
#elif defined(__clang__)
#define NEUROMIX_INLINE inline __attribute__((always_inline))
#define NEUROMIX_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#define NEUROMIX_PREFETCH(address) __builtin_prefetch(address)
#else
#define NEUROMIX_INLINE inline __attribute__((always_inline))
#define NEUROMIX_INDEPENDENT _Pragma("GCC ivdep")
#define NEUROMIX_PREFETCH(address) __builtin_prefetch(address)
#endif
