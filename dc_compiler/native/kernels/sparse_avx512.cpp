// sparse_avx512.cpp: the sparse kernels for AVX-512 F, BW, VL and DQ.
#include <immintrin.h>

#include "kernels/sparse_loops.h"

namespace dcc {
namespace {

struct Sixteen {
  static constexpr size_t kSize = 16;
  __m512 value;
  static Sixteen zero() { return {_mm512_setzero_ps()}; }
  static Sixteen broadcast(const float* from) { return {_mm512_set1_ps(*from)}; }
  static Sixteen load(const float* from) { return {_mm512_loadu_ps(from)}; }
  void store(float* to) const { _mm512_storeu_ps(to, value); }
  static Sixteen fma(Sixteen a, Sixteen b, Sixteen c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }
  static Sixteen add(Sixteen a, Sixteen b) { return {_mm512_add_ps(a.value, b.value)}; }
  static Sixteen clamp(Sixteen a, Sixteen low, Sixteen high) {  // the second operand comes out where one is NaN
    return {_mm512_min_ps(high.value, _mm512_max_ps(low.value, a.value))};
  }
  static Sixteen load_some(const float* from, size_t at, size_t first, size_t last) {
    const unsigned mask = (1U << last) - (1U << first);
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(first < last ? mask : 0), moved(from, at))};
  }
};

size_t keep_avx512(const float* weights, size_t count, uint32_t* inputs, float* values) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  size_t kept = 0;
  for (size_t i = 0; i < count; i += kLanes) {
    const auto inside = static_cast<__mmask16>(count - i < kLanes ? (1U << (count - i)) - 1 : 0xFFFF);
    const __m512i bits = _mm512_maskz_loadu_epi32(inside, weights + i);
    const __mmask16 mask = _mm512_test_epi32_mask(bits, magnitude);
    const __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(i)));
    _mm512_storeu_si512(inputs + kept, _mm512_maskz_compress_epi32(mask, index));
    _mm512_storeu_si512(values + kept, _mm512_maskz_compress_epi32(mask, bits));
    kept += static_cast<size_t>(__builtin_popcount(mask));
  }
  return kept;
}

// Asks for what is a page ahead: processors do not foresee beyond the page at hand.
inline void fetch_ahead(const void* from) { _mm_prefetch(static_cast<const char*>(from) + 4096, _MM_HINT_T1); }

// What the three steps of a round add in 16 lanes: inputs of the window (the low 5 bits count), weights, and which
// lanes have one.
struct Round {
  __m512i input[kSteps];
  __m512 weight[kSteps];
  __mmask16 has_weight[kSteps];
};

// Reads the rounds of a group, one after the other; up to 31 different weights.
struct CodedRounds {
  const uint32_t* words;
  __m512 low, high;

  CodedRounds(const LaneWeights& weights, size_t group)
      : words(weights.words + weights.starts[group] * kLanes),
        low(_mm512_loadu_ps(weights.table)),
        high(_mm512_loadu_ps(weights.table + 16)) {}

  Round next() {
    __m512i word = _mm512_loadu_si512(words);
    fetch_ahead(words);
    words += kLanes;
    Round round;
#pragma GCC unroll 3
    for (size_t step = 0; step < kSteps; ++step) {
      round.input[step] = word;
      round.weight[step] = _mm512_permutex2var_ps(low, _mm512_srli_epi32(word, 5), high);
      const __m512i bits = _mm512_castps_si512(round.weight[step]);
      round.has_weight[step] = _mm512_test_epi32_mask(bits, bits);
      word = _mm512_srli_epi32(word, 10);
    }
    return round;
  }
};

// The same for any weights.
struct PlainRounds {
  const uint16_t* positions;
  const uint16_t* masks;
  const float* values;

  PlainRounds(const LaneWeights& weights, size_t group)
      : positions(weights.positions + weights.starts[group] * kLanes),
        masks(weights.masks + weights.starts[group] * kSteps),
        values(weights.values + weights.value_starts[group]) {}

