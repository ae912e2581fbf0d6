// kernels_avx2.cpp: the kernel set for AVX2, BMI2, LZCNT and F16C.
#include <immintrin.h>

#include "kernels/kernels_common.h"
#include "kernels/sparse_kernels.h"

namespace dcc {
namespace {

// For each mask of lanes to refill: from which word each of 8 lanes takes its bits.
struct RefillOrders {
  alignas(8) uint8_t word[256][8];
};

constexpr RefillOrders make_refill_orders() {
  RefillOrders orders{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    uint8_t next = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      orders.word[mask][lane] = next;
      if ((mask >> lane & 1) != 0) ++next;
    }
  }
  return orders;
}

constexpr RefillOrders kRefillOrders = make_refill_orders();

inline const int* as_ints(const void* from) { return static_cast<const int*>(from); }

// One symbol of 8 lanes (FORMAT.md 5.2); returns the symbols as 32-bit numbers.
template <bool kPacked>
inline __m256i rans_step8(const RansTable& table, __m256i& state, const uint8_t*& words) {
  const int field = kPacked ? static_cast<int>(table.field_bits) : 16;
  const __m128i s = _mm_cvtsi32_si128(static_cast<int>(table.scale_bits));
  const __m256i field_mask = _mm256_set1_epi32((1 << field) - 1);
  const __m256i slot = _mm256_and_si256(state, _mm256_set1_epi32((1 << table.scale_bits) - 1));
  const __m256i step = _mm256_i32gather_epi32(as_ints(kPacked ? table.packed : table.steps), slot, 4);
  const __m256i rest = _mm256_srl_epi32(state, s);
  const __m256i less = _mm256_and_si256(step, field_mask);  // frequency - 1
  const __m256i offset = _mm256_and_si256(_mm256_srl_epi32(step, _mm_cvtsi32_si128(field)), field_mask);
  // frequency * rest + offset, of which the sum is ready before the product
  const __m256i x = _mm256_add_epi32(_mm256_mullo_epi32(less, rest), _mm256_add_epi32(rest, offset));

  const __m256i refill = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
  const unsigned lanes = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(refill)));
  const __m256i next = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words)));
  const __m256i order =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kRefillOrders.word[lanes])));
  const __m256i word = _mm256_permutevar8x32_epi32(next, order);
  state = _mm256_blendv_epi8(x, _mm256_or_si256(_mm256_slli_epi32(x, 16), word), refill);
  words += 2 * static_cast<size_t>(__builtin_popcount(lanes));

  if (kPacked) return _mm256_srl_epi32(step, _mm_cvtsi32_si128(2 * field));
  return _mm256_and_si256(_mm256_i32gather_epi32(as_ints(table.symbols), slot, 2), _mm256_set1_epi32(0xFFFF));
}

// kVectors vectors of 8 lanes.
template <bool kPacked, unsigned kVectors>
size_t rans_vectors(RansRun& run, size_t groups) {
  const RansTable table = run.table;
  auto* const stored = reinterpret_cast<__m256i*>(run.states);
  __m256i state[kVectors];
  for (unsigned v = 0; v < kVectors; ++v) state[v] = _mm256_loadu_si256(stored + v);
  const uint8_t* at = run.words;
  uint16_t* out = run.out;
  size_t done = 0;
  for (; done < groups && run.end - at >= static_cast<ptrdiff_t>(16 * kVectors); ++done, out += 8 * kVectors) {
    for (unsigned v = 0; v < kVectors; v += 2) {
      const __m256i first = rans_step8<kPacked>(table, state[v], at);
      const __m256i second = rans_step8<kPacked>(table, state[v + 1], at);
      const __m256i symbols = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xD8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * v), symbols);
    }
  }
  for (unsigned v = 0; v < kVectors; ++v) _mm256_storeu_si256(stored + v, state[v]);
  run.words = at;
  return done;
}

