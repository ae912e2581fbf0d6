// mapped_bytes.h: large memory that goes back to the system when freed.
#ifndef DCC_MAPPED_BYTES_H_
#define DCC_MAPPED_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dcc::ort {

// Memory aligned for any vector instruction that goes back to the system when freed (malloc may keep what is small), in
// huge pages where the system gives them: they are faster to touch first.
struct Unmap {
  void operator()(uint8_t* bytes) const;
  size_t size = 0;
};
using MappedBytes = std::unique_ptr<uint8_t[], Unmap>;
MappedBytes map_bytes(size_t size);

}  // namespace dcc::ort
#endif  // DCC_MAPPED_BYTES_H_
