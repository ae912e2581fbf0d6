// rans_code.h: range asymmetric numeral systems (FORMAT.md, section 5.2): tables, decoding, encoding.
#ifndef DCC_RANS_CODE_H_
#define DCC_RANS_CODE_H_

#include <vector>

#include "base/byte_io.h"
#include "coders/huffman_code.h"
#include "coders/lanes.h"
#include "frame/number_list.h"
#include "kernels/kernels.h"

namespace dcc {

constexpr unsigned kMostRansLanes = 32;

struct RansModel {
  unsigned scale_bits = 0;
  std::vector<uint32_t> frequencies;
};

// TABLES.
RansModel read_rans_model(ByteReader& reader, size_t k);
void append_rans_model(Bytes& out, const RansModel& model);

// The model of the smallest scale, whose tables stay in the nearest cache, with which `counts` and its own TABLES take
// at most 0.05 % more room than with the best. `bits` gets the bits of the streams, TABLES not included.
RansModel best_rans_model(const Counts& counts, uint64_t& bits);

// Frequencies of sum 2^scale_bits, at least 1 for every symbol that occurs; all of symbol 0's where none does.
std::vector<uint32_t> rans_frequencies(const Counts& counts, unsigned scale_bits);

// Bits of the streams, rounded up.
uint64_t rans_stream_bits(const Counts& counts, const RansModel& model);

// A model ready for decoding. Owns what `table` points to; movable, as vectors keep their buffers.
class RansDecoder {
 public:
  explicit RansDecoder(const RansModel& model);
  const RansTable& table() const { return table_; }

 private:
  std::vector<uint32_t> steps_;
  std::vector<uint16_t> symbols_;
  RansTable table_;
};

// The symbols of one CHUNK.
class RansReader {
 public:
  RansReader(const RansDecoder& decoder, Span chunk, unsigned lanes);

  // Writes the next symbols. `count` is a multiple of the lanes in every call but the last.
  void read(uint16_t* out, size_t count);

  // The same for two readers, side by side where that takes less time.
  void read_two(uint16_t* out, RansReader& other, uint16_t* other_out, size_t count);

  // Refuses final states other than 2^16 and words that are left.
  void finish() const;

 private:
  RansRun run(uint16_t* out);

  const RansTable& table_;
  unsigned lanes_;
  uint32_t states_[kMostRansLanes] = {};
  const uint8_t* words_;
  const uint8_t* end_;
};

// CHUNK. T is uint8_t or uint16_t; every symbol has a frequency.
template <typename T>
Bytes encode_rans_chunk(const T* symbols, size_t count, unsigned lanes, const RansModel& model);

}  // namespace dcc
#endif  // DCC_RANS_CODE_H_
