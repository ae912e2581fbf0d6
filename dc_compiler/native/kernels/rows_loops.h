// rows_loops.h: the steps of coder `rows` in plain C++ (FORMAT.md, section 5.5), for every direction: a `Coder` reads
// flags, signs and magnitudes, or is told them by what the block's results hold beforehand.
//
// In an unnamed namespace for the reason given in kernels_common.h.
#ifndef DCC_ROWS_LOOPS_H_
#define DCC_ROWS_LOOPS_H_

#include "kernels/kernel_steps.h"
#include "kernels/rows_block.h"

namespace dcc {
namespace {

// log2 of a number in units of 1/64, by the straight line between powers of two.
inline int32_t rows_log2(uint64_t value) {
  const int32_t whole = 63 - __builtin_clzll(value);
  const uint64_t part = whole >= 6 ? value >> (whole - 6) : value << (6 - whole);
  return 64 * whole + static_cast<int32_t>(part & 63);
}

// The same below 2^24: exponent and mantissa of a float are that line, shifted by its bias.
inline int32_t rows_log2_small(uint32_t value) {
  const auto number = static_cast<float>(static_cast<int32_t>(value));
  int32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return (bits >> 17) - (127 << 6);
}

// floor(numerator / denominator) of whole numbers: the exact quotient is at least 1 / denominator below the next one,
// which is more than what rounding adds while numerators are below 2^53.
inline uint32_t rows_quotient(double numerator, double denominator) {
  return static_cast<uint32_t>(static_cast<int32_t>(numerator / denominator));
}

// The chance of a set flag in each column of a group, in units of 2^-16. Given by value, as what is written could be
// it.
inline void rows_chances_of_group(const RowsColumns block, size_t first, size_t end) {
  const uint32_t* const flags = block.flags_of;
  uint64_t set = 0;
  for (size_t c = first; c < end; ++c) set += flags[c];
  const double of_group = rows_quotient(65536 * static_cast<double>(set) + block.group_trust * block.overall,
                                        block.rows * static_cast<double>(end - first) + block.group_trust);
  const auto columns = static_cast<int32_t>(block.columns);
  const auto stride = static_cast<int32_t>(block.stride);
  const int32_t has_stride = stride != 0 ? 1 : 0;
  for (auto c = static_cast<int32_t>(first); c < static_cast<int32_t>(end); ++c) {
    int32_t near = static_cast<int32_t>(flags[c]) + static_cast<int32_t>(flags[c - 1] + flags[c + 1]);
    near += has_stride * static_cast<int32_t>(flags[c - stride] + flags[c + stride]);
    const int32_t count = 1 + (c >= 1 ? 1 : 0) + (c + 1 < columns ? 1 : 0) +
                          has_stride * ((c >= stride ? 1 : 0) + (c + stride < columns ? 1 : 0));
    const double of_near = rows_quotient(65536 * static_cast<double>(near) + block.near_trust * of_group,
                                         block.rows * count + block.near_trust);
    const double chance = 65536 * static_cast<double>(static_cast<int32_t>(flags[c])) + block.column_trust * of_near;
    const auto p = static_cast<int32_t>(rows_quotient(chance, block.rows + block.column_trust));
    block.chances[c] = static_cast<uint32_t>(p < 16 ? 16 : p > 65536 - 16 ? 65536 - 16 : p);
  }
}

// Adds what columns before each one of a group say, in units of 2^-16 flags, to what `weight` times their log2 takes
// off.
inline void rows_take_off(const RowsColumns block, int32_t weight, size_t first, size_t end) {
  uint32_t sum = 0;
  for (size_t c = first; c < end; ++c) {
    block.expected[c] = sum;
    sum += block.chances[c];
  }
  for (size_t c = first; c < end; ++c)
    block.flag_base[c] -= weight * rows_log2_small((block.expected[c] >> 9) + kRowsUnit);
}

// What the columns alone say of each flag, and what is to be taken off for the columns before, as they say it.
inline void rows_columns_loop(const RowsColumns& block) {
  for (size_t first = 0; first < block.columns; first += block.group) {
    const size_t end = block.columns - first < block.group ? block.columns : first + block.group;
    rows_chances_of_group(block, first, end);
  }
  for (size_t c = 0; c < block.columns; ++c) {
    const uint32_t p = block.chances[c];
    block.flag_base[c] = block.base + block.column_weight * (rows_log2_small(p) - rows_log2_small(65536 - p));
  }
  rows_take_off(block, block.row_weight, 0, block.columns);
  if (block.group_weight == 0) return;
  for (size_t first = 0; first < block.columns; first += block.group) {
    const size_t end = block.columns - first < block.group ? block.columns : first + block.group;
    rows_take_off(block, block.group_weight, first, end);
  }
}

// The probability for a sum: its odds to the nearest half octave.
inline uint32_t rows_chance(int32_t sum) {
  const int32_t at = 20 + ((sum + 1024) >> 11);
  return kRowsChances[at < 0 ? 0 : at > 31 ? 31 : at];
}

// The flags of all columns from `block.column` on, as far as the coder goes. What rows add changes with few flags, so
// it is kept; the sums of all lanes are made side by side.
template <typename Coder>
inline void rows_flags(RowsBlock& block, Coder& coder) {
  int32_t of_row[kRowsLanes], of_group[kRowsLanes];
  for (unsigned lane = 0; lane < kRowsLanes; ++lane) {
    of_row[lane] = block.row_weight * rows_log2(block.row_count[lane]);
    of_group[lane] = block.group_weight * rows_log2(block.group_count[lane]);
  }
  const int32_t empty_group = block.group_weight * rows_log2(kRowsUnit);
  size_t left_in_group = block.group - block.column % block.group;
  for (; block.column < block.columns && coder.can_step(); ++block.column) {
    uint16_t* const at = block.flags + block.column;
    const uint32_t known = *at;
    const uint32_t left = *(at - 1), second = *(at - 2), above = *(at - block.stride);
    const uint32_t right = *(at - block.stride + 1), above_left = *(at - block.stride - 1);
    const int32_t base = block.flag_base[block.column];
    int32_t sums[kRowsLanes];
    for (unsigned lane = 0; lane < kRowsLanes; ++lane) {
      const uint32_t bit = 1U << lane;
      sums[lane] = base + of_row[lane] + of_group[lane] + ((left & bit) != 0 ? block.left : 0) +
                   ((second & bit) != 0 ? block.second_left : 0) + ((above & bit) != 0 ? block.above : 0) +
                   ((right & bit) != 0 ? block.above_right : 0) + ((above_left & bit) != 0 ? block.above_left : 0);
    }
    uint32_t found = 0;
    for (unsigned lane = 0; lane < block.rows; ++lane) {
      const bool flag = coder.bit(lane, rows_chance(sums[lane]), (known >> lane & 1) != 0);
      if (!flag) continue;
      found |= 1U << lane;
      of_row[lane] = block.row_weight * rows_log2(block.row_count[lane] += kRowsUnit);
      of_group[lane] = block.group_weight * rows_log2(block.group_count[lane] += kRowsUnit);
    }
    *at = static_cast<uint16_t>(found);
    block.flags_of[block.column] += static_cast<uint32_t>(__builtin_popcount(found));
    if (--left_in_group == 0) {
      left_in_group = block.group;
      for (unsigned lane = 0; lane < kRowsLanes; ++lane) {
        block.group_count[lane] = kRowsUnit;
        of_group[lane] = empty_group;
      }
    }
  }
}

// Whether the kept elements of column `c` are positive, a bit a lane.
template <typename Coder>
inline uint32_t rows_signs(RowsBlock& block, Coder& coder, size_t c, uint32_t kept) {
  if (block.most_negative == 0) return kept;
  if (block.most_positive == 0) return 0;
  uint32_t positive = 0;
  for (unsigned lane = 0; lane < block.rows; ++lane) {
    if ((kept >> lane & 1) == 0) continue;
    const int8_t* const signs = block.signs + c * kRowsLanes + lane;
    const auto before = [signs](size_t distance) -> int32_t {
      return *(signs - static_cast<ptrdiff_t>(distance * kRowsLanes));
    };
    const int32_t sum = block.sign_base[c] +
                        block.sign_row_weight * (rows_log2(block.positive[lane]) - rows_log2(block.negative[lane])) +
                        block.sign_left * (2 * before(1) + before(2)) +
                        block.sign_above * (2 * before(block.stride) + before(2 * block.stride)) +
                        block.sign_beside * (before(block.stride - 1) + before(block.stride + 1));
    const bool known = block.indices[c * kRowsLanes + lane] > block.zero;
    const bool is_positive = coder.bit(lane, rows_chance(sum), known);
    positive |= uint32_t{is_positive} << lane;
    (is_positive ? block.positive : block.negative)[lane] += kRowsUnit;
  }
  return positive;
}

inline unsigned rows_table(const RowsBlock& block, size_t c, unsigned lane, bool positive) {
  int32_t at = 0;
  if (block.tables > 1) {
    const int32_t sum =
        block.magnitude_base[c] + block.recent_weight * rows_log2(block.recent[lane]) + block.table_offset;
    const auto most = static_cast<int32_t>(block.tables) - 1;
    at = sum >> block.table_shift;
    at = at < 0 ? 0 : at > most ? most : at;
  }
  return static_cast<unsigned>(at) + (block.has_sides && !positive ? block.tables : 0);
}

// The values of the kept elements of all columns from `block.column` on, as far as the coder goes. Those that are not
// kept hold `zero` already.
template <typename Coder>
inline void rows_values(RowsBlock& block, Coder& coder) {
  for (; block.column < block.columns && coder.can_step(); ++block.column) {
    const size_t c = block.column;
    const uint32_t kept = block.kept(c);
    if (kept == 0) continue;
    const uint32_t positive = rows_signs(block, coder, c, kept);
    uint16_t* const indices = block.indices + c * kRowsLanes;
    const auto is_positive = [positive](unsigned lane) { return (positive >> lane & 1) != 0; };
    uint32_t magnitudes[kRowsLanes] = {};  // less one
    const auto for_kept = [&](auto&& work) {
      for (unsigned lane = 0; lane < block.rows; ++lane) {
        if ((kept >> lane & 1) != 0) work(lane);
      }
    };
    for_kept([&](unsigned lane) {
      const int32_t known = indices[lane] - block.zero;
      const auto magnitude = static_cast<uint32_t>(known < 0 ? -known : known) - 1;
      const unsigned table = rows_table(block, c, lane, is_positive(lane));
      magnitudes[lane] = coder.symbol(lane, table, magnitude >> block.low_bits) << block.low_bits;
    });
    if (block.low_bits > 0) {
      for_kept([&](unsigned lane) {
        const int32_t known = indices[lane] - block.zero;
        const auto magnitude = static_cast<uint32_t>(known < 0 ? -known : known) - 1;
        magnitudes[lane] |= coder.low(lane, magnitude & ((1U << block.low_bits) - 1));
      });
    }
    uint64_t total = 0;
    for_kept([&](unsigned lane) {
      const uint32_t magnitude = magnitudes[lane] + 1;
      block.is_bad |= magnitude > (is_positive(lane) ? block.most_positive : block.most_negative);
      indices[lane] = static_cast<uint16_t>(is_positive(lane) ? block.zero + magnitude : block.zero - magnitude);
      block.signs[c * kRowsLanes + lane] = is_positive(lane) ? 1 : -1;
      const uint32_t counted = magnitude < kRowsMostMagnitude ? magnitude : kRowsMostMagnitude;
      total += counted;
      uint32_t& recent = block.recent[lane];
      recent += (counted << (10 - block.recent_shift)) - (recent >> block.recent_shift);
    });
    block.positive_of[c] += static_cast<uint32_t>(__builtin_popcount(positive));
    block.negative_of[c] += static_cast<uint32_t>(__builtin_popcount(kept & ~positive));
    block.magnitude_of[c] += total;
  }
}

// Reads a block's stream.
class RowsDecoder {
 public:
  explicit RowsDecoder(RowsBlock& block) : block_(block) {}

