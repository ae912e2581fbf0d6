// crc32c.cpp: CRC-32C (Castagnoli) with the processor's instruction where there is one, else by table.
#include "base/crc32c.h"

#include <array>
#include <cstring>

#include "base/processor.h"

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

// Entry n: what a byte makes of the CRC when n more bytes follow. Made when first used: it takes less than reading it.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

Tables make_tables() {
  Tables tables{kTable};
  for (size_t n = 1; n < tables.size(); ++n) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t crc = tables[n - 1][byte];
      tables[n][byte] = (crc >> 8) ^ kTable[crc & 0xFF];
    }
  }
  return tables;
}

// Eight bytes at a time: M. E. Kounavis, F. L. Berry, A systematic approach to building high performance,
// software-based, CRC generators (2005).
uint32_t update_by_table(uint32_t crc, const uint8_t* data, size_t size) {
  static const Tables tables = make_tables();
  for (; size >= 8; size -= 8, data += 8) {
    uint64_t word;
    std::memcpy(&word, data, sizeof word);
    word ^= crc;
    crc = 0;
    for (size_t n = 0; n < 8; ++n) crc ^= tables[7 - n][word >> (8 * n) & 0xFF];
  }
  for (; size > 0; --size, ++data) crc = (crc >> 8) ^ kTable[(crc ^ *data) & 0xFF];
  return crc;
}

#if defined(__x86_64__)
#define DCC_CRC_TARGET __attribute__((target("sse4.2,crc32")))
bool have_instruction() { return processor().sse42; }
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
// What the CRC becomes when kPart zero bytes follow, for each byte of it.
constexpr size_t kPart = 1024;
constexpr std::array<std::array<uint32_t, 256>, 4> make_shifts() {
  std::array<std::array<uint32_t, 256>, 4> shifts{};
  for (unsigned bit = 0; bit < 32; ++bit) {
    uint32_t crc = 1U << bit;
    for (size_t i = 0; i < kPart; ++i) crc = (crc >> 8) ^ kTable[crc & 0xFF];
    for (unsigned byte = 0; byte < 256; ++byte) {
      if ((byte >> (bit % 8) & 1) != 0) shifts[bit / 8][byte] ^= crc;
    }
  }
  return shifts;
}
constexpr std::array<std::array<uint32_t, 256>, 4> kShifts = make_shifts();

inline uint32_t shifted(uint32_t crc) {
  return kShifts[0][crc & 0xFF] ^ kShifts[1][crc >> 8 & 0xFF] ^ kShifts[2][crc >> 16 & 0xFF] ^ kShifts[3][crc >> 24];
}

// The instruction takes a step each cycle but three for each: three parts are done side by side, then joined.
DCC_CRC_TARGET uint32_t update_by_instruction(uint32_t crc, const uint8_t* data, size_t size) {
  for (; size >= 3 * kPart; size -= 3 * kPart, data += 3 * kPart) {
    uint32_t second = 0, third = 0;
    for (size_t i = 0; i < kPart; i += 8) {
      uint64_t words[3];
      for (size_t part = 0; part < 3; ++part) std::memcpy(&words[part], data + part * kPart + i, sizeof words[part]);
      crc = step8(crc, words[0]);
      second = step8(second, words[1]);
      third = step8(third, words[2]);
    }
    crc = shifted(shifted(crc) ^ second) ^ third;
  }
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