  Round next() {
    __m512i word = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(positions)));
    fetch_ahead(positions);
    fetch_ahead(values);
    fetch_ahead(values + 16);
    positions += kLanes;
    Round round;
#pragma GCC unroll 3
    for (size_t step = 0; step < kSteps; ++step) {
      round.input[step] = word;
      round.has_weight[step] = *masks;
      round.weight[step] = _mm512_maskz_expandloadu_ps(*masks, values);
      values += __builtin_popcount(*masks++);
      word = _mm512_srli_epi32(word, 5);
    }
    return round;
  }
};

// One group for kRows rows: lanes are outputs, vpermi2ps fetches each lane's input from the window in two registers.
template <size_t kRows, typename Rounds, bool kMasked>
inline bool lanes_group(const LaneWeights& weights, size_t group, const float* const* x, const Ends& ends, float* y) {
  const uint32_t* const outputs = weights.outputs + group * kLanes;
  const size_t used = smaller(kLanes, weights.n - group * kLanes);
  alignas(64) float lane[kLanes] = {};
  if (ends.bias != nullptr) {
    for (size_t l = 0; l < used; ++l) lane[l] = ends.bias[outputs[l]];
  }
  __m512 sum[kRows];
  for (size_t row = 0; row < kRows; ++row) sum[row] = _mm512_load_ps(lane);
  Rounds rounds(weights, group);
  size_t at = 0;
  for (size_t r = weights.starts[group]; r < weights.starts[group + 1]; ++r) {
    at += weights.advances[r];
    const Round round = rounds.next();
    for (size_t row = 0; row < kRows; ++row) {
      __m512 low = _mm512_loadu_ps(x[row] + at);
      __m512 high = _mm512_loadu_ps(x[row] + at + 16);
      __asm__("" : "+v"(low), "+v"(high));  // once: compilers would rather load anew for every step, across cache lines
#pragma GCC unroll 3
      for (size_t step = 0; step < kSteps; ++step) {
        const __m512 input = _mm512_permutex2var_ps(low, round.input[step], high);
        sum[row] = kMasked ? _mm512_mask3_fmadd_ps(input, round.weight[step], sum[row], round.has_weight[step])
                           : _mm512_fmadd_ps(input, round.weight[step], sum[row]);
      }
    }
  }
  for (size_t row = 0; row < kRows; ++row) {
    if (!kMasked && _mm512_cmp_ps_mask(sum[row], sum[row], _CMP_UNORD_Q) != 0) return false;
  }
  for (size_t row = 0; row < kRows; ++row) {
    _mm512_store_ps(lane, _mm512_add_ps(sum[row], _mm512_setzero_ps()));
    for (size_t l = 0; l < used; ++l) y[row * weights.n + outputs[l]] = bounded(lane[l], ends);
  }
  return true;
}

template <size_t kRows>
void lanes_rows(const LaneWeights& weights, size_t first, size_t last, const float* x, const Ends& ends, float* y) {
  const WideRows<float, kWindow, kRows> wide(x, weights.k);
  const bool coded = weights.words != nullptr;
  const auto run = coded ? lanes_group<kRows, CodedRounds, false> : lanes_group<kRows, PlainRounds, false>;
  const auto careful = coded ? lanes_group<kRows, CodedRounds, true> : lanes_group<kRows, PlainRounds, true>;
  for (size_t group = first; group < last; ++group) {
    if (!run(weights, group, wide.row, ends, y)) careful(weights, group, wide.row, ends, y);
  }
}

void lanes_avx512(const LaneWeights& weights, size_t first, size_t last, const float* x, size_t m, const Ends& ends,
                  float* y) {
  for (size_t i = 0; i < m;) {
    const size_t left = m - i;
    const size_t rows = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    const auto run = rows == 8 ? lanes_rows<8> : rows == 4 ? lanes_rows<4> : rows == 2 ? lanes_rows<2> : lanes_rows<1>;
    run(weights, first, last, x + i * weights.k, ends, y + i * weights.n);
    i += rows;
  }
}