  bool can_step() const { return block_.words <= block_.limit; }

  bool bit(unsigned lane, uint32_t p, bool /*unknown*/) {
    const uint32_t x = block_.states[lane];
    const uint32_t slot = x & ((1U << kRowsBits) - 1);
    const bool one = slot < p;
    const uint32_t frequency = one ? p : (1U << kRowsBits) - p;
    advance(lane, frequency * (x >> kRowsBits) + (one ? slot : slot - p));
    return one;
  }

  uint32_t symbol(unsigned lane, unsigned table, uint32_t /*unknown*/) {
    const uint32_t x = block_.states[lane];
    const unsigned s = block_.scale_bits;
    const uint32_t step = block_.steps[(size_t{table} << s) + (x & ((1U << s) - 1))];
    advance(lane, ((step & 0xFFF) + 1) * (x >> s) + (step >> 12 & 0xFFF));
    return step >> 24;
  }

  uint32_t low(unsigned lane, uint32_t /*unknown*/) {
    const uint32_t x = block_.states[lane];
    advance(lane, x >> block_.low_bits);
    return x & ((1U << block_.low_bits) - 1);
  }

 private:
  void advance(unsigned lane, uint32_t x) {
    const uint32_t refill = 0U - static_cast<uint32_t>(x < 0x10000);
    block_.states[lane] = (x << (refill & 16)) | (load_at<uint16_t>(block_.words) & refill);
    block_.words += refill & 2;
  }

  RowsBlock& block_;
};

}  // namespace
}  // namespace dcc
#endif  // DCC_ROWS_LOOPS_H_
