// raw.cpp: coder `raw`: the elements as they are in memory (FORMAT.md, section 3).
#include "coders/coder.h"

namespace dcc {
namespace {

class Raw final : public Coder {
 public:
  Raw() : Coder({"raw", 0, Stores::kElements, Layout::kWhole, false, 500, 0}) {}

  bool holds_nothing() const override { return true; }

  void check_data(Span data, const Header& header) const override {
    require(data.size == header.bytes_of(header.n), "its data have a wrong length");
    require(!header.is_nibbles() || header.n % 2 == 0 || data.data[data.size - 1] < 16, "its last byte has bits left");
  }

  void decode(Span bytes, uint64_t first, size_t count, const Header& header, uint8_t* out) const override {
    std::memcpy(out, bytes.data + header.bytes_of(first), static_cast<size_t>(header.bytes_of(count)));
  }

  Bytes encode(const uint8_t* elements, size_t count, const Header& header) const override {
    Bytes out;
    if (count > 0) append(out, elements, static_cast<size_t>(header.bytes_of(count)));
    return out;
  }
};

}  // namespace

const Coder& raw_coder() {
  static const Raw coder;
  return coder;
}

}  // namespace dcc
