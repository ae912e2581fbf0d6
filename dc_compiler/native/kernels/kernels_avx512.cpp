// kernels_avx512.cpp: the kernel set for AVX-512 F, BW, VL, DQ, VBMI and VBMI2.
#include <immintrin.h>

#include "kernels/kernels_common.h"
#include "kernels/sparse_kernels.h"

namespace dcc {
namespace {

// One symbol of 16 lanes (FORMAT.md 5.2): the words go to the lanes that need one by vpexpandd.
template <bool kPacked>
inline __m256i rans_step16(const RansTable& table, __m512i& state, const uint8_t*& words) {
  const int field = kPacked ? static_cast<int>(table.field_bits) : 16;
  const __m128i s = _mm_cvtsi32_si128(static_cast<int>(table.scale_bits));
  const __m512i field_mask = _mm512_set1_epi32((1 << field) - 1);
  const __m512i slot = _mm512_and_si512(state, _mm512_set1_epi32((1 << table.scale_bits) - 1));
  const __m512i step = _mm512_i32gather_epi32(slot, kPacked ? table.packed : table.steps, 4);
  const __m512i rest = _mm512_srl_epi32(state, s);
  const __m512i less = _mm512_and_si512(step, field_mask);  // frequency - 1
  const __m512i offset = _mm512_and_si512(_mm512_srl_epi32(step, _mm_cvtsi32_si128(field)), field_mask);
  // frequency * rest + offset, of which the sum is ready before the product
  const __m512i x = _mm512_add_epi32(_mm512_mullo_epi32(less, rest), _mm512_add_epi32(rest, offset));

  const __mmask16 refill = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(0x10000));
  const __m512i next = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
  state = _mm512_mask_or_epi32(x, refill, _mm512_slli_epi32(x, 16), _mm512_maskz_expand_epi32(refill, next));
  words += 2 * static_cast<size_t>(__builtin_popcount(refill));

  if (kPacked) return _mm512_cvtepi32_epi16(_mm512_srl_epi32(step, _mm_cvtsi32_si128(2 * field)));
  return _mm512_cvtepi32_epi16(_mm512_i32gather_epi32(slot, table.symbols, 2));
}

// A run whose states are kVectors vectors of 16 lanes.
template <bool kPacked, unsigned kVectors>
class RansVectors {
 public:
  explicit RansVectors(const RansRun& run) : table_(run.table), words_(run.words), end_(run.end), out_(run.out) {
    for (unsigned v = 0; v < kVectors; ++v) state_[v] = _mm512_loadu_si512(run.states + 16 * v);
  }

  bool can_step() const { return end_ - words_ >= static_cast<ptrdiff_t>(32 * kVectors); }

  void step() {
    for (unsigned v = 0; v < kVectors; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out_ + 16 * v), rans_step16<kPacked>(table_, state_[v], words_));
    }
    out_ += 16 * kVectors;
  }

  void finish(RansRun& run) const {
    for (unsigned v = 0; v < kVectors; ++v) _mm512_storeu_si512(run.states + 16 * v, state_[v]);
    run.words = words_;
  }

 private:
  const RansTable table_;
  const uint8_t* words_;
  const uint8_t* const end_;
  uint16_t* out_;
  __m512i state_[kVectors];
};

template <bool kPacked, unsigned kVectors>
size_t rans_vectors(RansRun& run, size_t groups) {
  RansVectors<kPacked, kVectors> lanes(run);
  size_t done = 0;
  for (; done < groups && lanes.can_step(); ++done) lanes.step();
  lanes.finish(run);
  return done;
}

size_t rans_avx512(RansRun& run, size_t groups) {
  const bool packed = run.table.packed != nullptr;
  switch (run.lanes) {
    case 32: return (packed ? rans_vectors<true, 2> : rans_vectors<false, 2>)(run, groups);
    case 16: return (packed ? rans_vectors<true, 1> : rans_vectors<false, 1>)(run, groups);
    default: return rans_scalar(run, groups);
  }
}

template <unsigned kVectors>
size_t rans_vectors_two(RansRun& run, RansRun& other, size_t groups) {
  RansVectors<true, kVectors> lanes(run);
  RansVectors<true, kVectors> others(other);
  size_t done = 0;
  for (; done < groups && lanes.can_step() && others.can_step(); ++done) {
    lanes.step();
    others.step();
  }
  lanes.finish(run);
  others.finish(other);
  return done;
}

