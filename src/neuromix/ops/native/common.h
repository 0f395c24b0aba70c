// What every kernel uses: function multiversioning and a parallel loop.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

// Compiled once for each instruction set; templates go inline into such a function, since only
// code inside it is compiled again.
#ifdef NEUROMIX_HAS_TARGET_CLONES
#define NEUROMIX_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define NEUROMIX_CLONES
#endif

#ifdef _MSC_VER
#define NEUROMIX_INLINE __forceinline
#define NEUROMIX_RESTRICT __restrict
#else
#define NEUROMIX_INLINE inline __attribute__((always_inline))
#define NEUROMIX_RESTRICT __restrict__
#endif

namespace neuromix {

// Calls body(first, last) on ranges of at most `block` that together cover [0, count), on up to
// `threads` threads. `body` must not throw. Plain threads rather than OpenMP: PyTorch brings an
// OpenMP runtime of its own, and two of them fight for the same cores.
template <typename Body>
void parallel_blocks(std::size_t count, std::size_t block, std::size_t threads, const Body& body) {
  const std::size_t blocks = (count + block - 1) / block;
  std::atomic<std::size_t> next{0};
  const auto work = [&]() noexcept {
    for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < blocks;)
      body(i * block, std::min(count, (i + 1) * block));
  };

  std::vector<std::thread> helpers;
  threads = std::min(threads, blocks);
  if (threads > 1) helpers.reserve(threads - 1);
  try {
    while (helpers.size() + 1 < threads) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads to be had: those that run do all the work.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace neuromix
