// mapped_bytes.cpp: large memory that goes back to the system when freed.
#include "ort/mapped_bytes.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace dcc::ort {

void Unmap::operator()(uint8_t* bytes) const { munmap(bytes, size); }

MappedBytes map_bytes(size_t size) {
  const size_t mapped = std::max<size_t>(size, 1);
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, mapped, MADV_HUGEPAGE);  // only a hint
#endif
  return MappedBytes(static_cast<uint8_t*>(memory), Unmap{mapped});
}

}  // namespace dcc::ort
