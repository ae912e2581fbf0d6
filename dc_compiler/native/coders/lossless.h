// lossless.h: elements split into byte planes (FORMAT.md, section 7).
#ifndef DCC_LOSSLESS_H_
#define DCC_LOSSLESS_H_

#include "base/byte_io.h"

namespace dcc {

// `width` bytes an element; `rotate` for floats. `count` elements.
void decode_lossless_chunk(Span chunk, size_t count, size_t width, bool rotate, uint8_t* out);
Bytes encode_lossless_chunk(const uint8_t* elements, size_t count, size_t width, bool rotate);

}  // namespace dcc
#endif  // DCC_LOSSLESS_H_