size_t rans_avx2(RansRun& run, size_t groups) {
  const bool packed = run.table.packed != nullptr;
  switch (run.lanes) {
    case 32: return (packed ? rans_vectors<true, 4> : rans_vectors<false, 4>)(run, groups);
    case 16: return (packed ? rans_vectors<true, 2> : rans_vectors<false, 2>)(run, groups);
    default: return rans_scalar(run, groups);
  }
}

void float16_avx2(const float* values, uint16_t* out, size_t count) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
  }
  float16_loop(values + i, out + i, count - i);
}

// 8 numbers lie in `width` bytes: 4 bytes around each, shifted.
size_t unpack_avx2(const uint8_t* bytes, size_t size, unsigned width, uint16_t* out, size_t count) {
  alignas(32) uint8_t byte[32];
  alignas(32) uint32_t shift[8];
  for (unsigned j = 0; j < 8; ++j) {
    // of the last 3 bytes, as the window of 16 bytes ends; a number ends before that window does
    for (unsigned b = 0; b < 4; ++b)
      byte[4 * j + b] = static_cast<uint8_t>(j * width / 8 + b < 16 ? j * width / 8 + b : 0x80);
    shift[j] = j * width % 8;
  }
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(byte));
  const __m256i shifts = _mm256_load_si256(reinterpret_cast<const __m256i*>(shift));
  const __m256i mask = _mm256_set1_epi32((1 << width) - 1);
  const auto eight = [&](const uint8_t* from) {
    const __m128i window = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    const __m256i spread = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(window), order);
    return _mm256_and_si256(_mm256_srlv_epi32(spread, shifts), mask);
  };
  size_t done = 0;
  for (; count - done >= 16 && size >= width + 16; done += 16, bytes += 2 * width, size -= 2 * width) {
    const __m256i numbers = _mm256_packus_epi32(eight(bytes), eight(bytes + width));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + done), _mm256_permute4x64_epi64(numbers, 0xD8));
  }
  return done + unpack_loop(bytes, size, width, out + done, count - done);
}

// Tables of up to 32 entries stay in registers: 3 bits of an index choose within each, the next two between them.
size_t lookup32_vectors(const Codebook<uint32_t>& codebook, const uint16_t* indices, uint32_t* out, size_t count) {
  __m256 parts[4];
  for (unsigned v = 0; v < 4; ++v) parts[v] = _mm256_loadu_ps(reinterpret_cast<const float*>(codebook.table) + 8 * v);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i index = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(indices + i)));
    const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 as the sign
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 27));
    const __m256 low =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(parts[0], index), _mm256_permutevar8x32_ps(parts[1], index), second);
    const __m256 high =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(parts[2], index), _mm256_permutevar8x32_ps(parts[3], index), second);
    _mm256_storeu_ps(reinterpret_cast<float*>(out + i), _mm256_blendv_ps(low, high, upper));
  }
  return i;
}

// For more, loads one by one take less time than the gathers that the compiler makes of them here.
void lookup32_avx2(const Codebook<uint32_t>& codebook, const uint16_t* indices, uint32_t* out, size_t count) {
  const size_t done = codebook.entries <= 32 ? lookup32_vectors(codebook, indices, out, count) : 0;
  kPortableKernels.lookup32(codebook, indices + done, out + done, count - done);
}

// Eight of the lanes of a block of rows (rows_block.h), the first or the last.
inline __m256i lane_bits(unsigned half) {
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return half == 0 ? bits : _mm256_slli_epi32(bits, 8);
}

// All bits of the lanes whose bit is set.
inline __m256i lane_mask(uint32_t flags, __m256i bits) {
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(flags)), bits), bits);
}

inline uint32_t mask_bits(__m256i mask) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(mask))); }

inline __m256i where(__m256i mask, int32_t weight) { return _mm256_and_si256(mask, _mm256_set1_epi32(weight)); }

