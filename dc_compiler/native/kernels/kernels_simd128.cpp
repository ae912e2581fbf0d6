// kernels_simd128.cpp: the kernel set for vectors of 128 bits that look up in a table of 16 bytes: WebAssembly's and
// those of 64-bit ARM. Coder `rows` has loops of its own; the others are what compilers make of the common ones.
#if defined(__wasm_simd128__)
#include <wasm_simd128.h>
#else
#include <arm_neon.h>
#endif

#include "kernels/kernels_common.h"
#include "kernels/sparse_kernels.h"

namespace dcc {
namespace {

typedef uint8_t U8 __attribute__((vector_size(16)));
typedef uint32_t U32 __attribute__((vector_size(16)));
typedef int32_t I32 __attribute__((vector_size(16)));
typedef float F32 __attribute__((vector_size(16)));
typedef uint64_t U64 __attribute__((vector_size(16)));
typedef int8_t I8x4 __attribute__((vector_size(4)));

constexpr unsigned kQuarters = 4;  // of the lanes of a block of rows (rows_block.h)
constexpr unsigned kEach = kRowsLanes / kQuarters;

#if defined(__wasm_simd128__)
// table[at[i]], 0 where that is 16 or more.
inline U8 pick(U8 table, U8 at) {
  return reinterpret_cast<U8>(wasm_i8x16_swizzle(reinterpret_cast<v128_t>(table), reinterpret_cast<v128_t>(at)));
}

inline uint32_t mask_bits(I32 mask) { return wasm_i32x4_bitmask(reinterpret_cast<v128_t>(mask)); }
#else
inline U8 pick(U8 table, U8 at) { return reinterpret_cast<U8>(vqtbl1q_u8(table, at)); }

inline uint32_t mask_bits(I32 mask) {
  const I32 bits = {1, 2, 4, 8};
  return vaddvq_u32(reinterpret_cast<uint32x4_t>(mask & bits));
}
#endif

inline U8 bytes_of(U32 numbers) { return reinterpret_cast<U8>(numbers); }
inline U32 unsigned_of(I32 numbers) { return reinterpret_cast<U32>(numbers); }
inline I32 signed_of(U32 numbers) { return reinterpret_cast<I32>(numbers); }

inline U32 splat(uint32_t number) { return U32{number, number, number, number}; }
inline I32 splat(int32_t number) { return I32{number, number, number, number}; }

inline U32 choose(I32 mask, U32 one, U32 other) { return (unsigned_of(mask) & one) | (unsigned_of(~mask) & other); }
inline I32 choose(I32 mask, I32 one, I32 other) { return (mask & one) | (~mask & other); }

inline I32 where(I32 mask, int32_t weight) { return mask & splat(weight); }

inline I32 between(I32 numbers, int32_t least, int32_t most) {
  const I32 low = splat(least), high = splat(most);
  const I32 bounded = choose(numbers < low, low, numbers);
  return choose(bounded > high, high, bounded);
}

// All bits of the lanes of a quarter whose bit is set.
inline I32 lane_mask(uint32_t flags, unsigned quarter) {
  const U32 bits = {1, 2, 4, 8};
  return (splat(flags >> (kEach * quarter)) & bits) != 0;
}

// For each mask of lanes to refill: from which bytes of the next words each lane takes its own; what is no byte gives
// 0.
struct RefillOrders {
  alignas(16) uint8_t bytes[16][16];
};

constexpr RefillOrders make_refill_orders() {
  RefillOrders orders{};
  for (unsigned mask = 0; mask < 16; ++mask) {
    uint8_t next = 0;
    for (unsigned lane = 0; lane < 4; ++lane) {
      const bool refills = (mask >> lane & 1) != 0;
      for (unsigned byte = 0; byte < 4; ++byte) {
        orders.bytes[mask][4 * lane + byte] = refills && byte < 2 ? next++ : uint8_t{0xFF};
      }
    }
  }
  return orders;
}

constexpr RefillOrders kRefillOrders = make_refill_orders();

// rows_log2 of numbers below 2^24: exponent and mantissa of a float are that line, shifted by its bias.
inline I32 rows_logs(U32 numbers) {
  const F32 floats = __builtin_convertvector(signed_of(numbers), F32);
  return signed_of(reinterpret_cast<U32>(floats) >> 17) - 127 * 64;
}

// rows_chance of all lanes. A byte tells which one, so 16 are looked up at a time: that of quarter q is byte q of its
// lane.
class Chances {
 public:
  Chances() {
    uint8_t low[32], high[32];
    for (unsigned i = 0; i < 32; ++i) {
      low[i] = static_cast<uint8_t>(kRowsChances[i]);
      high[i] = static_cast<uint8_t>(kRowsChances[i] >> 8);
    }
    for (unsigned half = 0; half < 2; ++half) {
      low_[half] = load_at<U8>(low + 16 * half);
      high_[half] = load_at<U8>(high + 16 * half);
    }
  }

