// byte_stream.h: bytes, raw or entropy-coded (FORMAT.md, section 6).
#ifndef DCC_BYTE_STREAM_H_
#define DCC_BYTE_STREAM_H_

#include <memory>
#include <optional>

#include "base/byte_io.h"
#include "coders/rans_code.h"

namespace dcc {

constexpr size_t kByteBlock = 4096;  // a multiple of every number of lanes

// A stream of `count` bytes, read a block at a time, of which as many fit the nearest cache. The caller has made sure
// that so many are expected.
class ByteStream {
 public:
  ByteStream(ByteReader& reader, size_t count);
  ByteStream(ByteStream&&) = default;

  // The next `count` bytes, kByteBlock in every call but the last: in the stream itself, or in `block`.
  const uint8_t* next(uint8_t* block, size_t count);

  // Refuses what is left over.
  void finish() const;

 private:
  const uint8_t* raw_ = nullptr;
  std::unique_ptr<RansDecoder> decoder_;
  std::optional<RansReader> symbols_;
};

// Reads a stream of `count` bytes; the caller has made sure that so many are expected.
Bytes read_byte_stream(ByteReader& reader, size_t count);

// Writes `bytes` in the smaller form: coded ones only where that saves `least_saved` bytes.
void append_byte_stream(Bytes& out, const Bytes& bytes, size_t least_saved = 0);

}  // namespace dcc
#endif  // DCC_BYTE_STREAM_H_
