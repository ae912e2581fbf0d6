// rows_block.h: what the kernels of coder `rows` work on (FORMAT.md, section 5.5): a block of rows side by side.
#ifndef DCC_ROWS_BLOCK_H_
#define DCC_ROWS_BLOCK_H_

#include <cstddef>
#include <cstdint>

namespace dcc {

constexpr unsigned kRowsLanes = 16;                // at most; arrays have room for so many
constexpr unsigned kRowsBits = 14;                 // of the probabilities of flags and signs
constexpr size_t kRowsReach = 3 * 2 * kRowsLanes;  // bytes that one column may take: a flag, or the steps of a value

// 2^14 * o / (1 + o) for o = 2^((i - 20) / 2), rounded.
extern const uint32_t kRowsChances[32];

// One block, whose rows lie in its first lanes. Arrays that are indexed by columns have zeros in front as far as
// neighbours reach. Sums are in units of 2^-12 octaves.
struct RowsBlock {
  // the stream: `words` may be read for kRowsReach bytes while it is at most `limit`
  const uint8_t* words = nullptr;
  const uint8_t* limit = nullptr;
  unsigned lanes = 0;
  alignas(64) uint32_t states[kRowsLanes] = {};

  // the matrix
  unsigned rows = 0;
  size_t columns = 0, group = 0;
  size_t stride = 1;  // where there is none, its weights are 0
  bool flipped = false;
  uint16_t zero = 0;
  uint16_t most_positive = 0, most_negative = 0;  // magnitudes

  // how flags are predicted
  int32_t row_weight = 0, group_weight = 0;
  int32_t left = 0, second_left = 0, above = 0, above_right = 0, above_left = 0;
  const int32_t* flag_base = nullptr;
  // how signs are
  int32_t sign_row_weight = 0, sign_left = 0, sign_above = 0, sign_beside = 0;
  const int32_t* sign_base = nullptr;
  // how the tables of magnitudes are chosen: `steps` holds `tables` x 2^scale_bits, twice when signs have their own
  unsigned tables = 1, table_shift = 0, recent_shift = 1, scale_bits = 8, low_bits = 0;
  bool has_sides = false;
  int32_t table_offset = 0, recent_weight = 0;
  const int32_t* magnitude_base = nullptr;
  const uint32_t* steps = nullptr;  // symbol << 24 | (slot - start) << 12 | frequency - 1

  // what rows have so far; a lane each
  alignas(64) uint32_t row_count[kRowsLanes];
  alignas(64) uint32_t group_count[kRowsLanes];
  alignas(64) uint32_t positive[kRowsLanes];
  alignas(64) uint32_t negative[kRowsLanes];
  alignas(64) uint32_t recent[kRowsLanes];
  size_t column = 0;  // the next one

  // results: a column each, and what columns have so far
  uint16_t* flags = nullptr;    // a bit a lane
  int8_t* signs = nullptr;      // kRowsLanes a column
  uint16_t* indices = nullptr;  // kRowsLanes a column
  uint32_t* flags_of = nullptr;
  uint32_t* positive_of = nullptr;
  uint32_t* negative_of = nullptr;
  uint64_t* magnitude_of = nullptr;
  bool is_bad = false;  // an index is not in the codebook

  uint32_t active() const { return (1U << rows) - 1; }  // a bit a lane
  uint32_t kept(size_t at) const { return flipped ? active() & ~uint32_t{flags[at]} : flags[at]; }
};

// What columns say of the flags of a block before any of its rows is known (FORMAT.md 5.5, q1 to q3).
struct RowsColumns {
  size_t columns = 0, group = 0;
  size_t stride = 0;  // 0 where there is none
  double rows = 0;    // before the block
  double column_trust = 1, near_trust = 1, group_trust = 1;
  uint32_t overall = 0;  // share of flags that are set, in units of 2^-16
  int32_t base = 0, column_weight = 0, row_weight = 0, group_weight = 0;
  const uint32_t* flags_of = nullptr;  // of each column; zeros lie before and behind as far as a stride, or one
  uint32_t* chances = nullptr;         // room for a number a column
  uint32_t* expected = nullptr;        // the same
  int32_t* flag_base = nullptr;        // the result
};

constexpr uint32_t kRowsUnit = 128;            // of the counts of rows
constexpr uint32_t kRowsMostMagnitude = 4095;  // that counts

}  // namespace dcc
#endif  // DCC_ROWS_BLOCK_H_
