// crc32c.h: CRC-32C (Castagnoli).
#ifndef DCC_CRC32C_H_
#define DCC_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace dcc {

uint32_t crc32c(const uint8_t* data, size_t size);

// Whether the bytes have this checksum. A build for fuzzing lets all pass, so that changed bytes reach what lies
// behind.
inline bool has_crc32c(const uint8_t* data, size_t size, uint32_t crc) {
#if defined(FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION)
  constexpr bool kAnyWillDo = true;
#else
  constexpr bool kAnyWillDo = false;
#endif
  return kAnyWillDo || crc32c(data, size) == crc;
}

}  // namespace dcc
#endif  // DCC_CRC32C_H_
