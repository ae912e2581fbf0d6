// kernels_common.h: the kernels in plain C++, compiled anew with the flags of each instruction set.
//
// Everything is in an unnamed namespace and nothing comes from the standard library's templates: a function that the
// linker could share between files might otherwise bring one set's instructions to a processor that has not got them.
#ifndef DCC_KERNELS_COMMON_H_
#define DCC_KERNELS_COMMON_H_

#include "kernels/kernel_steps.h"
#include "kernels/rows_loops.h"

namespace dcc {
namespace {

template <bool kPacked, unsigned kLanes>
size_t rans_loop(RansRun& run, size_t groups) {
  const RansTable table = run.table;
  const uint8_t* const end = run.end;
  const uint8_t* at = run.words;
  uint16_t* out = run.out;
  uint32_t state[kLanes];
  for (unsigned lane = 0; lane < kLanes; ++lane) state[lane] = run.states[lane];
  size_t done = 0;
  for (; done < groups && end - at >= static_cast<ptrdiff_t>(2 * kLanes); ++done, out += kLanes) {
#pragma GCC unroll 8
    for (unsigned lane = 0; lane < kLanes; ++lane) out[lane] = rans_step<kPacked>(table, state[lane], at);
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) run.states[lane] = state[lane];
  run.words = at;
  return done;
}

template <bool kPacked>
size_t rans_lanes(RansRun& run, size_t groups) {
  switch (run.lanes) {
    case 1: return rans_loop<kPacked, 1>(run, groups);
    case 2: return rans_loop<kPacked, 2>(run, groups);
    case 4: return rans_loop<kPacked, 4>(run, groups);
    case 8: return rans_loop<kPacked, 8>(run, groups);
    case 16: return rans_loop<kPacked, 16>(run, groups);
    default: return rans_loop<kPacked, 32>(run, groups);
  }
}

size_t rans_scalar(RansRun& run, size_t groups) {
  return (run.table.packed != nullptr ? rans_lanes<true> : rans_lanes<false>)(run, groups);
}

// Where registers are short, two runs take as long side by side as one after the other.
inline size_t rans_not_two(RansRun& /*run*/, RansRun& /*other*/, size_t /*groups*/) { return 0; }

// `count` symbols of one lane, of any length, to every `stride`-th place of `out`. Returns their bits.
inline unsigned huffman_careful(const HuffmanTable& table, const uint8_t* bytes, uint64_t at, uint16_t* out,
                                size_t stride, unsigned count) {
  unsigned taken = 0;
  for (; count > 0; --count, out += stride) {
    const uint64_t window = load_at<uint64_t>(bytes + ((at + taken) >> 3)) >> ((at + taken) & 7);
    const uint32_t entry = huffman_entry<true>(table, window);
    taken += entry & 0xFF;
    *out = static_cast<uint16_t>(entry >> 16);
  }
  return taken;
}

// The windows of all lanes advance side by side, so that the processor looks up one symbol of each at a time. The bit
// set at the top of a window moves down with it and tells how many bits were taken: more than there are when a code was
// longer than the table, whose entry shifts by all bits.
template <bool kLong, unsigned kLanes, unsigned kRounds>
void huffman_turns(const HuffmanTable& table, uint64_t* at, const uint8_t* bytes, uint16_t* out, size_t turns) {
  const uint32_t* const entries = table.entries;
  const uint64_t mask = (uint64_t{1} << table.bits) - 1;
  for (; turns > 0; --turns, out += kRounds * kLanes) {
    uint64_t window[kLanes];
#pragma GCC unroll 8
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      window[lane] = load_at<uint64_t>(bytes + (at[lane] >> 3)) >> (at[lane] & 7) | uint64_t{1} << 63;
    }
#pragma GCC unroll 8
    for (unsigned round = 0; round < kRounds; ++round) {
#pragma GCC unroll 8
      for (unsigned lane = 0; lane < kLanes; ++lane) {
        const uint32_t entry = entries[window[lane] & mask];
        window[lane] >>= entry & 63;
        out[round * kLanes + lane] = static_cast<uint16_t>(entry >> 16);
      }
    }
#pragma GCC unroll 8
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (kLong && __builtin_expect(window[lane] < 0x80, 0)) {
        at[lane] += huffman_careful(table, bytes, at[lane], out + lane, kLanes, kRounds);
      } else {
        at[lane] += static_cast<unsigned>(__builtin_clzll(window[lane]));
      }
    }
  }
}

// A load of 8 bytes at any bit position holds 57 bits or more, of which 56 are used: `kRounds` codes of every lane.
template <bool kLong, unsigned kLanes, unsigned kRounds>
size_t huffman_loop(const HuffmanTable& table, uint64_t* positions, const uint8_t* bytes, size_t size, uint16_t* out,
                    size_t groups) {
  constexpr size_t kMostBytes = kLong ? 8 : 7;  // that a lane moves in a turn
  static_assert(kRounds * (kLong ? kLongestCode : 8) <= 8 * kMostBytes, "");
  size_t done = 0;
  for (;;) {
    uint64_t furthest = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) furthest = furthest < positions[lane] ? positions[lane] : furthest;
    const uint64_t first = (furthest >> 3) + 8;
    const uint64_t safe = first < size ? (size - first) / kMostBytes : 0;
    const size_t wanted = (groups - done) / kRounds;
    const size_t turns = safe < wanted ? static_cast<size_t>(safe) : wanted;
    if (turns == 0) return done;
    huffman_turns<kLong, kLanes, kRounds>(table, positions, bytes, out + done * kLanes, turns);
    done += turns * kRounds;
  }
}