// A run waits for its gathers most of the time. Those of the other form do not fit in registers twice.
size_t rans_two_avx512(RansRun& run, RansRun& other, size_t groups) {
  if (run.lanes != other.lanes || !run.table.packed || !other.table.packed) return 0;
  switch (run.lanes) {
    case 32: return rans_vectors_two<2>(run, other, groups);
    case 16: return rans_vectors_two<1>(run, other, groups);
    default: return 0;
  }
}

// The lanes of a block of rows (rows_block.h).
class RowsLanes {
 public:
  explicit RowsLanes(RowsBlock& block)
      : block_(block),
        words_(block.words),
        state_(_mm512_load_si512(block.states)),
        low_chances_(_mm512_loadu_si512(kRowsChances)),
        high_chances_(_mm512_loadu_si512(kRowsChances + 16)) {}

  bool can_step() const { return words_ <= block_.limit; }

  // Which of some lanes decode a one, by what sums say (rows_chance).
  __mmask16 bits(__m512i sums, __mmask16 lanes) {
    __m512i at = _mm512_srai_epi32(_mm512_add_epi32(sums, _mm512_set1_epi32((20 << 11) + 1024)), 11);
    at = _mm512_max_epi32(_mm512_min_epi32(at, _mm512_set1_epi32(31)), _mm512_setzero_si512());
    const __m512i p = _mm512_permutex2var_epi32(low_chances_, at, high_chances_);
    const __m512i slot = _mm512_and_si512(state_, _mm512_set1_epi32((1 << kRowsBits) - 1));
    const __mmask16 one = _mm512_cmplt_epu32_mask(slot, p);
    const __m512i frequency = _mm512_mask_mov_epi32(_mm512_sub_epi32(_mm512_set1_epi32(1 << kRowsBits), p), one, p);
    const __m512i offset = _mm512_mask_mov_epi32(_mm512_sub_epi32(slot, p), one, slot);
    advance(_mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(state_, kRowsBits)), offset), lanes);
    return static_cast<__mmask16>(one & lanes);
  }

  // Symbols of the tables that begin at `first`.
  __m512i symbols(__m512i first, __mmask16 lanes) {
    const __m128i s = _mm_cvtsi32_si128(static_cast<int>(block_.scale_bits));
    const __m512i slot = _mm512_and_si512(state_, _mm512_set1_epi32((1 << block_.scale_bits) - 1));
    const __m512i step = _mm512_i32gather_epi32(_mm512_add_epi32(first, slot), block_.steps, 4);
    const __m512i field = _mm512_set1_epi32(0xFFF);
    const __m512i rest = _mm512_srl_epi32(state_, s);
    const __m512i offset = _mm512_and_si512(_mm512_srli_epi32(step, 12), field);
    const __m512i less = _mm512_and_si512(step, field);
    advance(_mm512_add_epi32(_mm512_mullo_epi32(less, rest), _mm512_add_epi32(rest, offset)), lanes);
    return _mm512_srli_epi32(step, 24);
  }

  __m512i lows(__mmask16 lanes) {
    const __m512i low = _mm512_and_si512(state_, _mm512_set1_epi32((1 << block_.low_bits) - 1));
    advance(_mm512_srl_epi32(state_, _mm_cvtsi32_si128(static_cast<int>(block_.low_bits))), lanes);
    return low;
  }

  void finish() const {
    _mm512_store_si512(block_.states, state_);
    block_.words = words_;
  }

 private:
  void advance(__m512i x, __mmask16 lanes) {
    const __mmask16 refill = _mm512_mask_cmplt_epu32_mask(lanes, x, _mm512_set1_epi32(0x10000));
    const __m512i next = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words_)));
    state_ = _mm512_mask_mov_epi32(state_, lanes, x);
    state_ = _mm512_mask_or_epi32(state_, refill, _mm512_slli_epi32(x, 16), _mm512_maskz_expand_epi32(refill, next));
    words_ += 2 * static_cast<size_t>(__builtin_popcount(refill));
  }

  RowsBlock& block_;
  const uint8_t* words_;
  __m512i state_;
  const __m512i low_chances_, high_chances_;
};

// rows_log2 of numbers below 2^24: exponent and mantissa of a float are that line, shifted by its bias.
inline __m512i rows_logs(__m512i numbers) {
  const __m512i bits = _mm512_castps_si512(_mm512_cvtepi32_ps(numbers));
  return _mm512_sub_epi32(_mm512_srli_epi32(bits, 17), _mm512_set1_epi32(127 * 64));
}

