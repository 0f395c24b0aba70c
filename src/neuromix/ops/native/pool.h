// A parallel loop on threads that are kept between calls.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>

namespace neuromix {

// Runs work(context) on the calling thread and, as far as they are free, on `helpers` kept threads;
// returns when all of them are through. `work` must not throw, and must be content to run alone:
// it takes its share of the work from a common counter.
void run_together(std::size_t helpers, void (*work)(void*), void* context);

// Calls body(first, last) on ranges of at most `block` that together cover [0, count), on up to
// `threads` threads. `body` must not throw. The threads are our own rather than OpenMP's: PyTorch
// brings an OpenMP runtime, and two of them fight for the same cores.
template <typename Body>
void parallel_blocks(std::size_t count, std::size_t block, std::size_t threads, const Body& body) {
  struct Share {
    const Body& body;
    std::size_t count, block, blocks;
    std::atomic<std::size_t> next{0};
  } share{body, count, block, (count + block - 1) / block};
  const auto work = [](void* context) {
    Share& s = *static_cast<Share*>(context);
    for (std::size_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.blocks;)
      s.body(i * s.block, std::min(s.count, (i + 1) * s.block));
  };
  threads = std::min(threads, share.blocks);
  run_together(threads > 1 ? threads - 1 : 0, work, &share);
}

}  // namespace neuromix
