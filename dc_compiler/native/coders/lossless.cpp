// lossless.cpp: elements split into byte planes (FORMAT.md, section 7).
#include "coders/lossless.h"

#include "coders/byte_stream.h"

namespace dcc {
namespace {

template <typename T>
void join(const std::vector<Bytes>& planes, size_t count, bool rotate, uint8_t* out) {
  constexpr unsigned kBits = 8 * sizeof(T);
  for (size_t i = 0; i < count; ++i) {
    uint64_t word = 0;
    for (size_t plane = 0; plane < sizeof(T); ++plane) word |= static_cast<uint64_t>(planes[plane][i]) << (8 * plane);
    T bits = static_cast<T>(word);
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

}  // namespace

void decode_lossless_chunk(Span chunk, size_t count, size_t width, bool rotate, uint8_t* out) {
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

Bytes encode_lossless_chunk(const uint8_t* elements, size_t count, size_t width, bool rotate) {
  Bytes out;
  for (size_t plane = 0; plane < width; ++plane) {
    const auto split = width == 1   ? plane_of<uint8_t>
                       : width == 2 ? plane_of<uint16_t>
                       : width == 4 ? plane_of<uint32_t>
                                    : plane_of<uint64_t>;
    append_byte_stream(out, split(elements, count, rotate, plane));
  }
  return out;
}

}  // namespace dcc
