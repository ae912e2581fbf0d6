// byte_stream.h: bytes, raw or entropy-coded (FORMAT.md, section 6).
#ifndef DCC_BYTE_STREAM_H_
#define DCC_BYTE_STREAM_H_

#include "base/byte_io.h"

namespace dcc {

// Reads a stream of `count` bytes; the caller has made sure that so many are expected.
Bytes read_byte_stream(ByteReader& reader, size_t count);

// Writes `bytes` in the smaller form.
void append_byte_stream(Bytes& out, const Bytes& bytes);

}  // namespace dcc
#endif  // DCC_BYTE_STREAM_H_
