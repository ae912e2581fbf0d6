// large_array.cpp: large_array.h.
#include "base/large_array.h"

#include <cstdint>

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)  // which watches what comes from operator new
#include <sys/mman.h>
#define DCC_HUGE_PAGES
#endif

namespace dcc {
namespace {

constexpr size_t kAlignment = 64;
#ifdef DCC_HUGE_PAGES
constexpr size_t kHugePage = size_t{2} << 20;

// Maps whole pages from a multiple of the huge page on, and gives back what lies before and behind.
void* map_aligned(size_t bytes) {
  constexpr size_t kPage = 4096;
  if (bytes > SIZE_MAX - 2 * kHugePage) throw std::bad_alloc();
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  void* const mapped = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(mapped) % kHugePage) % kHugePage;
  char* const memory = static_cast<char*>(mapped) + before;
  if (before > 0) munmap(mapped, before);
  munmap(memory + size, kHugePage - before);
  madvise(memory, size, MADV_HUGEPAGE);  // only a hint
  return memory;
}
#endif

}  // namespace

void* allocate_large(size_t bytes) {
#ifdef DCC_HUGE_PAGES
  if (bytes >= kHugePage) return map_aligned(bytes);
#endif
  return ::operator new(bytes, std::align_val_t{kAlignment});
}

void free_large(void* memory, size_t bytes) noexcept {
#ifdef DCC_HUGE_PAGES
  if (bytes >= kHugePage) {
    munmap(memory, bytes);
    return;
  }
#endif
  ::operator delete(memory, std::align_val_t{kAlignment});
}

}  // namespace dcc