// rows_log2 of numbers below 2^24: exponent and mantissa of a float are that line, shifted by its bias.
inline __m256i rows_logs(__m256i numbers) {
  const __m256i bits = _mm256_castps_si256(_mm256_cvtepi32_ps(numbers));
  return _mm256_sub_epi32(_mm256_srli_epi32(bits, 17), _mm256_set1_epi32(127 * 64));
}

inline __m256i load8(const uint32_t* from) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(from)); }

inline void store8(uint32_t* to, __m256i numbers) { _mm256_store_si256(reinterpret_cast<__m256i*>(to), numbers); }

// The states of eight lanes.
class RowsHalf {
 public:
  RowsHalf(const RowsBlock& block, unsigned half) : block_(block), state_(load8(block.states + 8 * half)) {}

  // Which of some lanes decode a one, by what sums say (rows_chance).
  __m256i bits(__m256i sums, __m256i lanes, const uint8_t*& words) {
    __m256i at = _mm256_srai_epi32(_mm256_add_epi32(sums, _mm256_set1_epi32((20 << 11) + 1024)), 11);
    at = _mm256_max_epi32(_mm256_min_epi32(at, _mm256_set1_epi32(31)), _mm256_setzero_si256());
    const __m256i p = _mm256_i32gather_epi32(as_ints(kRowsChances), at, 4);
    const __m256i slot = _mm256_and_si256(state_, _mm256_set1_epi32((1 << kRowsBits) - 1));
    const __m256i one = _mm256_cmpgt_epi32(p, slot);
    const __m256i frequency = _mm256_blendv_epi8(_mm256_sub_epi32(_mm256_set1_epi32(1 << kRowsBits), p), p, one);
    const __m256i offset = _mm256_sub_epi32(slot, _mm256_andnot_si256(one, p));
    const __m256i rest = _mm256_srli_epi32(state_, kRowsBits);
    advance(_mm256_add_epi32(_mm256_mullo_epi32(frequency, rest), offset), lanes, words);
    return _mm256_and_si256(one, lanes);
  }

  // Symbols of the tables that begin at `first`.
  __m256i symbols(__m256i first, __m256i lanes, const uint8_t*& words) {
    const __m128i s = _mm_cvtsi32_si128(static_cast<int>(block_.scale_bits));
    const __m256i slot = _mm256_and_si256(state_, _mm256_set1_epi32((1 << block_.scale_bits) - 1));
    const __m256i step = _mm256_i32gather_epi32(as_ints(block_.steps), _mm256_add_epi32(first, slot), 4);
    const __m256i field = _mm256_set1_epi32(0xFFF);
    const __m256i rest = _mm256_srl_epi32(state_, s);
    const __m256i offset = _mm256_and_si256(_mm256_srli_epi32(step, 12), field);
    const __m256i less = _mm256_and_si256(step, field);
    advance(_mm256_add_epi32(_mm256_mullo_epi32(less, rest), _mm256_add_epi32(rest, offset)), lanes, words);
    return _mm256_srli_epi32(step, 24);
  }

  __m256i lows(__m256i lanes, const uint8_t*& words) {
    const __m256i low = _mm256_and_si256(state_, _mm256_set1_epi32((1 << block_.low_bits) - 1));
    advance(_mm256_srl_epi32(state_, _mm_cvtsi32_si128(static_cast<int>(block_.low_bits))), lanes, words);
    return low;
  }

  __m256i state() const { return state_; }

 private:
  void advance(__m256i x, __m256i lanes, const uint8_t*& words) {
    const __m256i is_low = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
    const __m256i refill = _mm256_and_si256(is_low, lanes);
    const uint32_t which = mask_bits(refill);
    const __m256i next = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words)));
    const __m256i order =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kRefillOrders.word[which])));
    const __m256i word = _mm256_permutevar8x32_epi32(next, order);
    state_ = _mm256_blendv_epi8(state_, x, lanes);
    state_ = _mm256_blendv_epi8(state_, _mm256_or_si256(_mm256_slli_epi32(x, 16), word), refill);
    words += 2 * static_cast<size_t>(__builtin_popcount(which));
  }

  const RowsBlock& block_;
  __m256i state_;
};

