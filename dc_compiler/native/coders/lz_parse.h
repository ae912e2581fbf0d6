// lz_parse.h: which matches the encoder of coder `lz` takes (FORMAT.md, section 8.1 leaves that to it).
#ifndef DCC_LZ_PARSE_H_
#define DCC_LZ_PARSE_H_

#include <vector>

#include "base/byte_io.h"

namespace dcc {

constexpr uint32_t kLeastLzMatch = 4;

// Literals, then a match; the last sequence has none: length 0.
struct LzSequence {
  uint32_t literals = 0;
  uint32_t length = 0;
  uint32_t offset = 0;
};

// The byte streams of a chunk, in their order.
struct LzStreams {
  Bytes tokens, low, middle, high, extras, literals;
};

LzStreams split_lz(Span bytes, const std::vector<LzSequence>& sequences);

// The sequences that are cheapest when bytes cost what they do in `previous`, the streams of an earlier parse. Looks at
// `depth` earlier places for each byte; takes time and memory of many times the bytes.
std::vector<LzSequence> cheapest_parse(Span bytes, const LzStreams& previous, unsigned depth);

// Sequences found in one quick walk: more than 20 MB a second whatever the bytes, memory of a fraction of them.
std::vector<LzSequence> quick_parse(Span bytes);

}  // namespace dcc
#endif  // DCC_LZ_PARSE_H_