  void of(const I32 (&sums)[kQuarters], U32 (&chances)[kQuarters]) const {
    U32 places = {};
    for (unsigned q = 0; q < kQuarters; ++q) {
      places |= unsigned_of(between((sums[q] + ((20 << 11) + 1024)) >> 11, 0, 31)) << (8 * q);
    }
    const U8 at = bytes_of(places);
    const U32 low = reinterpret_cast<U32>(pick(low_[0], at) | pick(low_[1], at - 16));
    const U32 high = reinterpret_cast<U32>(pick(high_[0], at) | pick(high_[1], at - 16));
    for (unsigned q = 0; q < kQuarters; ++q) {
      chances[q] = (low >> (8 * q) & 0xFF) | (high >> (8 * q) & 0xFF) << 8;
    }
  }

 private:
  U8 low_[2], high_[2];
};

// The states of a quarter of the lanes.
class RowsQuarter {
 public:
  RowsQuarter() = default;
  RowsQuarter(const RowsBlock& block, unsigned quarter) : state_(load_at<U32>(block.states + kEach * quarter)) {}

  // Which of some lanes decode a one, whose probability is `p`.
  I32 bits(U32 p, I32 lanes, const uint8_t*& words) {
    const U32 slot = state_ & ((1U << kRowsBits) - 1);
    const I32 one = slot < p;
    const U32 frequency = choose(one, p, (1U << kRowsBits) - p);
    const U32 offset = slot - (p & unsigned_of(~one));
    advance(frequency * (state_ >> kRowsBits) + offset, lanes, words);
    return one & lanes;
  }

  // Symbols of the tables that begin at `first`.
  U32 symbols(const RowsBlock& block, U32 first, I32 lanes, const uint8_t*& words) {
    const U32 at = first + (state_ & ((1U << block.scale_bits) - 1));
    const U32 step = {block.steps[at[0]], block.steps[at[1]], block.steps[at[2]], block.steps[at[3]]};
    const U32 rest = state_ >> block.scale_bits;
    advance((step & 0xFFF) * rest + (rest + (step >> 12 & 0xFFF)), lanes, words);
    return step >> 24;
  }

  U32 lows(const RowsBlock& block, I32 lanes, const uint8_t*& words) {
    const U32 low = state_ & ((1U << block.low_bits) - 1);
    advance(state_ >> block.low_bits, lanes, words);
    return low;
  }

  void store(RowsBlock& block, unsigned quarter) const {
    std::memcpy(block.states + kEach * quarter, &state_, sizeof state_);
  }

 private:
  void advance(U32 x, I32 lanes, const uint8_t*& words) {
    const I32 refill = (x < 0x10000) & lanes;
    const uint32_t which = mask_bits(refill);
    const U64 next = {load_at<uint64_t>(words), 0};
    const U32 word = reinterpret_cast<U32>(pick(reinterpret_cast<U8>(next), load_at<U8>(kRefillOrders.bytes[which])));
    state_ = choose(lanes, choose(refill, x << 16 | word, x), state_);
    words += 2 * static_cast<size_t>(__builtin_popcount(which));
  }

  U32 state_ = {};
};

// One of the arrays of a block that have a number a lane.
class Lanes {
 public:
  explicit Lanes(const uint32_t* from) { std::memcpy(numbers_, from, sizeof numbers_); }
  U32& operator[](unsigned quarter) { return numbers_[quarter]; }
  void store(uint32_t* to) const { std::memcpy(to, numbers_, sizeof numbers_); }