void rows_flags_avx2(RowsBlock& block) {
  RowsHalf halves[2] = {{block, 0}, {block, 1}};
  const __m256i bits[2] = {lane_bits(0), lane_bits(1)};
  const __m256i active[2] = {lane_mask(block.active(), bits[0]), lane_mask(block.active(), bits[1])};
  const unsigned used = block.rows > 8 ? 2 : 1;
  const __m256i row_weight = _mm256_set1_epi32(block.row_weight);
  const __m256i group_weight = _mm256_set1_epi32(block.group_weight);
  __m256i row_count[2] = {load8(block.row_count), load8(block.row_count + 8)};
  __m256i group_count[2] = {load8(block.group_count), load8(block.group_count + 8)};
  size_t left_in_group = block.group - block.column % block.group;
  const bool has_stride = block.stride > 1, has_group = block.group_weight != 0;
  const uint8_t* words = block.words;
  for (; block.column < block.columns && words <= block.limit; ++block.column) {
    uint16_t* const at = block.flags + block.column;
    const __m256i base = _mm256_set1_epi32(block.flag_base[block.column]);
    uint32_t found = 0;
    for (unsigned h = 0; h < used; ++h) {
      __m256i sums = _mm256_add_epi32(base, where(lane_mask(*(at - 1), bits[h]), block.left));
      sums = _mm256_add_epi32(sums, where(lane_mask(*(at - 2), bits[h]), block.second_left));
      if (has_stride) {
        sums = _mm256_add_epi32(sums, where(lane_mask(*(at - block.stride), bits[h]), block.above));
        sums = _mm256_add_epi32(sums, where(lane_mask(*(at - block.stride + 1), bits[h]), block.above_right));
        sums = _mm256_add_epi32(sums, where(lane_mask(*(at - block.stride - 1), bits[h]), block.above_left));
      }
      sums = _mm256_add_epi32(sums, _mm256_mullo_epi32(row_weight, rows_logs(row_count[h])));
      if (has_group) sums = _mm256_add_epi32(sums, _mm256_mullo_epi32(group_weight, rows_logs(group_count[h])));
      const __m256i flags = halves[h].bits(sums, active[h], words);
      const __m256i step = where(flags, kRowsUnit);
      row_count[h] = _mm256_add_epi32(row_count[h], step);
      group_count[h] = _mm256_add_epi32(group_count[h], step);
      found |= mask_bits(flags) << (8 * h);
    }
    *at = static_cast<uint16_t>(found);
    block.flags_of[block.column] += static_cast<uint32_t>(__builtin_popcount(found));
    if (--left_in_group == 0) {
      left_in_group = block.group;
      group_count[0] = group_count[1] = _mm256_set1_epi32(kRowsUnit);
    }
  }
  for (unsigned h = 0; h < 2; ++h) {
    store8(block.row_count + 8 * h, row_count[h]);
    store8(block.group_count + 8 * h, group_count[h]);
    store8(block.states + 8 * h, halves[h].state());
  }
  block.words = words;
}

inline __m256i signs_at(const int8_t* at, ptrdiff_t columns) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + columns * kRowsLanes)));
}

inline __m256i weighed(int32_t weight, __m256i numbers) {
  return _mm256_mullo_epi32(_mm256_set1_epi32(weight), numbers);
}

