// number_list.cpp: lists of code lengths and frequencies (FORMAT.md, section 4).
#include "frame/number_list.h"

#include "base/bit_io.h"

namespace dcc {
namespace {

constexpr uint32_t kLargest = 1U << 17;
constexpr unsigned kMostZeros = 20;
constexpr unsigned kOrders = 16;

unsigned bit_length(uint64_t value) {  // in one instruction: small tensors spend most of their time here
  return value == 0 ? 0 : 64 - static_cast<unsigned>(__builtin_clzll(value));
}

uint32_t zigzag_step(uint32_t value, uint32_t previous) {
  const int32_t step = static_cast<int32_t>(value) - static_cast<int32_t>(previous);
  return (static_cast<uint32_t>(step) << 1) ^ static_cast<uint32_t>(step >> 31);
}

// The order that makes the list shortest, the lowest of equals, and the list's bits.
unsigned best_order(const std::vector<uint32_t>& values, uint64_t& best_bits) {
  uint64_t bits[kOrders] = {};
  uint32_t previous = 0;
  for (const uint32_t value : values) {
    const uint64_t image = zigzag_step(value, previous);
    for (unsigned order = 0; order < kOrders; ++order) bits[order] += bit_length(image + (uint64_t{1} << order));
    previous = value;
  }
  unsigned best = 0;
  best_bits = UINT64_MAX;
  for (unsigned order = 0; order < kOrders; ++order) {
    const uint64_t total = 4 + 2 * bits[order] - values.size() * (1 + order);
    if (total < best_bits) {
      best_bits = total;
      best = order;
    }
  }
  return best;
}

uint64_t read_exp_golomb(BitReader& bits, unsigned order) {
  unsigned zeros = 0;
  for (; bits.take(1) == 0; ++zeros) require(zeros < kMostZeros, "an Exp-Golomb prefix is too long");
  const unsigned width = zeros + order;
  return (uint64_t{1} << width) + bits.take(width) - (uint64_t{1} << order);
}

}  // namespace

std::vector<uint32_t> read_number_list(ByteReader& reader, size_t length) {
  ByteReader ahead = reader;
  const Span rest = ahead.rest();
  require(length <= 8 * rest.size, "a number list is cut short");  // every number takes a bit or more
  BitReader bits(rest);
  const unsigned order = static_cast<unsigned>(bits.take(4));
  std::vector<uint32_t> values(length);
  int64_t value = 0;
  for (uint32_t& slot : values) {
    const uint64_t image = read_exp_golomb(bits, order);
    value += static_cast<int64_t>(image >> 1) ^ -static_cast<int64_t>(image & 1);
    require(value >= 0 && value <= kLargest, "a number list leaves its range");
    slot = static_cast<uint32_t>(value);
  }
  reader.take(bits.pad());
  return values;
}

void append_number_list(Bytes& out, const std::vector<uint32_t>& values) {
  uint64_t total = 0;
  const unsigned order = best_order(values, total);
  BitWriter bits;
  bits.put(order, 4);
  uint32_t previous = 0;
  for (const uint32_t value : values) {
    const uint64_t image = zigzag_step(value, previous) + (uint64_t{1} << order);
    const unsigned low = bit_length(image) - 1;
    bits.put(uint64_t{1} << (low - order), low - order + 1);
    bits.put(image ^ (uint64_t{1} << low), low);
    previous = value;
  }
  const Bytes bytes = bits.finish();
  append(out, bytes.data(), bytes.size());
}

size_t number_list_size(const std::vector<uint32_t>& values) {
  uint64_t bits = 0;
  best_order(values, bits);
  return static_cast<size_t>((bits + 7) / 8);
}

}  // namespace dcc
