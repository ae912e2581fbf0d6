// crc32c.cpp: CRC-32C (Castagnoli) with the processor's instruction where there is one, else by table.
#include "base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace dcc {
namespace {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78U : 0U);
    table[byte] = crc;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kTable = make_table();

uint32_t update_by_table(uint32_t crc, const uint8_t* data, size_t size) {
  for (size_t i = 0; i < size; ++i) crc = (crc >> 8) ^ kTable[(crc ^ data[i]) & 0xFF];
  return crc;
}

#if defined(__x86_64__)
#define DCC_CRC_TARGET __attribute__((target("sse4.2")))
bool have_instruction() { return __builtin_cpu_supports("sse4.2") != 0; }
DCC_CRC_TARGET inline uint32_t step8(uint32_t crc, uint64_t word) {
  return static_cast<uint32_t>(_mm_crc32_u64(crc, word));
}
DCC_CRC_TARGET inline uint32_t step1(uint32_t crc, uint8_t byte) { return _mm_crc32_u8(crc, byte); }
#elif defined(__aarch64__) && defined(__linux__)
#define DCC_CRC_TARGET __attribute__((target("+crc")))
bool have_instruction() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
DCC_CRC_TARGET inline uint32_t step8(uint32_t crc, uint64_t word) { return __crc32cd(crc, word); }
DCC_CRC_TARGET inline uint32_t step1(uint32_t crc, uint8_t byte) { return __crc32cb(crc, byte); }
#endif

#if defined(DCC_CRC_TARGET)
DCC_CRC_TARGET uint32_t update_by_instruction(uint32_t crc, const uint8_t* data, size_t size) {
  for (; size >= 8; size -= 8, data += 8) {
    uint64_t word;
    std::memcpy(&word, data, sizeof word);
    crc = step8(crc, word);
  }
  for (; size > 0; --size, ++data) crc = step1(crc, *data);
  return crc;
}
#else
bool have_instruction() { return false; }
uint32_t update_by_instruction(uint32_t crc, const uint8_t* data, size_t size) {
  return update_by_table(crc, data, size);
}
#endif

}  // namespace

uint32_t crc32c(const uint8_t* data, size_t size) {
  static const bool by_instruction = have_instruction();
  return ~(by_instruction ? update_by_instruction : update_by_table)(0xFFFFFFFFU, data, size);
}

}  // namespace dcc
