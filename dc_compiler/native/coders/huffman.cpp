// huffman.cpp: decoding and encoding of huffman CHUNKs (FORMAT.md, section 5.1).
#include "coders/huffman.h"

#include <algorithm>

#include "base/bit_io.h"
#include "kernels/isa.h"
#include "kernels/kernel_steps.h"

namespace dcc {
namespace {

constexpr unsigned kTableBits = 12;

// The next 32 bits or more, zeros after the end of `bytes`.
uint64_t window_at(Span bytes, uint64_t position) {
  const uint64_t byte = position >> 3;
  uint64_t window = 0;
  if (byte < bytes.size) std::memcpy(&window, bytes.data + byte, std::min<size_t>(8, bytes.size - byte));
  return window >> (position & 7);
}

// Streams of one list of entries, entry t in stream t mod lanes.
class LaneWriters {
 public:
  explicit LaneWriters(unsigned lanes) : writers_(lanes) {}

  void put(const HuffmanEncoder& code, uint32_t symbol) {
    writers_[next_].put(code.codes[symbol], code.lengths[symbol]);
    next_ = next_ + 1 == writers_.size() ? 0 : next_ + 1;
  }

  void append_sizes(Bytes& out) const {
    for (const BitWriter& writer : writers_) append_varint(out, writer.bits());
  }

  void append_streams(Bytes& out) {
    for (BitWriter& writer : writers_) {
      const Bytes bytes = writer.finish();
      append(out, bytes.data(), bytes.size());
    }
  }

 private:
  std::vector<BitWriter> writers_;
  size_t next_ = 0;
};

}  // namespace

HuffmanDecoder::HuffmanDecoder(const std::vector<uint32_t>& lengths) {
  const bool lone = check_lengths(lengths);
  const uint32_t longest = *std::max_element(lengths.begin(), lengths.end());
  table_.bits = lone ? 0 : std::min(longest, kTableBits);
  table_.has_long_codes = longest > kTableBits;
  entries_.resize(size_t{1} << table_.bits, kLongCode);
  const std::vector<uint16_t> codes = canonical_codes(lengths);

  uint32_t count[kLongestCode + 1] = {};
  for (const uint32_t length : lengths) ++count[length];
  uint32_t code = 0;   // first of its length
  uint32_t before = 0;  // symbols with shorter codes
  uint32_t next[kLongestCode + 1] = {};
  for (unsigned length = 1; length <= kLongestCode; ++length) {
    table_.first[length] = code - before;  // wraps around when negative, and so does the sum it is used in
    table_.end16[length] = (code + count[length]) << (kLongestCode - length);
    next[length] = before;
    before += count[length];
    code = (code + count[length]) << 1;
  }

  if (table_.has_long_codes) sorted_.resize(before);
  for (uint32_t symbol = 0; symbol < lengths.size(); ++symbol) {
    const uint32_t length = lone ? 0 : lengths[symbol];
    if (lengths[symbol] == 0) continue;
    if (table_.has_long_codes) sorted_[next[length]++] = static_cast<uint16_t>(symbol);
    if (length > table_.bits) continue;
    for (size_t slot = lone ? 0 : codes[symbol]; slot < entries_.size(); slot += size_t{1} << length) {
      entries_[slot] = symbol << 16 | length;
    }
  }
  table_.entries = entries_.data();
  table_.sorted = sorted_.data();
}

HuffmanReader::HuffmanReader(const HuffmanDecoder& decoder, Span streams, const uint64_t* bits, unsigned lanes)
    : table_(decoder.table()), bytes_(streams), lanes_(lanes) {
  uint64_t start = 0;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    positions_[lane] = start;
    ends_[lane] = start + bits[lane];
    start = (ends_[lane] + 7) / 8 * 8;
  }
}

void HuffmanReader::read(uint16_t* out, size_t count) {
  const size_t done =
      lanes_ * kernels().huffman(table_, positions_, lanes_, bytes_.data, bytes_.size, out, count / lanes_);
  for (size_t t = done; t < count; ++t) {
    uint64_t& position = positions_[t % lanes_];
    const uint32_t entry = huffman_entry<true>(table_, window_at(bytes_, position));
    position += entry & 0xFF;
    out[t] = static_cast<uint16_t>(entry >> 16);
  }
}

void HuffmanReader::finish() const {
  for (unsigned lane = 0; lane < lanes_; ++lane) {
    require(positions_[lane] == ends_[lane], "a stream does not end where it should");
    const unsigned used = static_cast<unsigned>(ends_[lane] & 7);
    require(used == 0 || bytes_.data[ends_[lane] >> 3] >> used == 0, "padding bits are not zero");
  }
}

HuffmanEncoder::HuffmanEncoder(const std::vector<uint32_t>& code_lengths)
    : lengths(code_lengths), codes(canonical_codes(code_lengths)) {
  if (check_lengths(lengths)) std::fill(lengths.begin(), lengths.end(), 0);
}

Bytes encode_huffman_chunk(const uint16_t* indices, size_t count, unsigned lanes, const HuffmanEncoder& codes,
                           const HuffmanEncoder* positions, unsigned position_bits, uint16_t zero_index) {
  LaneWriters gaps(lanes);
  LaneWriters symbols(lanes);
  uint64_t entries = 0;
  if (positions == nullptr) {
    entries = count;
    for (size_t i = 0; i < count; ++i) symbols.put(codes, indices[i]);
  } else {
    const uint32_t longest = (1U << position_bits) - 1;
    uint32_t gap = 0;
    for (size_t i = 0; i < count; ++i) {
      if (indices[i] == zero_index) {
        ++gap;
        continue;
      }
      for (; gap > longest; gap -= longest + 1, ++entries) {
        gaps.put(*positions, longest);
        symbols.put(codes, zero_index);
      }
      gaps.put(*positions, gap);
      symbols.put(codes, indices[i]);
      gap = 0;
      ++entries;
    }
  }
  Bytes out;
  append_varint(out, entries);
  if (positions != nullptr) gaps.append_sizes(out);
  symbols.append_sizes(out);
  if (positions != nullptr) gaps.append_streams(out);
  symbols.append_streams(out);
  return out;
}

}  // namespace dcc