// The weights of a round as int8, with up to 31 different ones: 4 bits a slot behind the inputs.
struct CodedBytes {
  static constexpr size_t kBytes = kBytesOfSlots / 2;
  __m512i table;

  explicit CodedBytes(const ByteWeights& weights) : table(_mm512_loadu_si512(weights.table)) {}

  __m512i of(__m512i position, const uint8_t* codes) const {
    // 4 bits to a byte each, with what follows them above; the table has every entry twice, so bit 5 does not matter
    const __m512i spread = _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    const __m512i low = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x1C1814100C080400), spread);
    const __m512i code =
        _mm512_ternarylogic_epi64(_mm512_set1_epi8(15), low, _mm512_srli_epi16(position, 3), 0xCA);  // select
    return _mm512_permutexvar_epi8(code, table);
  }
};

// The same for any weights.
struct PlainBytes {
  static constexpr size_t kBytes = kBytesOfSlots;

  explicit PlainBytes(const ByteWeights&) {}

  __m512i of(__m512i, const uint8_t* values) const { return _mm512_loadu_si512(values); }
};

// One group for kRows rows: vpermi2b fetches each slot's input from the window in two registers, vpdpbusd adds the four
// products of each lane.
template <size_t kRows, typename Bytes>
void bytes_group(const ByteWeights& weights, size_t group, const uint8_t* const* x, __m512i* sum) {
  __m512i sums[kRows];
  for (size_t row = 0; row < kRows; ++row) sums[row] = _mm512_setzero_si512();
  const Bytes bytes(weights);
  constexpr size_t kRound = kBytesOfSlots + Bytes::kBytes;
  const uint8_t* round = weights.rounds + weights.starts[group] * kRound;
  size_t at = 0;
  for (size_t r = weights.starts[group]; r < weights.starts[group + 1]; ++r) {
    at += weights.advances[r];
    const __m512i position = _mm512_loadu_si512(round);
    const __m512i weight = bytes.of(position, round + kBytesOfSlots);

    round += kRound;
    for (size_t row = 0; row < kRows; ++row) {
      const __m512i low = _mm512_loadu_si512(x[row] + at);
      const __m512i high = _mm512_loadu_si512(x[row] + at + kByteWindow / 2);
      sums[row] = _mm512_dpbusd_epi32(sums[row], _mm512_permutex2var_epi8(low, position, high), weight);
    }
  }
  for (size_t row = 0; row < kRows; ++row) sum[row] = sums[row];
}

template <size_t kRows>
void bytes_rows(const ByteWeights& weights, size_t first, size_t last, const ByteRows& rows, const Ends& ends,
                float* y) {
  const WideRows<uint8_t, kByteWindow, kRows> wide(rows.x, weights.k);
  const auto run = weights.table != nullptr ? bytes_group<kRows, CodedBytes> : bytes_group<kRows, PlainBytes>;
  for (size_t group = first; group < last; ++group) {
    __m512i sum[kRows];
    run(weights, group, wide.row, sum);
    for (size_t row = 0; row < kRows; ++row) {
      alignas(64) int32_t sums[kLanes];
      _mm512_store_si512(sums, sum[row]);
      finish_bytes(weights, group, sums, rows, ends, y + row * weights.n);
    }
  }
}

void bytes_avx512(const ByteWeights& weights, size_t first, size_t last, const ByteRows& rows, const Ends& ends,
                  float* y) {
  for (size_t i = 0; i < rows.m;) {
    const size_t left = rows.m - i;
    const size_t count = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    const auto run = count == 8   ? bytes_rows<8>
                     : count == 4 ? bytes_rows<4>
                     : count == 2 ? bytes_rows<2>
                                  : bytes_rows<1>;
    run(weights, first, last, {rows.x + i * weights.k, count, rows.zero, rows.step}, ends, y + i * weights.n);
    i += count;
  }
}

}  // namespace

const SparseKernels kAvx512Sparse = {
    keep_avx512, rows_loop<Sixteen, 2>, lanes_avx512, bytes_avx512, conv_of<Sixteen, 14>, plane_rows<Sixteen>, 8};

}  // namespace dcc
