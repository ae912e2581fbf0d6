// kernel_steps.h: one symbol of one lane, for the kernels and for the careful loops at the ends of streams.
//
// In an unnamed namespace for the reason given in kernels_common.h.
#ifndef DCC_KERNEL_STEPS_H_
#define DCC_KERNEL_STEPS_H_

#include <cstring>

#include "kernels/kernels.h"

namespace dcc {
namespace {

template <typename T>
inline T load_at(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// FORMAT.md 5.2, the step of one lane. Reads a word whether it needs one or not.
template <bool kPacked>
inline uint16_t rans_step(const RansTable& table, uint32_t& state, const uint8_t*& words) {
  const unsigned s = table.scale_bits;
  const unsigned field = kPacked ? table.field_bits : 16;
  const uint32_t mask = (1U << field) - 1;
  const uint32_t slot = state & ((1U << s) - 1);
  const uint32_t step = kPacked ? table.packed[slot] : table.steps[slot];
  const uint32_t frequency = (step & mask) + 1;
  const uint32_t offset = (step >> field) & mask;
  const uint32_t x = frequency * (state >> s) + offset;
  // No branch: whether a lane needs a word is as good as random.
  const uint32_t refill = 0U - static_cast<uint32_t>(x < 0x10000);
  state = (x << (refill & 16)) | (load_at<uint16_t>(words) & refill);
  words += refill & 2;
  return static_cast<uint16_t>(kPacked ? step >> (2 * field) : table.symbols[slot]);
}

// Finds a code longer than the table (see HuffmanTable); returns its entry.
inline uint32_t long_code(const HuffmanTable& table, uint64_t window) {
  uint32_t code = static_cast<uint32_t>(window & 0xFFFF);
  code = ((code & 0x5555) << 1) | ((code >> 1) & 0x5555);
  code = ((code & 0x3333) << 2) | ((code >> 2) & 0x3333);
  code = ((code & 0x0F0F) << 4) | ((code >> 4) & 0x0F0F);
  code = ((code & 0x00FF) << 8) | (code >> 8);
  unsigned length = table.bits + 1;
  while (code >= table.end16[length]) ++length;  // ends: a complete code has end16[16] = 2^16
  return static_cast<uint32_t>(table.sorted[(code >> (16 - length)) - table.first[length]]) << 16 | length;
}

template <bool kLong>
inline uint32_t huffman_entry(const HuffmanTable& table, uint64_t window) {
  const uint32_t entry = table.entries[window & ((uint64_t{1} << table.bits) - 1)];
  if (kLong && (entry & 0xFF) == kLongCode) return long_code(table, window);
  return entry;
}

}  // namespace
}  // namespace dcc
#endif  // DCC_KERNEL_STEPS_H_
