// text.h: coder `text` (FORMAT.md, section 8.2): structured bytes, graph topology above all, by context mixing.
#ifndef DCC_TEXT_H_
#define DCC_TEXT_H_

#include "base/byte_io.h"

namespace dcc {

// CHUNK.
Bytes encode_text_chunk(Span bytes);
void decode_text_chunk(Span chunk, uint8_t* out, size_t count);

}  // namespace dcc
#endif  // DCC_TEXT_H_
