// bit_io.h: bit streams that fill each byte from its least significant bit (FORMAT.md, top).
#ifndef DCC_BIT_IO_H_
#define DCC_BIT_IO_H_

#include "base/byte_io.h"

namespace dcc {

class BitWriter {
 public:
  // Appends the low `count` (at most 40) bits of `value`, whose other bits are zero.
  void put(uint64_t value, unsigned count) {
    pending_ |= value << used_;
    used_ += count;
    bits_ += count;
    for (; used_ >= 8; used_ -= 8, pending_ >>= 8) bytes_.push_back(static_cast<uint8_t>(pending_));
  }

  // Ends the stream at a byte boundary and gives its bytes away.
  Bytes finish() {
    if (used_ > 0) bytes_.push_back(static_cast<uint8_t>(pending_));
    return std::move(bytes_);
  }

  uint64_t bits() const { return bits_; }

 private:
  Bytes bytes_;
  uint64_t pending_ = 0;
  uint64_t bits_ = 0;
  unsigned used_ = 0;
};

class BitReader {
 public:
  explicit BitReader(Span bytes) : bytes_(bytes) {}

  uint64_t take(unsigned count) {
    require(count <= 8 * bytes_.size - at_, "a bit stream is cut short");
    uint64_t value = 0;
    for (unsigned got = 0; got < count;) {
      const unsigned offset = static_cast<unsigned>(at_ & 7);
      const unsigned step = count - got < 8 - offset ? count - got : 8 - offset;
      const uint64_t part = (static_cast<unsigned>(bytes_.data[at_ >> 3]) >> offset) & ((1U << step) - 1);
      value |= part << got;
      got += step;
      at_ += step;
    }
    return value;
  }

  // Skips zero bits up to a byte boundary and returns the bytes read so far.
  size_t pad() {
    require(take(static_cast<unsigned>(-at_ & 7)) == 0, "padding bits are not zero");
    return at_ >> 3;
  }

 private:
  Span bytes_;
  size_t at_ = 0;  // in bits
};

}  // namespace dcc
#endif  // DCC_BIT_IO_H_
