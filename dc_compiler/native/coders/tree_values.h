// tree_values.h: the order of numbers and floats that are held as bits (FORMAT.md, section 8.3).
#ifndef DCC_TREE_VALUES_H_
#define DCC_TREE_VALUES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace dcc {

// Numbers in the order of floats of so many bits, which are multiples of 2^shift by their bits; of integers
// (`float_bits` 0) in the order of signed ones.
inline uint64_t sort_key(uint64_t value, unsigned float_bits, unsigned shift = 0) {
  if (float_bits == 0) return value ^ (uint64_t{1} << 63);
  const uint64_t sign = uint64_t{1} << (float_bits - 1), half = sign >> shift;
  const uint64_t magnitude = (value & (sign - 1)) >> shift;
  return (value & sign) != 0 ? half - 1 - magnitude : half + magnitude;
}

// The inverse. Any number has a value.
inline uint64_t value_of_key(uint64_t key, unsigned float_bits, unsigned shift = 0) {
  if (float_bits == 0) return key ^ (uint64_t{1} << 63);
  const uint64_t sign = uint64_t{1} << (float_bits - 1), half = sign >> shift;
  if (key >= half) return ((key - half) << shift) & (sign - 1);
  return sign | (((half - 1 - key) << shift) & (sign - 1));
}

// m / 10^digits, rounded to a float of 32 or 64 bits.
inline uint64_t decimal_bits(int64_t m, unsigned digits, unsigned float_bits) {
  double power = 1;
  for (unsigned i = 0; i < digits; ++i) power *= 10;  // exact up to 10^22
  const double value = static_cast<double>(m) / power;
  uint64_t bits = 0;
  if (float_bits == 32) {
    const auto rounded = static_cast<float>(value);
    std::memcpy(&bits, &rounded, sizeof rounded);
  } else {
    std::memcpy(&bits, &value, sizeof value);
  }
  return bits;
}

// Sorts and drops what is there twice.
inline void sort_values(std::vector<uint64_t>& values, unsigned float_bits) {
  std::sort(values.begin(), values.end(),
            [&](uint64_t a, uint64_t b) { return sort_key(a, float_bits) < sort_key(b, float_bits); });
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

}  // namespace dcc
#endif  // DCC_TREE_VALUES_H_