template <bool kGroup, bool kStride>
void rows_flags_vectors(RowsBlock& block) {
  RowsLanes lanes(block);
  const auto active = static_cast<__mmask16>(block.active());
  const __m512i unit = _mm512_set1_epi32(kRowsUnit);
  const __m512i row_weight = _mm512_set1_epi32(block.row_weight);
  const __m512i group_weight = _mm512_set1_epi32(block.group_weight);
  const __m512i left_weight = _mm512_set1_epi32(block.left), second_weight = _mm512_set1_epi32(block.second_left);
  const __m512i above = _mm512_set1_epi32(block.above);
  const __m512i above_right = _mm512_set1_epi32(block.above_right), above_left = _mm512_set1_epi32(block.above_left);
  __m512i row_count = _mm512_load_si512(block.row_count), group_count = _mm512_load_si512(block.group_count);
  size_t left_in_group = block.group - block.column % block.group;
  __mmask16 left = block.flags[static_cast<ptrdiff_t>(block.column) - 1];
  __mmask16 second = block.flags[static_cast<ptrdiff_t>(block.column) - 2];
  for (; block.column < block.columns && lanes.can_step(); ++block.column) {
    uint16_t* const at = block.flags + block.column;
    __m512i sums = _mm512_set1_epi32(block.flag_base[block.column]);
    sums = _mm512_mask_add_epi32(sums, second, sums, second_weight);
    if (kStride) {
      sums = _mm512_mask_add_epi32(sums, *(at - block.stride), sums, above);
      sums = _mm512_mask_add_epi32(sums, *(at - block.stride + 1), sums, above_right);
      sums = _mm512_mask_add_epi32(sums, *(at - block.stride - 1), sums, above_left);
    }
    sums = _mm512_mask_add_epi32(sums, left, sums, left_weight);
    sums = _mm512_add_epi32(sums, _mm512_mullo_epi32(row_weight, rows_logs(row_count)));
    if (kGroup) sums = _mm512_add_epi32(sums, _mm512_mullo_epi32(group_weight, rows_logs(group_count)));
    const __mmask16 found = lanes.bits(sums, active);
    *at = found;
    block.flags_of[block.column] += static_cast<uint32_t>(__builtin_popcount(found));
    row_count = _mm512_mask_add_epi32(row_count, found, row_count, unit);
    second = left;
    left = found;
    if (!kGroup) continue;
    group_count = _mm512_mask_add_epi32(group_count, found, group_count, unit);
    if (--left_in_group == 0) {
      left_in_group = block.group;
      group_count = unit;
    }
  }
  _mm512_store_si512(block.row_count, row_count);
  _mm512_store_si512(block.group_count, group_count);
  lanes.finish();
}

void rows_flags_avx512(RowsBlock& block) {
  const bool has_group = block.group_weight != 0, has_stride = block.stride > 1;
  const auto run = has_stride ? (has_group ? rows_flags_vectors<true, true> : rows_flags_vectors<false, true>)
                              : (has_group ? rows_flags_vectors<true, false> : rows_flags_vectors<false, false>);
  run(block);
}

inline __m512i signs_at(const int8_t* at, ptrdiff_t columns) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at + columns * kRowsLanes)));
}

inline __m512i twice(__m512i x) { return _mm512_add_epi32(x, x); }

