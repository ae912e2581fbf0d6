// gaps.h: runs of zeros between the other elements, of which coder `huffman` makes relative positions (FORMAT.md,
// section 5.1).
#ifndef DCC_GAPS_H_
#define DCC_GAPS_H_

#include <vector>

#include "coders/huffman_code.h"
#include "frame/frame.h"

namespace dcc {

// Runs of zeros before the other elements of each chunk.
struct Gaps {
  static constexpr uint32_t kShort = 65536;
  Counts shorter;                // how often each length below kShort occurs
  std::vector<uint32_t> longer;  // the others, one by one
};

Gaps count_gaps(const uint16_t* indices, const Header& header, int threads);

// Occurrences of each position, and the filler zeros they need.
Counts count_positions(const Gaps& gaps, unsigned position_bits, uint64_t& fillers);

}  // namespace dcc
#endif  // DCC_GAPS_H_
