// mapped_bytes.cpp: large memory that goes back to the system when freed.
#include "ort/mapped_bytes.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace dcc::ort {

void Unmap::operator()(uint8_t* bytes) const { munmap(bytes, size); }

namespace {

// Whole huge pages from a quarter of one on: to touch the rest first, page by page, would take longer than all else
// that opening a small model takes.
size_t mapped_size(size_t size) {
  constexpr size_t kHugePage = size_t{2} << 20;
  return size < kHugePage / 4 ? std::max<size_t>(size, 1) : (size + kHugePage - 1) / kHugePage * kHugePage;
}

}  // namespace

MappedBytes map_bytes(size_t size) {
  const size_t mapped = mapped_size(size);
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, mapped, MADV_HUGEPAGE);  // only a hint
#endif
  return MappedBytes(static_cast<uint8_t*>(memory), Unmap{mapped});
}

}  // namespace dcc::ort
