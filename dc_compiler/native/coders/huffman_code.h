// huffman_code.h: length-limited canonical Huffman codes (FORMAT.md, section 5.1).
#ifndef DCC_HUFFMAN_CODE_H_
#define DCC_HUFFMAN_CODE_H_

#include <cstdint>
#include <vector>

namespace dcc {

using Counts = std::vector<uint64_t>;

// Code lengths of a best code of at most 16 bits; of 12, for which decoders have a table, when that costs less than
// 0.05 %. A lone used symbol has length 1, and so has symbol 0 when none is used, as a code cannot be empty.
std::vector<uint32_t> huffman_lengths(const Counts& counts);

// Refuses lengths that are no complete code. True when one symbol is used, which takes no bits.
bool check_lengths(const std::vector<uint32_t>& lengths);

// For each used symbol its code, bit-reversed so that the most significant bit is written first.
std::vector<uint16_t> canonical_codes(const std::vector<uint32_t>& lengths);

// Bits that `counts` take with a code of these lengths.
uint64_t coded_bits(const Counts& counts, const std::vector<uint32_t>& lengths);

inline uint32_t reversed(uint32_t code, unsigned length) {
  uint32_t result = 0;
  for (unsigned i = 0; i < length; ++i) result = (result << 1) | ((code >> i) & 1);
  return result;
}

}  // namespace dcc
#endif  // DCC_HUFFMAN_CODE_H_
