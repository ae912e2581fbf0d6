// wire.h: protobuf's wire format: a message taken apart field by field, and what writes one.
#ifndef DCC_WIRE_H_
#define DCC_WIRE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "model/refusal.h"

namespace dcc {

enum WireType : uint8_t { kNumber = 0, kEightBytes = 1, kBytes = 2, kFourBytes = 5 };

struct WireField {
  uint32_t number = 0;
  uint8_t type = 0;
  uint64_t value = 0;      // of kNumber
  std::string_view bytes;  // of kBytes: text, or a message
  std::string_view whole;  // with its tag
};

// The fields of a message, one after another, as protobuf reads them: numbers may be longer than they need to be.
// Messages inside are not looked at. Throws Failure.
class WireReader {
 public:
  explicit WireReader(std::string_view message) : rest_(message) {}

  // False at the end.
  bool next(WireField& field) {
    if (rest_.empty()) return false;
    const std::string_view start = rest_;
    const uint64_t tag = number();
    field = {};
    field.number = static_cast<uint32_t>(tag >> 3);
    field.type = static_cast<uint8_t>(tag & 7);
    if (tag > UINT32_MAX || field.number == 0) malformed();
    switch (field.type) {
      case kNumber: field.value = number(); break;
      case kEightBytes: take(8); break;
      case kBytes: field.bytes = take(number()); break;
      case kFourBytes: take(4); break;
      default: malformed();  // groups, which no ONNX model has
    }
    field.whole = start.substr(0, start.size() - rest_.size());
    return true;
  }

 private:
  [[noreturn]] static void malformed() { refuse("the model is not a well-formed ONNX model (protobuf)"); }

  std::string_view take(uint64_t size) {
    if (size > rest_.size()) malformed();
    const std::string_view taken = rest_.substr(0, static_cast<size_t>(size));
    rest_.remove_prefix(taken.size());
    return taken;
  }

  uint64_t number() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      if (shift == 63 && byte > 1) malformed();
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    malformed();
  }

  std::string_view rest_;
};

// At least `size` bytes: readers take numbers that are longer than they need to be.
inline void put_varint(std::string& out, uint64_t value, size_t size = 1) {
  for (; value > 127 || size > 1; value >>= 7, size -= size > 1) out.push_back(static_cast<char>((value & 127) | 128));
  out.push_back(static_cast<char>(value));
}

inline void put_tag(std::string& out, uint32_t number, WireType type) { put_varint(out, uint64_t{number} << 3 | type); }

// Whole fields.
inline void put_number(std::string& out, uint32_t number, uint64_t value) {
  put_tag(out, number, kNumber);
  put_varint(out, value);
}

inline void put_bytes(std::string& out, uint32_t number, std::string_view bytes) {
  put_tag(out, number, kBytes);
  put_varint(out, bytes.size());
  out.append(bytes);
}

}  // namespace dcc
#endif  // DCC_WIRE_H_
