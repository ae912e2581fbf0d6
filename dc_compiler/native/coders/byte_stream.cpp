// byte_stream.cpp: bytes, raw or entropy-coded (FORMAT.md, section 6).
#include "coders/byte_stream.h"

#include <algorithm>

#include "coders/rans_code.h"

namespace dcc {
namespace {

enum Mode : uint8_t { kRaw = 0, kRans = 1 };

}  // namespace

ByteStream::ByteStream(ByteReader& reader, size_t count) {
  const uint8_t mode = reader.u8();
  require(mode <= kRans, "the mode of a byte stream is unknown");
  if (mode == kRaw) {
    raw_ = reader.take(count).data;
    return;
  }
  const unsigned lanes = reader.u8();
  require_lanes(lanes, kMostRansLanes);
  decoder_ = std::make_unique<RansDecoder>(read_rans_model(reader, 256));
  symbols_.emplace(*decoder_, reader.take(reader.varint()), lanes);
}

const uint8_t* ByteStream::next(uint8_t* block, size_t count) {
  if (!symbols_) {
    const uint8_t* const bytes = raw_;
    raw_ += count;
    return bytes;
  }
  uint16_t symbols[kByteBlock];
  symbols_->read(symbols, count);
  for (size_t i = 0; i < count; ++i) block[i] = static_cast<uint8_t>(symbols[i]);
  return block;
}

void ByteStream::finish() const {
  if (symbols_) symbols_->finish();
}

Bytes read_byte_stream(ByteReader& reader, size_t count) {
  ByteStream stream(reader, count);
  Bytes bytes(count);
  for (size_t at = 0; at < count; at += kByteBlock) {
    const size_t now = std::min(kByteBlock, count - at);
    uint8_t* const to = bytes.data() + at;
    const uint8_t* const from = stream.next(to, now);
    if (from != to) std::memcpy(to, from, now);
  }
  stream.finish();
  return bytes;
}

void append_byte_stream(Bytes& out, const Bytes& bytes, size_t least_saved) {
  if (!bytes.empty()) {
    Counts counts(256, 0);
    for (const uint8_t byte : bytes) ++counts[byte];
    uint64_t bits = 0;
    const RansModel model = best_rans_model(counts, bits);
    const unsigned lanes = lanes_for(bits / 8, 3, kMostRansLanes);
    Bytes coded{kRans, static_cast<uint8_t>(lanes)};
    append_rans_model(coded, model);
    if (coded.size() + bits / 8 + least_saved < bytes.size()) {
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
