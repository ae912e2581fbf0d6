// large_array.cpp: large_array.h.
#include "base/large_array.h"

#include <cstdint>

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)  // which watches what comes from operator new
#include <sys/mman.h>
#define DCC_HUGE_PAGES 1
#else
#define DCC_HUGE_PAGES 0
#endif

namespace dcc {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr size_t kHugePage = size_t{2} << 20;

bool is_mapped(size_t bytes) { return DCC_HUGE_PAGES != 0 && bytes >= kHugePage; }

#if DCC_HUGE_PAGES
// Maps whole pages from a multiple of the huge page on, and gives back what lies before and behind.
void* map(size_t bytes) {
  constexpr size_t kPage = 4096;
  if (bytes > SIZE_MAX - 2 * kHugePage) throw std::bad_alloc();
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  void* const mapped = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(mapped) % kHugePage) % kHugePage;
  char* const memory = static_cast<char*>(mapped) + before;
  if (before > 0) munmap(mapped, before);
  munmap(memory + size, kHugePage - before);
#ifdef MADV_HUGEPAGE
  madvise(memory, size, MADV_HUGEPAGE);  // only a hint
#endif
  return memory;
}

void unmap(void* memory, size_t bytes) { munmap(memory, bytes); }
#else
void* map(size_t) { throw std::bad_alloc(); }
void unmap(void*, size_t) {}
#endif

}  // namespace

void* allocate_large(size_t bytes) { return is_mapped(bytes) ? map(bytes) : ::operator new(bytes, kAlignment); }

void free_large(void* memory, size_t bytes) noexcept {
  if (is_mapped(bytes)) {
    unmap(memory, bytes);
  } else {
    ::operator delete(memory, kAlignment);
  }
}

}  // namespace dcc
