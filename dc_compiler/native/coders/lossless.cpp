// lossless.cpp: coder `lossless`: elements split into byte planes (FORMAT.md, section 7).
#include <algorithm>

#include "coders/byte_stream.h"
#include "coders/coder.h"

namespace dcc {
namespace {

constexpr uint64_t kChunk = uint64_t{1} << 18;

template <typename T>
void join(const std::vector<Bytes>& planes, size_t count, bool rotate, uint8_t* out) {
  constexpr unsigned kBits = 8 * sizeof(T);
  const uint8_t*
      from[sizeof(T)];  // what is written could overlap the vectors' own pointers, for all the compiler knows
  for (size_t plane = 0; plane < sizeof(T); ++plane) from[plane] = planes[plane].data();
  for (size_t i = 0; i < count; ++i) {
    T bits = 0;
    for (size_t plane = 0; plane < sizeof(T); ++plane) {
      bits = static_cast<T>(bits | static_cast<T>(static_cast<T>(from[plane][i]) << (8 * plane)));
    }
    if (rotate) bits = static_cast<T>((bits >> 1) | (bits << (kBits - 1)));
    std::memcpy(out + i * sizeof(T), &bits, sizeof bits);
  }
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
    const size_t width = header.element_size();
    const bool rotate = header.is_plain_float();
    ByteReader reader(chunk);
    std::vector<Bytes> planes;
    for (size_t plane = 0; plane < width; ++plane) planes.push_back(read_byte_stream(reader, count));
    reader.finish("bytes follow the last stream of a chunk");
    switch (width) {
      case 1: return join<uint8_t>(planes, count, rotate, out);
      case 2: return join<uint16_t>(planes, count, rotate, out);
      case 4: return join<uint32_t>(planes, count, rotate, out);
      default: return join<uint64_t>(planes, count, rotate, out);
    }
  }

  Bytes encode(const uint8_t* elements, size_t count, const Header& header) const override {
    const size_t width = header.element_size();
    Bytes out;
    for (size_t plane = 0; plane < width; ++plane) {
      const auto split = width == 1   ? plane_of<uint8_t>
                         : width == 2 ? plane_of<uint16_t>
                         : width == 4 ? plane_of<uint32_t>
                                      : plane_of<uint64_t>;
      append_byte_stream(out, split(elements, count, header.is_plain_float(), plane));
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
