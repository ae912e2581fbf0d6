// log2_fixed.h: base-2 logarithms in integers, so that an encoder decides alike on every machine.
#ifndef DCC_LOG2_FIXED_H_
#define DCC_LOG2_FIXED_H_

#include <cstdint>

namespace dcc {

constexpr unsigned kLog2FractionBits = 16;

// floor(log2(value) * 2^16) or one less, for value > 0: the fraction bit by bit, squaring a 32-bit mantissa.
inline uint32_t log2_fixed(uint64_t value) {
  unsigned whole = 63;
  while ((value >> whole) == 0) --whole;
  uint64_t mantissa = whole <= 31 ? value << (31 - whole) : value >> (whole - 31);  // in [2^31, 2^32)
  uint32_t result = whole;
  for (unsigned bit = 0; bit < kLog2FractionBits; ++bit) {
    mantissa = (mantissa * mantissa) >> 31;
    const uint32_t one = mantissa >> 32 != 0 ? 1 : 0;
    mantissa >>= one;
    result = (result << 1) | one;
  }
  return result;
}

}  // namespace dcc
#endif  // DCC_LOG2_FIXED_H_
