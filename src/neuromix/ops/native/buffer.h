// Scratch memory that keeps its size between uses.
#pragma once

#include <cstddef>
#include <new>

#include "common.h"

namespace neuromix {

// Aligned to cache lines: a vector that lies across two of them takes twice as long to move, and a store that
// shares the low bits of its address with a load of the next step holds it up.
template <typename T>
class Buffer {
 public:
  static constexpr std::align_val_t kAlignment{64};

  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  NEUROMIX_INLINE ~Buffer() { ::operator delete(data_, kAlignment); }

  // Uninitialised, and whatever was in it may be lost.
  NEUROMIX_INLINE T* of_size(std::size_t size) {
    if (size > size_) {
      ::operator delete(data_, kAlignment);
      data_ = nullptr;
      size_ = 0;
      data_ = static_cast<T*>(::operator new(size * sizeof(T), kAlignment));
      size_ = size;
    }
    return data_;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace neuromix
