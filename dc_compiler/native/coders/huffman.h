// huffman.h: decoding and encoding of huffman CHUNKs (FORMAT.md, section 5.1).
#ifndef DCC_HUFFMAN_H_
#define DCC_HUFFMAN_H_

#include <vector>

#include "base/byte_io.h"
#include "coders/huffman_code.h"
#include "kernels/kernels.h"

namespace dcc {

// A code ready for decoding. Owns what `table` points to; movable, as vectors keep their buffers.
class HuffmanDecoder {
 public:
  explicit HuffmanDecoder(const std::vector<uint32_t>& lengths);
  const HuffmanTable& table() const { return table_; }

 private:
  std::vector<uint32_t> entries_;
  std::vector<uint16_t> sorted_;
  HuffmanTable table_;
};

// The symbols of one list of entries, whose streams (one a lane) follow each other.
class HuffmanReader {
 public:
  // `bits` holds the declared bits of each lane; the streams are `streams` from its first byte on.
  HuffmanReader(const HuffmanDecoder& decoder, Span streams, const uint64_t* bits, unsigned lanes);

  // Writes the next symbols. `count` is a multiple of the lanes in every call but the last.
  void read(uint16_t* out, size_t count);

  // Refuses streams that were not consumed exactly.
  void finish() const;

 private:
  const HuffmanTable& table_;
  Span bytes_;
  unsigned lanes_;
  uint64_t positions_[8] = {};
  uint64_t ends_[8] = {};
};

// What it takes to write the entries of a chunk with one code.
struct HuffmanEncoder {
  explicit HuffmanEncoder(const std::vector<uint32_t>& code_lengths);
  std::vector<uint32_t> lengths;  // all 0 for a lone symbol
  std::vector<uint16_t> codes;
};

// CHUNK of `count` indices. With `positions` non-null, zeros (index `zero_index`) are skipped with positions of
// `position_bits` bits and filler zeros.
Bytes encode_huffman_chunk(const uint16_t* indices, size_t count, unsigned lanes, const HuffmanEncoder& codes,
                           const HuffmanEncoder* positions, unsigned position_bits, uint16_t zero_index);

}  // namespace dcc
#endif  // DCC_HUFFMAN_H_