 private:
  U32 numbers_[kQuarters];
};

unsigned quarters_of(const RowsBlock& block) { return (block.rows + kEach - 1) / kEach; }

void rows_flags_simd128(RowsBlock& block) {
  const Chances chances;
  const unsigned used = quarters_of(block);
  RowsQuarter states[kQuarters];
  I32 active[kQuarters];
  for (unsigned q = 0; q < kQuarters; ++q) {
    states[q] = {block, q};
    active[q] = lane_mask(block.active(), q);
  }
  Lanes row_count(block.row_count), group_count(block.group_count);
  size_t left_in_group = block.group - block.column % block.group;
  const bool has_stride = block.stride > 1, has_group = block.group_weight != 0;
  const uint8_t* words = block.words;
  for (; block.column < block.columns && words <= block.limit; ++block.column) {
    uint16_t* const at = block.flags + block.column;
    I32 sums[kQuarters];
    for (unsigned q = 0; q < kQuarters; ++q) {
      I32 sum = splat(block.flag_base[block.column]) + where(lane_mask(*(at - 1), q), block.left) +
                where(lane_mask(*(at - 2), q), block.second_left) + block.row_weight * rows_logs(row_count[q]);
      if (has_stride) {
        sum += where(lane_mask(*(at - block.stride), q), block.above) +
               where(lane_mask(*(at - block.stride + 1), q), block.above_right) +
               where(lane_mask(*(at - block.stride - 1), q), block.above_left);
      }
      if (has_group) sum += block.group_weight * rows_logs(group_count[q]);
      sums[q] = sum;
    }
    U32 p[kQuarters];
    chances.of(sums, p);
    uint32_t found = 0;
    for (unsigned q = 0; q < used; ++q) {
      const I32 flags = states[q].bits(p[q], active[q], words);
      const U32 step = unsigned_of(where(flags, kRowsUnit));
      row_count[q] += step;
      group_count[q] += step;
      found |= mask_bits(flags) << (kEach * q);
    }
    *at = static_cast<uint16_t>(found);
    block.flags_of[block.column] += static_cast<uint32_t>(__builtin_popcount(found));
    if (--left_in_group == 0) {
      left_in_group = block.group;
      for (unsigned q = 0; q < kQuarters; ++q) group_count[q] = splat(kRowsUnit);
    }
  }
  row_count.store(block.row_count);
  group_count.store(block.group_count);
  for (unsigned q = 0; q < kQuarters; ++q) states[q].store(block, q);
  block.words = words;
}

inline I32 signs_at(const int8_t* at, ptrdiff_t columns) {
  return __builtin_convertvector(load_at<I8x4>(at + columns * ptrdiff_t{kRowsLanes}), I32);
}

// What the signs of neighbours, at `signs` and before, and of the row say.
inline I32 sign_sums(const RowsBlock& block, const int8_t* signs, U32 positive, U32 negative, int32_t base) {
  const auto stride = static_cast<ptrdiff_t>(block.stride);
  const auto twice_and_once = [signs](ptrdiff_t columns) {
    return 2 * signs_at(signs, -columns) + signs_at(signs, -2 * columns);
  };
  const I32 sums =
      base + block.sign_left * twice_and_once(1) + block.sign_row_weight * (rows_logs(positive) - rows_logs(negative));
  if (stride == 1) return sums;
  return sums + block.sign_above * twice_and_once(stride) +
         block.sign_beside * (signs_at(signs, 1 - stride) + signs_at(signs, -1 - stride));
}

inline U32 tables_of(const RowsBlock& block, size_t c, U32 recent, I32 negative) {
  const I32 side = where(negative, block.has_sides ? static_cast<int32_t>(block.tables) : 0);
  if (block.tables == 1) return unsigned_of(side);
  const I32 sum = block.magnitude_base[c] + block.table_offset + block.recent_weight * rows_logs(recent);
  return unsigned_of(
      between(sum >> static_cast<int32_t>(block.table_shift), 0, static_cast<int32_t>(block.tables) - 1) + side);
}

void rows_values_simd128(RowsBlock& block) {
  const Chances chances;
  const bool has_signs = block.most_negative != 0 && block.most_positive != 0;
  const unsigned used = quarters_of(block);
  RowsQuarter states[kQuarters];
  for (unsigned q = 0; q < kQuarters; ++q) states[q] = {block, q};
  Lanes positive_count(block.positive), negative_count(block.negative), recent(block.recent);
  const uint8_t* words = block.words;
  I32 bad = {};
  for (; block.column < block.columns && words <= block.limit; ++block.column) {
    const size_t c = block.column;
    const uint32_t all_kept = block.kept(c);
    if (all_kept == 0) continue;
    int8_t* const signs = block.signs + c * kRowsLanes;
    I32 kept[kQuarters], positive[kQuarters], negative[kQuarters];
    for (unsigned q = 0; q < kQuarters; ++q) {
      kept[q] = lane_mask(all_kept, q);
      positive[q] = block.most_negative == 0 ? kept[q] : I32{};
    }
    if (has_signs) {
      I32 sums[kQuarters];
      for (unsigned q = 0; q < kQuarters; ++q) {
        sums[q] = sign_sums(block, signs + kEach * q, positive_count[q], negative_count[q], block.sign_base[c]);
      }
      U32 p[kQuarters];
      chances.of(sums, p);
      for (unsigned q = 0; q < used; ++q) positive[q] = states[q].bits(p[q], kept[q], words);
    }
    U32 magnitude[kQuarters] = {};
    for (unsigned q = 0; q < used; ++q) {
      negative[q] = kept[q] & ~positive[q];
      positive_count[q] += unsigned_of(where(positive[q], kRowsUnit));
      negative_count[q] += unsigned_of(where(negative[q], kRowsUnit));
      const U32 first = tables_of(block, c, recent[q], negative[q]) << block.scale_bits;
      magnitude[q] = states[q].symbols(block, first, kept[q], words);
    }
    for (unsigned q = 0; block.low_bits > 0 && q < used; ++q) {
      magnitude[q] = magnitude[q] << block.low_bits | states[q].lows(block, kept[q], words);
    }
    uint32_t all_positive = 0;
    for (unsigned q = 0; q < used; ++q) {
      const I32 size = signed_of(magnitude[q]) + 1;
      const I32 most = choose(positive[q], splat(int32_t{block.most_positive}), splat(int32_t{block.most_negative}));
      bad |= kept[q] & (size > most);
      const I32 step = ((size ^ negative[q]) - negative[q]) & kept[q];  // its negative: bits inverted and one more
      const I32 index = step + splat(int32_t{block.zero});
      const I32 sign = negative[q] - positive[q];  // 1 where positive, -1 where negative
      // an index is below 2^16, what a frame that is refused makes of it is cut off
      const U8 indices = pick(bytes_of(unsigned_of(index)), U8{0, 1, 4, 5, 8, 9, 12, 13});
      std::memcpy(block.indices + c * kRowsLanes + kEach * q, &indices, kEach * sizeof(uint16_t));
      const U8 bytes = pick(bytes_of(unsigned_of(sign)), U8{0, 4, 8, 12});
      std::memcpy(signs + kEach * q, &bytes, kEach);
      all_positive |= mask_bits(positive[q]) << (kEach * q);
      if (block.tables == 1) continue;
      const I32 counted = between(size, 0, kRowsMostMagnitude);
      const I32 sum = counted & kept[q];
      block.magnitude_of[c] += static_cast<uint32_t>(sum[0] + sum[1] + sum[2] + sum[3]);
      const U32 next =
          recent[q] - (recent[q] >> block.recent_shift) + (unsigned_of(counted) << (10 - block.recent_shift));
      recent[q] = choose(kept[q], next, recent[q]);
    }
    block.positive_of[c] += static_cast<uint32_t>(__builtin_popcount(all_positive));
    block.negative_of[c] += static_cast<uint32_t>(__builtin_popcount(all_kept & ~all_positive));
  }
  positive_count.store(block.positive);
  negative_count.store(block.negative);
  recent.store(block.recent);
  for (unsigned q = 0; q < kQuarters; ++q) states[q].store(block, q);
  block.words = words;
  block.is_bad |= mask_bits(bad) != 0;
}

}  // namespace

const Kernels kSimd128Kernels = {"simd128",         rans_scalar,           rans_not_two,          huffman_scalar,
                                 rows_columns_loop, rows_flags_simd128,    rows_values_simd128,   rows_transpose_loop,
                                 unpack_loop,       lookup_loop<uint16_t>, lookup_loop<uint32_t>, lookup_loop<uint64_t>,
                                 scale_loop<float>, scale_loop<double>,    float16_loop,          bfloat16_loop,
                                 count_other_loop,  &kPortableSparse};

}  // namespace dcc