template <bool kStride, bool kTables>
void rows_values_vectors(RowsBlock& block) {
  RowsLanes lanes(block);
  const bool has_signs = block.most_negative != 0 && block.most_positive != 0;
  const __m512i unit = _mm512_set1_epi32(kRowsUnit);
  const __m512i row_weight = _mm512_set1_epi32(block.sign_row_weight);
  const __m512i left_weight = _mm512_set1_epi32(block.sign_left), above_weight = _mm512_set1_epi32(block.sign_above);
  const __m512i beside_weight = _mm512_set1_epi32(block.sign_beside);
  const __m512i recent_weight = _mm512_set1_epi32(block.recent_weight);
  const __m512i table_offset = _mm512_set1_epi32(block.table_offset);
  const __m512i last_table = _mm512_set1_epi32(static_cast<int>(block.tables) - 1);
  const __m512i side = _mm512_set1_epi32(block.has_sides ? static_cast<int>(block.tables) : 0);
  const __m512i zero = _mm512_set1_epi32(block.zero), one = _mm512_set1_epi32(1);
  const __m512i most_negative = _mm512_set1_epi32(block.most_negative);
  const __m512i most_positive = _mm512_set1_epi32(block.most_positive);
  const __m128i table_shift = _mm_cvtsi32_si128(static_cast<int>(block.table_shift));
  const __m128i scale_bits = _mm_cvtsi32_si128(static_cast<int>(block.scale_bits));
  const __m128i low_bits = _mm_cvtsi32_si128(static_cast<int>(block.low_bits));
  const __m128i recent_shift = _mm_cvtsi32_si128(static_cast<int>(block.recent_shift));
  const __m128i recent_scale = _mm_cvtsi32_si128(static_cast<int>(10 - block.recent_shift));
  const auto stride = static_cast<ptrdiff_t>(block.stride);
  __m512i positive_count = _mm512_load_si512(block.positive), negative_count = _mm512_load_si512(block.negative);
  __m512i recent = _mm512_load_si512(block.recent);
  __mmask16 bad = 0;
  for (; block.column < block.columns && lanes.can_step(); ++block.column) {
    const size_t c = block.column;
    const auto kept = static_cast<__mmask16>(block.kept(c));
    if (kept == 0) continue;
    int8_t* const signs = block.signs + c * kRowsLanes;
    __mmask16 positive = block.most_negative == 0 ? kept : 0;
    if (has_signs) {
      __m512i sums = _mm512_set1_epi32(block.sign_base[c]);
      sums = _mm512_add_epi32(
          sums, _mm512_mullo_epi32(row_weight, _mm512_sub_epi32(rows_logs(positive_count), rows_logs(negative_count))));
      if (kStride) {
        const __m512i above = _mm512_add_epi32(twice(signs_at(signs, -stride)), signs_at(signs, -2 * stride));
        const __m512i beside = _mm512_add_epi32(signs_at(signs, 1 - stride), signs_at(signs, -1 - stride));
        sums = _mm512_add_epi32(sums, _mm512_mullo_epi32(above_weight, above));
        sums = _mm512_add_epi32(sums, _mm512_mullo_epi32(beside_weight, beside));
      }
      const __m512i left = _mm512_add_epi32(twice(signs_at(signs, -1)), signs_at(signs, -2));
      sums = _mm512_add_epi32(sums, _mm512_mullo_epi32(left_weight, left));
      positive = lanes.bits(sums, kept);
      positive_count = _mm512_mask_add_epi32(positive_count, positive, positive_count, unit);
      negative_count = _mm512_mask_add_epi32(negative_count, kept & ~positive, negative_count, unit);
    }
    const auto negative = static_cast<__mmask16>(kept & ~positive);

    __m512i table = _mm512_setzero_si512();
    if (kTables) {
      table = _mm512_add_epi32(_mm512_add_epi32(_mm512_set1_epi32(block.magnitude_base[c]), table_offset),
                               _mm512_mullo_epi32(recent_weight, rows_logs(recent)));
      table = _mm512_sra_epi32(table, table_shift);
      table = _mm512_max_epi32(_mm512_min_epi32(table, last_table), _mm512_setzero_si512());
    }
    table = _mm512_mask_add_epi32(table, negative, table, side);
    __m512i magnitude = lanes.symbols(_mm512_sll_epi32(table, scale_bits), kept);
    if (block.low_bits > 0) magnitude = _mm512_or_si512(_mm512_sll_epi32(magnitude, low_bits), lanes.lows(kept));
    magnitude = _mm512_add_epi32(magnitude, one);

    bad = static_cast<__mmask16>(bad | _mm512_mask_cmpgt_epi32_mask(positive, magnitude, most_positive) |
                                 _mm512_mask_cmpgt_epi32_mask(negative, magnitude, most_negative));
    __m512i indices = _mm512_mask_add_epi32(zero, positive, zero, magnitude);
    indices = _mm512_mask_sub_epi32(indices, negative, zero, magnitude);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block.indices + c * kRowsLanes), _mm512_cvtepi32_epi16(indices));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(signs),
                     _mm_mask_mov_epi8(_mm_maskz_set1_epi8(kept, -1), positive, _mm_set1_epi8(1)));
    block.positive_of[c] += static_cast<uint32_t>(__builtin_popcount(positive));
    block.negative_of[c] += static_cast<uint32_t>(__builtin_popcount(negative));
    if (!kTables) continue;
    const __m512i counted = _mm512_min_epi32(magnitude, _mm512_set1_epi32(kRowsMostMagnitude));
    block.magnitude_of[c] += static_cast<uint32_t>(_mm512_mask_reduce_add_epi32(kept, counted));
    const __m512i faded = _mm512_sub_epi32(recent, _mm512_srl_epi32(recent, recent_shift));
    recent = _mm512_mask_add_epi32(recent, kept, faded, _mm512_sll_epi32(counted, recent_scale));
  }
  _mm512_store_si512(block.positive, positive_count);
  _mm512_store_si512(block.negative, negative_count);
  _mm512_store_si512(block.recent, recent);
  block.is_bad |= bad != 0;
  lanes.finish();
}

