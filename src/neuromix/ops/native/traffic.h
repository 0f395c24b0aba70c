// How rows of large arrays come and go. Walking a block of neurons over time touches short pieces of memory
// that lie far apart, which the processor does not foresee as it does when it reads straight on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define NEUROMIX_X86_64
#endif

#include "buffer.h"
#include "common.h"

namespace neuromix {

// Outputs from this size on do not stay in the caches of a core until they are read again.
constexpr std::size_t kLargeBytes = 16 << 20;

// One row for each time step, `stride` elements apart.
template <typename T>
struct Rows {
  T* first = nullptr;
  std::ptrdiff_t stride = 0;

  T* at(std::size_t t) const { return first ? first + std::ptrdiff_t(t) * stride : nullptr; }
  // The same rows from the last of `steps` to the first.
  Rows backwards(std::size_t steps) const { return {at(steps - 1), -stride}; }
  Rows from(std::size_t n) const { return {first ? first + n : nullptr, stride}; }
};

// Asks for a row that will be read soon.
NEUROMIX_INLINE void prefetch(const void* row, std::size_t bytes) {
  const char* p = static_cast<const char*>(row);
  for (std::size_t i = 0; i < bytes; i += 64) {
#if defined(NEUROMIX_X86_64)
    _mm_prefetch(p + i, _MM_HINT_T0);
#elif defined(__GNUC__)
    __builtin_prefetch(p + i, 0, 3);
#endif
  }
}

// Copies past the caches: memory that is only written need not be read first.
NEUROMIX_INLINE void copy_through(void* to, const void* from, std::size_t bytes) {
#if defined(NEUROMIX_X86_64)
  if (reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
    auto* target = static_cast<__m128i*>(to);
    const auto* source = static_cast<const __m128i*>(from);
    for (std::size_t i = 0; i < bytes / 16; ++i) _mm_stream_si128(target + i, _mm_loadu_si128(source + i));
    const std::size_t done = bytes / 16 * 16;
    std::memcpy(static_cast<char*>(to) + done, static_cast<const char*>(from) + done, bytes - done);
    return;
  }
#endif
  std::memcpy(to, from, bytes);
}

// Where a thread writes rows of an output: into it, or if it is large by way of a buffer and past the caches.
template <typename T>
class RowWriter {
 public:
  void begin(std::size_t row_size, bool large) { staged_ = large ? buffer_.of_size(row_size) : nullptr; }

  T* place(T* row) const { return staged_ ? staged_ : row; }

  // Call it when `place(row)` is filled.
  void write(T* row, std::size_t count) const {
    if (staged_) copy_through(row, staged_, count * sizeof(T));
  }

  // Call it after the last row: other threads see what went past the caches only after a fence.
  void end() const {
#if defined(NEUROMIX_X86_64)
    if (staged_) _mm_sfence();
#endif
  }

 private:
  T* staged_ = nullptr;
  Buffer<T> buffer_;
};

}  // namespace neuromix
