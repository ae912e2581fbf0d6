// gaps.cpp: runs of zeros between the other elements, of which coder `huffman` makes relative positions (FORMAT.md,
// section 5.1).
#include "coders/gaps.h"

#include <algorithm>

#include "base/parallel.h"

namespace dcc {

Gaps count_gaps(const uint16_t* indices, const Header& header, int threads) {
  const uint16_t zero_index = static_cast<uint16_t>(header.zero - 1);
  const size_t chunks = static_cast<size_t>(header.chunks());
  const size_t parts = std::min(thread_count(threads), chunks);
  std::vector<Gaps> gaps(parts);
  parallel_for(parts, threads, [&](size_t part) {
    Gaps& own = gaps[part];
    own.shorter.resize(Gaps::kShort, 0);
    for (size_t c = chunks * part / parts; c < chunks * (part + 1) / parts; ++c) {
      const uint16_t* const first = indices + c * header.chunk;
      const size_t count = static_cast<size_t>(chunk_elements(header, c));
      uint32_t gap = 0;
      for (size_t i = 0; i < count; ++i) {
        if (first[i] == zero_index) {
          ++gap;
          continue;
        }
        if (gap < Gaps::kShort) {
          ++own.shorter[gap];
        } else {
          own.longer.push_back(gap);
        }
        gap = 0;
      }
    }
  });
  Gaps total = std::move(gaps[0]);
  for (size_t part = 1; part < parts; ++part) {
    for (size_t j = 0; j < total.shorter.size(); ++j) total.shorter[j] += gaps[part].shorter[j];
    total.longer.insert(total.longer.end(), gaps[part].longer.begin(), gaps[part].longer.end());
  }
  return total;
}

Counts count_positions(const Gaps& gaps, unsigned position_bits, uint64_t& fillers) {
  const uint32_t span = 1U << position_bits;
  Counts positions(span, 0);
  fillers = 0;
  const auto add = [&](uint32_t gap, uint64_t times) {
    positions[gap & (span - 1)] += times;
    fillers += (gap >> position_bits) * times;
  };
  for (uint32_t gap = 0; gap < Gaps::kShort; ++gap) add(gap, gaps.shorter[gap]);
  for (const uint32_t gap : gaps.longer) add(gap, 1);
  positions[span - 1] += fillers;
  return positions;
}

}  // namespace dcc