void rows_values_avx512(RowsBlock& block) {
  const bool has_stride = block.stride > 1, has_tables = block.tables > 1;
  const auto run = has_stride ? (has_tables ? rows_values_vectors<true, true> : rows_values_vectors<true, false>)
                              : (has_tables ? rows_values_vectors<false, true> : rows_values_vectors<false, false>);
  run(block);
}

// 32 numbers fill 2 x `width` words; each lies in two neighbouring words (the second counts for nothing where it is not
// needed: behind the last).
size_t unpack_avx512(const uint8_t* bytes, size_t size, unsigned width, uint16_t* out, size_t count) {
  alignas(64) uint16_t word[32], shift[32];
  for (unsigned j = 0; j < 32; ++j) {
    word[j] = static_cast<uint16_t>(j * width / 16);
    shift[j] = static_cast<uint16_t>(j * width % 16);
  }
  const __m512i low_word = _mm512_load_si512(word);
  const __m512i high_word = _mm512_add_epi16(low_word, _mm512_set1_epi16(1));
  const __m512i shifts = _mm512_load_si512(shift);
  const __m512i mask = _mm512_set1_epi16(static_cast<short>((1U << width) - 1));
  size_t done = 0;
  for (; count - done >= 32 && size >= 64; done += 32, bytes += 4 * width, size -= 4 * width) {
    const __m512i words = _mm512_loadu_si512(bytes);
    const __m512i low = _mm512_permutexvar_epi16(low_word, words);
    const __m512i high = _mm512_permutexvar_epi16(high_word, words);
    _mm512_storeu_si512(out + done, _mm512_and_si512(_mm512_shrdv_epi16(low, high, shifts), mask));
  }
  return done + unpack_loop(bytes, size, width, out + done, count - done);
}

inline __m512i indices16(const uint16_t* indices) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices)));
}

// A table of up to 32 x kPairs entries of 4 bytes, held in registers.
template <unsigned kPairs>
class Table32 {
 public:
  explicit Table32(const void* table) {
    const auto* const bytes = static_cast<const uint8_t*>(table);
    for (unsigned v = 0; v < 2 * kPairs; ++v) parts_[v] = _mm512_loadu_si512(bytes + 64 * v);
  }

  // By 5 bits of an index in each pair; then the higher bits choose between pairs.
  __m512i operator()(__m512i index) const {
    __m512i found[kPairs];
    for (unsigned p = 0; p < kPairs; ++p) found[p] = _mm512_permutex2var_epi32(parts_[2 * p], index, parts_[2 * p + 1]);
    for (unsigned step = 1; step < kPairs; step *= 2) {
      const __mmask16 upper = _mm512_test_epi32_mask(index, _mm512_set1_epi32(static_cast<int>(32 * step)));
      for (unsigned p = 0; p < kPairs; p += 2 * step) {
        found[p] = _mm512_mask_mov_epi32(found[p], upper, found[p + step]);
      }
    }
    return found[0];
  }

 private:
  __m512i parts_[2 * kPairs];
};

template <unsigned kPairs>
size_t lookup32_vectors(const Codebook<uint32_t>& codebook, const uint16_t* indices, uint32_t* out, size_t count) {
  const Table32<kPairs> table(codebook.table);
  size_t i = 0;
  for (; i + 16 <= count; i += 16) _mm512_storeu_si512(out + i, table(indices16(indices + i)));
  return i;
}

