// huffman_code.cpp: length-limited canonical Huffman codes (FORMAT.md, section 5.1).
#include "coders/huffman_code.h"

#include <algorithm>

#include "base/failure.h"
#include "kernels/kernels.h"

namespace dcc {
namespace {

constexpr unsigned kTableBits = 12;

// Package-merge (Larmore and Hirschberg, 1990) over the used symbols, rarest first. Level 0 lists the symbols; level l
// + 1 merges the symbols with pairs of neighbours of level l. Taking the first 2u - 2 items of the last level, and of
// each level below the items of the pairs taken, every symbol's length is the number of levels it was taken at.
std::vector<uint32_t> package_merge(const Counts& counts, const std::vector<uint32_t>& used, unsigned limit) {
  const size_t u = used.size();
  std::vector<std::vector<bool>> is_symbol(limit);
  Counts level;
  for (unsigned l = 0; l < limit; ++l) {
    Counts merged;
    merged.reserve(u + level.size() / 2);
    is_symbol[l].reserve(u + level.size() / 2);
    size_t symbol = 0;
    for (size_t pair = 0; symbol < u || 2 * pair + 1 < level.size();) {
      const bool pairs_left = 2 * pair + 1 < level.size();
      const uint64_t package = pairs_left ? level[2 * pair] + level[2 * pair + 1] : UINT64_MAX;
      const bool take_symbol = symbol < u && counts[used[symbol]] <= package;
      merged.push_back(take_symbol ? counts[used[symbol]] : package);
      is_symbol[l].push_back(take_symbol);
      ++(take_symbol ? symbol : pair);
    }
    level = std::move(merged);
  }
  std::vector<uint32_t> lengths(counts.size(), 0);
  size_t take = 2 * u - 2;
  for (unsigned l = limit; l-- > 0 && take > 0;) {
    size_t symbols = 0;
    for (size_t i = 0; i < take; ++i) symbols += is_symbol[l][i] ? 1U : 0U;
    for (size_t i = 0; i < symbols; ++i) ++lengths[used[i]];
    take = 2 * (take - symbols);
  }
  return lengths;
}

}  // namespace

std::vector<uint32_t> huffman_lengths(const Counts& counts) {
  std::vector<uint32_t> used;
  for (uint32_t symbol = 0; symbol < counts.size(); ++symbol) {
    if (counts[symbol] > 0) used.push_back(symbol);
  }
  if (used.size() < 2) {
    std::vector<uint32_t> lengths(counts.size(), 0);
    lengths[used.empty() ? 0 : used[0]] = 1;
    return lengths;
  }
  std::stable_sort(used.begin(), used.end(), [&](uint32_t a, uint32_t b) { return counts[a] < counts[b]; });
  std::vector<uint32_t> lengths = package_merge(counts, used, kLongestCode);
  const bool fits = *std::max_element(lengths.begin(), lengths.end()) <= kTableBits;
  if (!fits && used.size() <= size_t{1} << kTableBits) {
    std::vector<uint32_t> shorter = package_merge(counts, used, kTableBits);
    const uint64_t best = coded_bits(counts, lengths);
    if (coded_bits(counts, shorter) - best < best / 2000) return shorter;
  }
  return lengths;
}

bool check_lengths(const std::vector<uint32_t>& lengths) {
  uint64_t sum = 0;
  size_t used = 0;
  for (const uint32_t length : lengths) {
    require(length <= kLongestCode, "a code length is above 16");
    if (length > 0) {
      sum += uint64_t{1} << (kLongestCode - length);
      ++used;
    }
  }
  const uint64_t whole = uint64_t{1} << kLongestCode;
  require(used == 1 ? sum == whole / 2 : sum == whole, "code lengths break Kraft's equality");
  return used == 1;
}

std::vector<uint16_t> canonical_codes(const std::vector<uint32_t>& lengths) {
  uint32_t next[kLongestCode + 2] = {};
  for (const uint32_t length : lengths) {
    if (length > 0) ++next[length + 1];
  }
  for (unsigned length = 1; length <= kLongestCode; ++length) {  // first code of each length
    next[length] = length == 1 ? 0 : (next[length - 1] + next[length]) << 1;
  }
  std::vector<uint16_t> codes(lengths.size(), 0);
  for (size_t symbol = 0; symbol < lengths.size(); ++symbol) {
    const uint32_t length = lengths[symbol];
    if (length > 0) codes[symbol] = static_cast<uint16_t>(reversed(next[length]++, length));
  }
  return codes;
}

uint64_t coded_bits(const Counts& counts, const std::vector<uint32_t>& lengths) {
  size_t used = 0;
  uint64_t bits = 0;
  for (size_t symbol = 0; symbol < counts.size(); ++symbol) {
    used += lengths[symbol] > 0 ? 1U : 0U;
    bits += counts[symbol] * lengths[symbol];
  }
  return used == 1 ? 0 : bits;
}

}  // namespace dcc
