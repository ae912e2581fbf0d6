// lz.cpp: coder `lz`: matches and literals for structured bytes (FORMAT.md, section 8.1).
#include <algorithm>

#include "coders/byte_stream.h"
#include "coders/coder.h"
#include "coders/lz_parse.h"

namespace dcc {
namespace {

constexpr uint32_t kNibble = 15;
constexpr size_t kQuick = 1 << 20;      // from here on time counts more than the last bytes
constexpr size_t kMostSteps = 1 << 23;  // places looked at in a pass, which bounds its time
constexpr size_t kMostDepth = 128;

uint64_t read_length(uint32_t nibble, ByteReader& extras) {
  uint64_t length = nibble;
  for (uint8_t extra = nibble == kNibble ? 255 : 0; extra == 255;) {
    extra = extras.u8();
    length += extra;
  }
  return length;
}

Bytes assemble(const LzStreams& streams) {
  Bytes out;
  append_varint(out, streams.tokens.size());
  append_varint(out, streams.literals.size());
  append_varint(out, streams.extras.size());
  for (const Bytes* stream :
       {&streams.tokens, &streams.low, &streams.middle, &streams.high, &streams.extras, &streams.literals}) {
    append_byte_stream(out, *stream);
  }
  return out;
}

// Decodes a chunk into exactly `size` bytes.
void decode_chunk(Span chunk, uint8_t* out, size_t size) {
  ByteReader reader(chunk);
  const uint64_t sequences = reader.varint();
  const uint64_t literal_count = reader.varint();
  const uint64_t extra_count = reader.varint();
  require(sequences >= 1 && sequences - 1 <= size / 4 && literal_count <= size && extra_count <= size,
          "a chunk has more parts than bytes");
  const size_t count = static_cast<size_t>(sequences);
  const Bytes tokens = read_byte_stream(reader, count);
  const Bytes low = read_byte_stream(reader, count - 1);
  const Bytes middle = read_byte_stream(reader, count - 1);
  const Bytes high = read_byte_stream(reader, count - 1);
  const Bytes extra_bytes = read_byte_stream(reader, static_cast<size_t>(extra_count));
  const Bytes literal_bytes = read_byte_stream(reader, static_cast<size_t>(literal_count));
  reader.finish("bytes follow the last stream of a chunk");
  ByteReader extras({extra_bytes.data(), extra_bytes.size()});
  ByteReader literals({literal_bytes.data(), literal_bytes.size()});

  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    const Span run = literals.take(read_length(tokens[i] >> 4, extras));
    require(run.size <= size - at, "a chunk decodes to too many bytes");
    if (run.size > 0) std::memcpy(out + at, run.data, run.size);
    at += run.size;
    const uint32_t nibble = tokens[i] & 15;
    if (i + 1 == count) {
      require(nibble == 0, "a match follows the last literals");
      break;
    }
    const uint64_t length = read_length(nibble, extras) + kLeastLzMatch;
    const size_t offset = low[i] | static_cast<size_t>(middle[i]) << 8 | static_cast<size_t>(high[i]) << 16;
    require(offset >= 1 && offset <= at, "a match starts before the first byte");
    require(length <= size - at, "a chunk decodes to too many bytes");
    for (const size_t end = at + static_cast<size_t>(length); at < end; ++at) out[at] = out[at - offset];
  }
  require(at == size, "a chunk decodes to too few bytes");
  extras.finish("extras are left over");
  literals.finish("literals are left over");
}

Bytes encode_chunk(Span bytes) {
  const std::vector<LzSequence> literals_only{{static_cast<uint32_t>(bytes.size), 0, 0}};
  LzStreams streams = split_lz(bytes, literals_only);
  Bytes best;
  if (bytes.size > kQuick) {
    best = assemble(streams);
    Bytes out = assemble(split_lz(bytes, quick_parse(bytes)));
    return out.size() < best.size() ? out : best;
  }
  // The first prices are those of bytes as they come; each parse gives better prices to the next. The smallest result
  // counts.
  const auto depth = static_cast<unsigned>(std::min(kMostDepth, kMostSteps / bytes.size));
  const LzMatches matches(bytes, depth);
  std::vector<LzSequence> found;
  for (unsigned pass = 0; pass < (depth < kMostDepth / 2 ? 3U : 5U); ++pass) {
    std::vector<LzSequence> sequences = cheapest_parse(bytes, matches, streams);
    if (sequences == found) break;  // and so would all that follow
    streams = split_lz(bytes, sequences);
    found = std::move(sequences);
    Bytes out = assemble(streams);
    if (best.empty() || out.size() < best.size()) best = std::move(out);
  }
  return best;
}

class Lz final : public Coder {
 public:
  Lz() : Coder({"lz", 5, Stores::kBytes, Layout::kOneChunk, false, 900, 0}) {}

  void decode(Span chunk, uint64_t /*first*/, size_t count, const Header& /*header*/, uint8_t* out) const override {
    decode_chunk(chunk, out, count);
  }

  Bytes encode(const uint8_t* elements, size_t count, const Header& /*header*/) const override {
    return encode_chunk({elements, count});
  }

  bool is_worth_trying(const Header& header) const override { return header.n >> 31 == 0; }
};

}  // namespace

const Coder& lz_coder() {
  static const Lz coder;
  return coder;
}

}  // namespace dcc
