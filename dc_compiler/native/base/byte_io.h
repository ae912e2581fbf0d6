// byte_io.h: bounds-checked reader and growing writer of bytes, little-endian numbers and varints (FORMAT.md, top).
#ifndef DCC_BYTE_IO_H_
#define DCC_BYTE_IO_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/failure.h"

namespace dcc {

struct Span {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

// The library runs on little-endian processors only, so numbers are copied as they are.
#if defined(__BYTE_ORDER__)
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "dcc needs a little-endian processor");
#endif

template <typename T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

class ByteReader {
 public:
  explicit ByteReader(Span bytes) : begin_(bytes.data), at_(bytes.data), end_(bytes.data + bytes.size) {}

  size_t position() const { return static_cast<size_t>(at_ - begin_); }
  size_t remaining() const { return static_cast<size_t>(end_ - at_); }

  Span take(uint64_t count) {
    require(count <= remaining(), "it is cut short");
    const Span taken{at_, static_cast<size_t>(count)};
    at_ += count;
    return taken;
  }

  Span rest() { return take(remaining()); }
  uint8_t u8() { return *take(1).data; }
  uint32_t u32() { return load<uint32_t>(take(4).data); }

  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
      const uint8_t byte = u8();
      require(shift < 63 || byte <= 1, "a varint has more than 64 bits");
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) {
        require(byte != 0 || shift == 0, "a varint is not in its shortest form");
        return value;
      }
    }
    corrupt("a varint has more than 64 bits");
  }

  int64_t svarint() {
    const uint64_t image = varint();
    return static_cast<int64_t>(image >> 1) ^ -static_cast<int64_t>(image & 1);
  }

  void finish(const char* rule) const { require(at_ == end_, rule); }

 private:
  const uint8_t* begin_;
  const uint8_t* at_;
  const uint8_t* end_;
};

using Bytes = std::vector<uint8_t>;

inline void append(Bytes& out, const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  out.insert(out.end(), bytes, bytes + size);
}

inline void append_u32(Bytes& out, uint32_t value) { append(out, &value, sizeof value); }

inline void append_varint(Bytes& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<uint8_t>(value | 0x80));
  out.push_back(static_cast<uint8_t>(value));
}

inline void append_svarint(Bytes& out, int64_t value) {
  append_varint(out, (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63));
}

inline size_t varint_size(uint64_t value) {
  size_t size = 1;
  for (; value >= 0x80; value >>= 7) ++size;
  return size;
}

}  // namespace dcc
#endif  // DCC_BYTE_IO_H_