// What the signs of neighbours, at `signs` and before, and of the row say.
inline __m256i sign_sums(const RowsBlock& block, const int8_t* signs, __m256i positive, __m256i negative,
                         int32_t base) {
  const auto stride = static_cast<ptrdiff_t>(block.stride);
  const auto twice_and_once = [signs](ptrdiff_t columns) {
    return _mm256_add_epi32(_mm256_slli_epi32(signs_at(signs, -columns), 1), signs_at(signs, -2 * columns));
  };
  __m256i sums = _mm256_add_epi32(_mm256_set1_epi32(base), weighed(block.sign_left, twice_and_once(1)));
  sums = _mm256_add_epi32(sums,
                          weighed(block.sign_row_weight, _mm256_sub_epi32(rows_logs(positive), rows_logs(negative))));
  if (stride == 1) return sums;
  const __m256i beside = _mm256_add_epi32(signs_at(signs, 1 - stride), signs_at(signs, -1 - stride));
  sums = _mm256_add_epi32(sums, weighed(block.sign_above, twice_and_once(stride)));
  return _mm256_add_epi32(sums, weighed(block.sign_beside, beside));
}

inline __m256i tables_of(const RowsBlock& block, size_t c, __m256i recent, __m256i negative) {
  const __m256i side = where(negative, block.has_sides ? static_cast<int32_t>(block.tables) : 0);
  if (block.tables == 1) return side;
  const __m256i base = _mm256_set1_epi32(block.magnitude_base[c] + block.table_offset);
  __m256i table = _mm256_add_epi32(base, weighed(block.recent_weight, rows_logs(recent)));
  table = _mm256_sra_epi32(table, _mm_cvtsi32_si128(static_cast<int>(block.table_shift)));
  const __m256i last = _mm256_set1_epi32(static_cast<int>(block.tables) - 1);
  return _mm256_add_epi32(_mm256_max_epi32(_mm256_min_epi32(table, last), _mm256_setzero_si256()), side);
}

inline uint32_t sum_of(__m256i numbers) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1))));
}

