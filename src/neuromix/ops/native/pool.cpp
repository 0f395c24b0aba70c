#include "pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#ifndef _WIN32
#include <unistd.h>
#endif

namespace neuromix {
namespace {

// A network is many short pieces of work, and to wake a thread takes as long as one of them. So who waits looks for
// a while before it sleeps.
constexpr std::chrono::microseconds kPatience{50};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Condition>
void look_for(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition() && std::chrono::steady_clock::now() < end)
    for (int i = 0; i < 16 && !condition(); ++i) pause();
}

// One piece of work at a time. A caller waits only for helpers that have begun: one that the system
// has not yet woken finds the work done and goes back to sleep, so that busy cores cost no waiting.
class Pool {
 public:
  void run(std::size_t helpers, void (*work)(void*), void* context) {
    const std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn || !grow(helpers)) return work(context);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = work;
      context_ = context;
      wanted_ = helpers;
    }
    for (std::size_t i = 0; i < helpers; ++i) wake_.notify_one();
    work(context);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      wanted_ = 0;
    }
    look_for([this] { return inside_ == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return inside_ == 0; });
  }

 private:
  // False where not a single helper can be had.
  bool grow(std::size_t helpers) {
    try {
      for (; threads_ < helpers; ++threads_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      // No more threads: those that there are will do.
    }
    return threads_ > 0;
  }

  void serve() {
    for (;;) {
      look_for([this] { return wanted_ > 0; });
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return wanted_ > 0; });
      --wanted_;
      ++inside_;
      lock.unlock();
      work_(context_);
      lock.lock();
      if (--inside_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_;  // held by the caller whose work it is; another one meanwhile works alone
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::size_t threads_ = 0;
  std::atomic<std::size_t> wanted_{0}, inside_{0};  // changed under the mutex
  void (*work_)(void*) = nullptr;
  void* context_ = nullptr;
};

// Never destroyed: its threads may outlive main. A forked child inherits no threads and makes its own pool.
Pool& pool() {
#ifdef _WIN32
  static Pool* const pool = new Pool;
  return *pool;
#else
  static std::mutex mutex;
  static Pool* pool = nullptr;
  static pid_t owner = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  if (owner != getpid()) {
    owner = getpid();
    pool = new Pool;
  }
  return *pool;
#endif
}

}  // namespace

void run_together(std::size_t helpers, void (*work)(void*), void* context) {
  if (helpers == 0) return work(context);
  pool().run(helpers, work, context);
}

}  // namespace neuromix
