// lossless.cpp: coder `lossless`: elements split into byte planes (FORMAT.md, section 7).
#include <algorithm>

#include "coders/byte_stream.h"
#include "coders/coder.h"

namespace dcc {
namespace {

constexpr uint64_t kChunk = uint64_t{1} << 18;
// Bits of a mantissa are nearly uniform. To code them takes longer than all else, and saves less than this part of a
// plane; in floats of 16 bits, which are many where they are used, they are left as they are.
constexpr size_t kLeastSaved = 128;
constexpr size_t kManyElements = size_t{1} << 16;

// Elements from a block of each plane. What is written is this function's own until it is done, so that compilers know
// that it overlaps no plane.
template <typename T, bool kRotate>
void join(const uint8_t* const* planes, size_t count, uint8_t* out) {
  constexpr unsigned kBits = 8 * sizeof(T);
  T elements[kByteBlock];
  const uint8_t* from[sizeof(T)];
  for (size_t plane = 0; plane < sizeof(T); ++plane) from[plane] = planes[plane];
  for (size_t i = 0; i < count; ++i) {
    T bits = 0;
    for (size_t plane = 0; plane < sizeof(T); ++plane) {
      bits = static_cast<T>(bits | static_cast<T>(static_cast<T>(from[plane][i]) << (8 * plane)));
    }
    if (kRotate) bits = static_cast<T>((bits >> 1) | (bits << (kBits - 1)));
    elements[i] = bits;
  }
  std::memcpy(out, elements, count * sizeof(T));
}

template <typename T>
void decode_planes(ByteReader& reader, size_t count, bool rotate, uint8_t* out) {
  std::vector<ByteStream> streams;
  streams.reserve(sizeof(T));
  for (size_t plane = 0; plane < sizeof(T); ++plane) streams.emplace_back(reader, count);
  reader.finish("bytes follow the last stream of a chunk");
  uint8_t blocks[sizeof(T)][kByteBlock];
  const uint8_t* planes[sizeof(T)];
  for (size_t at = 0; at < count; at += kByteBlock) {
    const size_t now = std::min(kByteBlock, count - at);
    for (size_t plane = 0; plane < sizeof(T); ++plane) planes[plane] = streams[plane].next(blocks[plane], now);
    (rotate ? join<T, true> : join<T, false>)(planes, now, out + at * sizeof(T));
  }
  for (const ByteStream& stream : streams) stream.finish();
}

template <typename T>
Bytes plane_of(const uint8_t* elements, size_t count, bool rotate, size_t plane) {
  constexpr unsigned kBits = 8 * sizeof(T);
  Bytes bytes(count);
  for (size_t i = 0; i < count; ++i) {
    T bits = load<T>(elements + i * sizeof(T));
    if (rotate) bits = static_cast<T>((bits << 1) | (bits >> (kBits - 1)));
    bytes[i] = static_cast<uint8_t>(bits >> (8 * plane));
  }
  return bytes;
}

class Lossless final : public Coder {
 public:
  Lossless() : Coder({"lossless", 4, Stores::kElements, Layout::kChunks, false, 2'700, 0}) {}

  void decode(Span chunk, uint64_t /*first*/, size_t count, const Header& header, uint8_t* out) const override {
    const bool rotate = header.is_plain_float();
    ByteReader reader(chunk);
    switch (header.element_size()) {
      case 1: return decode_planes<uint8_t>(reader, count, rotate, out);
      case 2: return decode_planes<uint16_t>(reader, count, rotate, out);
      case 4: return decode_planes<uint32_t>(reader, count, rotate, out);
      default: return decode_planes<uint64_t>(reader, count, rotate, out);
    }
  }

  Bytes encode(const uint8_t* elements, size_t count, const Header& header) const override {
    const size_t width = header.element_size();
    const bool is_many = header.is_plain_float() && width == 2 && count >= kManyElements;
    Bytes out;
    for (size_t plane = 0; plane < width; ++plane) {
      const auto split = width == 1   ? plane_of<uint8_t>
                         : width == 2 ? plane_of<uint16_t>
                         : width == 4 ? plane_of<uint32_t>
                                      : plane_of<uint64_t>;
      append_byte_stream(out, split(elements, count, header.is_plain_float(), plane),
                         is_many ? count / kLeastSaved : 0);
    }
    return out;
  }

  uint64_t chunk_for(const Header& header) const override { return std::min(header.n, kChunk); }
};

}  // namespace

const Coder& lossless_coder() {
  static const Lossless coder;
  return coder;
}

}  // namespace dcc
