// mapped_bytes.cpp: large memory that goes back to the system when freed.
#include "ort/mapped_bytes.h"

#include <sys/mman.h>

#include <new>

namespace dcc::ort {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr std::align_val_t kAlignment{64};

// Mapped are whole huge pages, from a quarter of one on: to touch pages first, one by one, would take longer than all
// else that opening a small model takes.
bool is_mapped(size_t size) { return size >= kHugePage / 4; }

}  // namespace

void Unmap::operator()(uint8_t* bytes) const {
  if (is_mapped(size)) {
    munmap(bytes, size);
  } else {
    ::operator delete(bytes, kAlignment);
  }
}

MappedBytes map_bytes(size_t size) {
  if (!is_mapped(size)) return MappedBytes(static_cast<uint8_t*>(::operator new(size, kAlignment)), Unmap{size});
  const size_t mapped = (size + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, mapped, MADV_HUGEPAGE);  // only a hint
#endif
  return MappedBytes(static_cast<uint8_t*>(memory), Unmap{mapped});
}

}  // namespace dcc::ort
