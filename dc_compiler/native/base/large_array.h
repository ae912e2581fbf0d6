// large_array.h: arrays for much data that is read from end to end: in huge pages where the system gives them, whose
// addresses take less time to find, and back to the system when freed.
#ifndef DCC_LARGE_ARRAY_H_
#define DCC_LARGE_ARRAY_H_

#include <cstddef>
#include <limits>
#include <new>
#include <vector>

namespace dcc {

// Throws std::bad_alloc. `bytes` are given back with the memory.
void* allocate_large(size_t bytes);
void free_large(void* memory, size_t bytes) noexcept;

template <typename T>
struct LargeAllocator {
  using value_type = T;
  LargeAllocator() = default;
  template <typename U>
  LargeAllocator(const LargeAllocator<U>&) {}

  T* allocate(size_t count) {
    if (count > std::numeric_limits<size_t>::max() / sizeof(T)) throw std::bad_alloc();
    return static_cast<T*>(allocate_large(count * sizeof(T)));
  }
  void deallocate(T* memory, size_t count) noexcept { free_large(memory, count * sizeof(T)); }

  // resize() leaves new elements as they are: they are written next.
  template <typename U>
  void construct(U* at) noexcept {
    ::new (static_cast<void*>(at)) U;
  }
  template <typename U, typename... Arguments>
  void construct(U* at, Arguments&&... arguments) {
    ::new (static_cast<void*>(at)) U(static_cast<Arguments&&>(arguments)...);
  }

  friend bool operator==(const LargeAllocator&, const LargeAllocator&) { return true; }
  friend bool operator!=(const LargeAllocator&, const LargeAllocator&) { return false; }
};

template <typename T>
using LargeArray = std::vector<T, LargeAllocator<T>>;

}  // namespace dcc
#endif  // DCC_LARGE_ARRAY_H_
