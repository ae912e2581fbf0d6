// crc32c.h: CRC-32C (Castagnoli).
#ifndef DCC_CRC32C_H_
#define DCC_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace dcc {

uint32_t crc32c(const uint8_t* data, size_t size);

}  // namespace dcc
#endif  // DCC_CRC32C_H_
