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

  bool operator==(const LzSequence& other) const {
    return literals == other.literals && length == other.length && offset == other.offset;
  }
};

// The byte streams of a chunk, in their order.
struct LzStreams {
  Bytes tokens, low, middle, high, extras, literals;
};

LzStreams split_lz(Span bytes, const std::vector<LzSequence>& sequences);

struct LzMatch {
  uint32_t length = 0;  // 0: a literal
  uint32_t offset = 0;
};

// The matches at every place of the bytes, ever longer and ever farther; none inside a very long one. Looks at `depth`
// earlier places for each byte; takes time and memory of many times the bytes. Parses share them: they do not depend on
// prices.
class LzMatches {
 public:
  LzMatches(Span bytes, unsigned depth);

  const LzMatch* begin(size_t at) const { return matches_.data() + starts_[at]; }
  const LzMatch* end(size_t at) const { return matches_.data() + starts_[at + 1]; }

 private:
  std::vector<LzMatch> matches_;
  std::vector<uint32_t> starts_;  // where those of a place begin
};

constexpr uint32_t kLongLzMatch = 256;  // taken without looking for better

// The sequences that are cheapest when bytes cost what they do in `previous`, the streams of an earlier parse.
std::vector<LzSequence> cheapest_parse(Span bytes, const LzMatches& matches, const LzStreams& previous);

// Sequences found in one quick walk: more than 20 MB a second whatever the bytes, memory of a fraction of them.
std::vector<LzSequence> quick_parse(Span bytes);

}  // namespace dcc
#endif  // DCC_LZ_PARSE_H_