// Tables of up to 256 entries, byte by byte: the entries' first bytes in four registers, their second bytes, and so on.
class BytePlanes {
 public:
  explicit BytePlanes(const uint32_t* table) {
    alignas(64) uint8_t planes[4][256];
    for (unsigned p = 0; p < 4; ++p) {
      for (unsigned i = 0; i < 256; ++i) planes[p][i] = static_cast<uint8_t>(table[i] >> (8 * p));
    }
    for (unsigned p = 0; p < 4; ++p) {
      for (unsigned v = 0; v < 4; ++v) parts_[p][v] = _mm512_load_si512(planes[p] + 64 * v);
    }
  }

  // Plane p of 64 entries.
  template <unsigned p>
  __m512i find(__m512i index, __mmask64 upper) const {
    const __m512i low = _mm512_permutex2var_epi8(parts_[p][0], index, parts_[p][1]);
    const __m512i high = _mm512_permutex2var_epi8(parts_[p][2], index, parts_[p][3]);
    return _mm512_mask_mov_epi8(low, upper, high);
  }

 private:
  __m512i parts_[4][4];
};

size_t lookup32_planes(const Codebook<uint32_t>& codebook, const uint16_t* indices, uint32_t* out, size_t count) {
  const BytePlanes planes(codebook.table);
  // Interleaving bytes and then words within each 16 bytes puts byte 16a + 4b + c of a plane into entry 16b + 4a + c.
  alignas(64) uint8_t order[64];
  for (unsigned to = 0; to < 64; ++to)
    order[to] = static_cast<uint8_t>(2 * ((to & 12) << 2 | (to >> 4) << 2 | (to & 3)));
  const __m512i low_bytes = _mm512_load_si512(order);
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const __m512i index =
        _mm512_permutex2var_epi8(_mm512_loadu_si512(indices + i), low_bytes, _mm512_loadu_si512(indices + i + 32));
    const __mmask64 upper = _mm512_movepi8_mask(index);
    const __m512i plane0 = planes.find<0>(index, upper), plane1 = planes.find<1>(index, upper);
    const __m512i plane2 = planes.find<2>(index, upper), plane3 = planes.find<3>(index, upper);
    const __m512i low01 = _mm512_unpacklo_epi8(plane0, plane1), high01 = _mm512_unpackhi_epi8(plane0, plane1);
    const __m512i low23 = _mm512_unpacklo_epi8(plane2, plane3), high23 = _mm512_unpackhi_epi8(plane2, plane3);
    _mm512_storeu_si512(out + i, _mm512_unpacklo_epi16(low01, low23));
    _mm512_storeu_si512(out + i + 16, _mm512_unpackhi_epi16(low01, low23));
    _mm512_storeu_si512(out + i + 32, _mm512_unpacklo_epi16(high01, high23));
    _mm512_storeu_si512(out + i + 48, _mm512_unpackhi_epi16(high01, high23));
  }
  return i;
}

void lookup32_avx512(const Codebook<uint32_t>& codebook, const uint16_t* indices, uint32_t* out, size_t count) {
  struct Choice {
    size_t entries, least;  // the least elements that pay for loading the table
    size_t (*lookup)(const Codebook<uint32_t>&, const uint16_t*, uint32_t*, size_t);
  };
  constexpr Choice kChoices[] = {
      {32, 64, lookup32_vectors<1>}, {64, 64, lookup32_vectors<2>}, {256, 1024, lookup32_planes}};
  size_t done = 0;
  for (const Choice& choice : kChoices) {
    if (codebook.entries > choice.entries) continue;
    if (count >= choice.least) done = choice.lookup(codebook, indices, out, count);
    break;
  }
  kPortableKernels.lookup32(codebook, indices + done, out + done, count - done);
}

void float16_avx512(const float* values, uint16_t* out, size_t count) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm512_cvtps_ph(_mm512_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
  }
  float16_loop(values + i, out + i, count - i);
}

}  // namespace

const Kernels kAvx512Kernels = {"avx512",          rans_avx512,           rans_two_avx512,    huffman_scalar,
                                rows_columns_loop, rows_flags_avx512,     rows_values_avx512, rows_transpose_loop,
                                unpack_avx512,     lookup_loop<uint16_t>, lookup32_avx512,    lookup_loop<uint64_t>,
                                scale_loop<float>, scale_loop<double>,    float16_avx512,     bfloat16_loop,
                                count_other_loop,  &kAvx512Sparse};

}  // namespace dcc
