// byte_stream.cpp: bytes, raw or entropy-coded (FORMAT.md, section 6).
#include "coders/byte_stream.h"

#include <algorithm>

#include "coders/rans_code.h"

namespace dcc {
namespace {

enum Mode : uint8_t { kRaw = 0, kRans = 1 };
constexpr size_t kBlock = 4096;  // a multiple of every number of lanes

}  // namespace

Bytes read_byte_stream(ByteReader& reader, size_t count) {
  const uint8_t mode = reader.u8();
  require(mode <= kRans, "the mode of a byte stream is unknown");
  if (mode == kRaw) {
    const Span raw = reader.take(count);
    return Bytes(raw.data, raw.data + raw.size);
  }
  const unsigned lanes = reader.u8();
  require_lanes(lanes, kMostRansLanes);
  const RansDecoder decoder(read_rans_model(reader, 256));
  RansReader symbols(decoder, reader.take(reader.varint()), lanes);
  Bytes bytes(count);
  uint16_t block[kBlock];
  for (size_t at = 0; at < count; at += kBlock) {
    const size_t now = std::min(kBlock, count - at);
    symbols.read(block, now);
    for (size_t i = 0; i < now; ++i) bytes[at + i] = static_cast<uint8_t>(block[i]);
  }
  symbols.finish();
  return bytes;
}

void append_byte_stream(Bytes& out, const Bytes& bytes) {
  if (!bytes.empty()) {
    Counts counts(256, 0);
    for (const uint8_t byte : bytes) ++counts[byte];
    uint64_t bits = 0;
    const RansModel model = best_rans_model(counts, bits);
    const unsigned lanes = lanes_for(bits / 8, 3, kMostRansLanes);
    Bytes coded{kRans, static_cast<uint8_t>(lanes)};
    append_rans_model(coded, model);
    if (coded.size() + bits / 8 < bytes.size()) {
      const Bytes chunk = encode_rans_chunk(bytes.data(), bytes.size(), lanes, model);
      append_varint(coded, chunk.size());
      append(coded, chunk.data(), chunk.size());
      if (coded.size() <= bytes.size()) {
        append(out, coded.data(), coded.size());
        return;
      }
    }
  }
  out.push_back(kRaw);
  append(out, bytes.data(), bytes.size());
}

}  // namespace dcc
