// kernels_common.h: the kernels in plain C++, compiled anew with the flags of each instruction set.
//
// Everything is in an unnamed namespace and nothing comes from the standard library's templates: a function that the
// linker could share between files might otherwise bring one set's instructions to a processor that has not got them.
#ifndef DCC_KERNELS_COMMON_H_
#define DCC_KERNELS_COMMON_H_

#include "kernels/kernel_steps.h"

namespace dcc {
namespace {

template <bool kPacked>
size_t rans_loop(const RansTable& table, uint32_t* states, unsigned lanes, const uint8_t** words, const uint8_t* end,
                 uint16_t* out, size_t groups) {
  const RansTable local = table;
  const uint8_t* at = *words;
  size_t done = 0;
  for (; done < groups && end - at >= static_cast<ptrdiff_t>(2 * lanes); ++done, out += lanes) {
    for (unsigned lane = 0; lane < lanes; ++lane) out[lane] = rans_step<kPacked>(local, states[lane], at);
  }
  *words = at;
  return done;
}

size_t rans_scalar(const RansTable& table, uint32_t* states, unsigned lanes, const uint8_t** words, const uint8_t* end,
                   uint16_t* out, size_t groups) {
  const auto loop = table.packed != nullptr ? rans_loop<true> : rans_loop<false>;
  return loop(table, states, lanes, words, end, out, groups);
}

// A load of 8 bytes at any bit position holds 57 bits or more: that is `kRounds` codes of every lane.
template <bool kLong, unsigned kLanes>
size_t huffman_loop(const HuffmanTable& table, uint64_t* positions, const uint8_t* bytes, size_t size, uint16_t* out,
                    size_t groups) {
  constexpr unsigned kRounds = kLong ? 3 : 4;  // 3 x 16 bits, 4 x 12 bits
  const HuffmanTable local = table;
  uint64_t at[kLanes];
  for (unsigned lane = 0; lane < kLanes; ++lane) at[lane] = positions[lane];
  size_t done = 0;
  for (; groups - done >= kRounds; done += kRounds, out += kRounds * kLanes) {
    uint64_t furthest = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) furthest = furthest < at[lane] ? at[lane] : furthest;
    if ((furthest >> 3) + 8 > size) break;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      uint64_t window = load_at<uint64_t>(bytes + (at[lane] >> 3)) >> (at[lane] & 7);
      uint32_t lengths = 0;
      for (unsigned round = 0; round < kRounds; ++round) {
        const uint32_t entry = huffman_entry<kLong>(local, window);
        window >>= entry & 63;
        lengths += entry & 0xFF;
        out[round * kLanes + lane] = static_cast<uint16_t>(entry >> 16);
      }
      at[lane] += lengths;
    }
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) positions[lane] = at[lane];
  return done;
}

template <bool kLong>
size_t huffman_lanes(const HuffmanTable& table, uint64_t* positions, unsigned lanes, const uint8_t* bytes, size_t size,
                     uint16_t* out, size_t groups) {
  switch (lanes) {
    case 1: return huffman_loop<kLong, 1>(table, positions, bytes, size, out, groups);
    case 2: return huffman_loop<kLong, 2>(table, positions, bytes, size, out, groups);
    case 4: return huffman_loop<kLong, 4>(table, positions, bytes, size, out, groups);
    default: return huffman_loop<kLong, 8>(table, positions, bytes, size, out, groups);
  }
}

size_t huffman_scalar(const HuffmanTable& table, uint64_t* positions, unsigned lanes, const uint8_t* bytes, size_t size,
                      uint16_t* out, size_t groups) {
  const auto loop = table.has_long_codes ? huffman_lanes<true> : huffman_lanes<false>;
  return loop(table, positions, lanes, bytes, size, out, groups);
}

template <typename T>
void lookup_loop(const T* table, const uint16_t* indices, T* out, size_t count) {
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

size_t count_other_loop(const uint16_t* indices, size_t count, uint16_t value) {
  size_t other = 0;
  for (size_t i = 0; i < count; ++i) other += indices[i] != value ? 1U : 0U;
  return other;
}

}  // namespace
}  // namespace dcc
#endif  // DCC_KERNELS_COMMON_H_
