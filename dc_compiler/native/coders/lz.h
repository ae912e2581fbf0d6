// lz.h: matches and literals for structured bytes (FORMAT.md, section 8).
#ifndef DCC_LZ_H_
#define DCC_LZ_H_

#include "base/byte_io.h"

namespace dcc {

// Decodes a chunk into exactly `size` bytes.
void decode_lz_chunk(Span chunk, uint8_t* out, size_t size);
Bytes encode_lz_chunk(Span bytes);

}  // namespace dcc
#endif  // DCC_LZ_H_