template <bool kLong, unsigned kRounds>
size_t huffman_lanes(const HuffmanTable& table, uint64_t* positions, unsigned lanes, const uint8_t* bytes, size_t size,
                     uint16_t* out, size_t groups) {
  switch (lanes) {
    case 1: return huffman_loop<kLong, 1, kRounds>(table, positions, bytes, size, out, groups);
    case 2: return huffman_loop<kLong, 2, kRounds>(table, positions, bytes, size, out, groups);
    case 4: return huffman_loop<kLong, 4, kRounds>(table, positions, bytes, size, out, groups);
    default: return huffman_loop<kLong, 8, kRounds>(table, positions, bytes, size, out, groups);
  }
}

size_t huffman_scalar(const HuffmanTable& table, uint64_t* positions, unsigned lanes, const uint8_t* bytes, size_t size,
                      uint16_t* out, size_t groups) {
  const auto loop = table.has_long_codes ? huffman_lanes<true, 4>
                    : table.bits > 11    ? huffman_lanes<false, 4>   // of 12 bits
                    : table.bits > 8     ? huffman_lanes<false, 5>   // of 11 bits
                                         : huffman_lanes<false, 7>;  // of 8 bits
  return loop(table, positions, lanes, bytes, size, out, groups);
}

inline void rows_flags_loop(RowsBlock& block) {
  RowsDecoder decoder(block);
  rows_flags(block, decoder);
}

inline void rows_values_loop(RowsBlock& block) {
  RowsDecoder decoder(block);
  rows_values(block, decoder);
}

// Some columns at a time, which stay in the nearest cache.
inline void rows_transpose_loop(const uint16_t* indices, size_t columns, unsigned rows, uint16_t* out) {
  constexpr size_t kSome = 64;
  for (size_t first = 0; first < columns; first += kSome) {
    const size_t end = columns - first < kSome ? columns : first + kSome;
    for (unsigned row = 0; row < rows; ++row) {
      for (size_t c = first; c < end; ++c) out[row * columns + c] = indices[c * kRowsLanes + row];
    }
  }
}

// 8 numbers fill `width` bytes, so each has the same place in every 8.
size_t unpack_loop(const uint8_t* bytes, size_t size, unsigned width, uint16_t* out, size_t count) {
  constexpr size_t kRead = 4;  // bytes that hold a number at any bit position
  const uint32_t mask = (1U << width) - 1;
  size_t done = 0;
  for (; count - done >= 8 && size >= width - 1 + kRead; done += 8, bytes += width, size -= width) {
#pragma GCC unroll 8
    for (unsigned j = 0; j < 8; ++j) {
      const unsigned at = j * width;
      out[done + j] = static_cast<uint16_t>((load_at<uint32_t>(bytes + (at >> 3)) >> (at & 7)) & mask);
    }
  }
  return done;
}

template <typename T>
void lookup_loop(const Codebook<T>& codebook, const uint16_t* indices, T* out, size_t count) {
  const T* const table = codebook.table;
#pragma GCC unroll 4
  for (size_t i = 0; i < count; ++i) out[i] = table[indices[i]];
}

template <typename T>
void scale_loop(const Codebook<T>& codebook, const uint16_t* indices, const T* scales, size_t step, T* out,
                size_t count) {
  const T* const table = codebook.table;
  const int32_t lo = codebook.lo;
  if (table != nullptr && step == 0) {
    const T scale = *scales;
    for (size_t i = 0; i < count; ++i) out[i] = table[indices[i]] * scale;
  } else if (table != nullptr) {
    for (size_t i = 0; i < count; ++i) out[i] = table[indices[i]] * scales[i];
  } else if (step == 0) {
    const T scale = *scales;
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<T>(lo + indices[i]) * scale;
  } else {
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<T>(lo + indices[i]) * scales[i];
  }
}

inline uint16_t float16_bits(uint32_t bits) {
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  uint32_t half;
  if (magnitude >= 0x47800000) {  // 65536 and above, infinity
    half = 0x7C00;
  } else if (magnitude < 0x38800000) {  // below 2^-14: adding 0.5 leaves the subnormal, rounded, in the low bits
    const float shifted = load_at<float>(&magnitude) + 0.5F;
    half = load_at<uint32_t>(&shifted) - 0x3F000000;
  } else {
    half = (magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

void float16_loop(const float* values, uint16_t* out, size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = float16_bits(load_at<uint32_t>(values + i));
}

void bfloat16_loop(const float* values, uint16_t* out, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = load_at<uint32_t>(values + i);
    out[i] = static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
  }
}

// Counted in numbers as wide as the indices, for as long as they hold the count: the compiler makes whole vectors of
// it.
size_t count_other_loop(const uint16_t* indices, size_t count, uint16_t value) {
  constexpr size_t kMost = 32768;
  size_t other = 0;
  for (size_t at = 0; at < count; at += kMost) {
    const size_t now = count - at < kMost ? count - at : kMost;
    uint16_t here = 0;
    for (size_t i = 0; i < now; ++i) here = static_cast<uint16_t>(here + (indices[at + i] != value ? 1 : 0));
    other += here;
  }
  return other;
}

}  // namespace
}  // namespace dcc
#endif  // DCC_KERNELS_COMMON_H_