void rows_values_avx2(RowsBlock& block) {
  RowsHalf halves[2] = {{block, 0}, {block, 1}};
  const bool has_signs = block.most_negative != 0 && block.most_positive != 0;
  const unsigned used = block.rows > 8 ? 2 : 1;
  __m256i positive_count[2] = {load8(block.positive), load8(block.positive + 8)};
  __m256i negative_count[2] = {load8(block.negative), load8(block.negative + 8)};
  __m256i recent[2] = {load8(block.recent), load8(block.recent + 8)};
  const __m128i scale_bits = _mm_cvtsi32_si128(static_cast<int>(block.scale_bits));
  const __m128i low_bits = _mm_cvtsi32_si128(static_cast<int>(block.low_bits));
  const __m128i recent_shift = _mm_cvtsi32_si128(static_cast<int>(block.recent_shift));
  const __m128i recent_scale = _mm_cvtsi32_si128(static_cast<int>(10 - block.recent_shift));
  const __m256i zero = _mm256_set1_epi32(block.zero);
  const uint8_t* words = block.words;
  __m256i bad = _mm256_setzero_si256();
  for (; block.column < block.columns && words <= block.limit; ++block.column) {
    const size_t c = block.column;
    const uint32_t all_kept = block.kept(c);
    if (all_kept == 0) continue;
    int8_t* const signs = block.signs + c * kRowsLanes;
    __m256i kept[2], positive[2], negative[2], magnitude[2], index[2] = {zero, zero};
    for (unsigned h = 0; h < used; ++h) {
      kept[h] = lane_mask(all_kept, lane_bits(h));
      positive[h] = block.most_negative == 0 ? kept[h] : _mm256_setzero_si256();
      if (has_signs) {
        const __m256i sums = sign_sums(block, signs + 8 * h, positive_count[h], negative_count[h], block.sign_base[c]);
        positive[h] = halves[h].bits(sums, kept[h], words);
      }
      negative[h] = _mm256_andnot_si256(positive[h], kept[h]);
      positive_count[h] = _mm256_add_epi32(positive_count[h], where(positive[h], kRowsUnit));
      negative_count[h] = _mm256_add_epi32(negative_count[h], where(negative[h], kRowsUnit));
    }
    for (unsigned h = 0; h < used; ++h) {
      const __m256i table = tables_of(block, c, recent[h], negative[h]);
      magnitude[h] = halves[h].symbols(_mm256_sll_epi32(table, scale_bits), kept[h], words);
    }
    for (unsigned h = 0; block.low_bits > 0 && h < used; ++h) {
      magnitude[h] = _mm256_or_si256(_mm256_sll_epi32(magnitude[h], low_bits), halves[h].lows(kept[h], words));
    }
    uint32_t all_positive = 0;
    for (unsigned h = 0; h < used; ++h) {
      const __m256i size = _mm256_add_epi32(magnitude[h], _mm256_set1_epi32(1));
      const __m256i most = _mm256_blendv_epi8(_mm256_set1_epi32(block.most_negative),
                                              _mm256_set1_epi32(block.most_positive), positive[h]);
      bad = _mm256_or_si256(bad, _mm256_and_si256(kept[h], _mm256_cmpgt_epi32(size, most)));
      // size, or its negative: its bits inverted and one more
      const __m256i step = _mm256_sub_epi32(_mm256_xor_si256(size, negative[h]), negative[h]);
      index[h] = _mm256_add_epi32(zero, _mm256_and_si256(step, kept[h]));
      all_positive |= mask_bits(positive[h]) << (8 * h);
      if (block.tables == 1) continue;
      const __m256i counted = _mm256_min_epi32(size, _mm256_set1_epi32(kRowsMostMagnitude));
      block.magnitude_of[c] += sum_of(_mm256_and_si256(counted, kept[h]));
      const __m256i next = _mm256_add_epi32(_mm256_sub_epi32(recent[h], _mm256_srl_epi32(recent[h], recent_shift)),
                                            _mm256_sll_epi32(counted, recent_scale));
      recent[h] = _mm256_blendv_epi8(recent[h], next, kept[h]);
    }
    // an index is below 2^16, what a frame that is refused makes of it is cut off
    const __m256i low_half = _mm256_set1_epi32(0xFFFF);
    const __m256i indices =
        _mm256_packus_epi32(_mm256_and_si256(index[0], low_half), _mm256_and_si256(index[1], low_half));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block.indices + c * kRowsLanes),
                        _mm256_permute4x64_epi64(indices, 0xD8));
    for (unsigned h = 0; h < used; ++h) {
      // 1 where positive, -1 where negative
      const __m256i sign = _mm256_sub_epi32(negative[h], positive[h]);
      const __m128i words16 = _mm_packs_epi32(_mm256_castsi256_si128(sign), _mm256_extracti128_si256(sign, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(signs + 8 * h), _mm_packs_epi16(words16, words16));
    }
    block.positive_of[c] += static_cast<uint32_t>(__builtin_popcount(all_positive));
    block.negative_of[c] += static_cast<uint32_t>(__builtin_popcount(all_kept & ~all_positive));
  }
  for (unsigned h = 0; h < 2; ++h) {
    store8(block.positive + 8 * h, positive_count[h]);
    store8(block.negative + 8 * h, negative_count[h]);
    store8(block.recent + 8 * h, recent[h]);
    store8(block.states + 8 * h, halves[h].state());
  }
  block.words = words;
  block.is_bad |= mask_bits(bad) != 0;
}

}  // namespace

const Kernels kAvx2Kernels = {"avx2",
                              rans_avx2,
                              rans_not_two,
                              huffman_scalar,
                              rows_columns_loop,
                              rows_flags_avx2,
                              rows_values_avx2,
                              rows_transpose_loop,
                              unpack_avx2,
                              lookup_loop<uint16_t>,
                              lookup32_avx2,
                              lookup_loop<uint64_t>,
                              scale_loop<float>,
                              scale_loop<double>,
                              float16_avx2,
                              bfloat16_loop,
                              count_other_loop,
                              &kAvx2Sparse};

}  // namespace dcc
