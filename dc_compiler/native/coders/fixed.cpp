// fixed.cpp: coder `fixed`: indices of equally many bits (FORMAT.md, section 3).
#include <algorithm>

#include "base/bit_io.h"
#include "base/cancel.h"
#include "coders/coder.h"

namespace dcc {
namespace {

// Bits of an index.
unsigned index_width(const Header& header) {
  unsigned width = 0;
  while ((uint64_t{1} << width) < header.k) ++width;
  return width;
}

class FixedReader final : public IndexReader {
 public:
  FixedReader(Span bytes, uint64_t first, const Header& header)
      : bytes_(bytes), width_(index_width(header)), at_(first * width_), k_(header.k) {}

  void read(uint16_t* out, size_t count) override {
    const uint64_t wide_end = bytes_.size < 4 ? 0 : bytes_.size - 3;  // up to here 4 bytes can be loaded
    uint32_t largest = 0;
    for (size_t i = 0; i < count; ++i, at_ += width_) {
      const uint64_t byte = at_ >> 3;
      const uint32_t window = byte < wide_end ? load<uint32_t>(bytes_.data + byte) : last_window(byte);
      const uint32_t index = (window >> (at_ & 7)) & ((1U << width_) - 1);
      largest = std::max(largest, index);
      out[i] = static_cast<uint16_t>(index);
    }
    require(largest < k_, "an index is not in the codebook");
  }

  void finish() override {}

 private:
  uint32_t last_window(uint64_t byte) const {
    uint32_t window = 0;
    for (unsigned i = 0; i < 4 && byte + i < bytes_.size; ++i) window |= uint32_t{bytes_.data[byte + i]} << (8 * i);
    return window;
  }

  Span bytes_;
  unsigned width_;
  uint64_t at_;  // in bits
  uint64_t k_;
};

class Fixed final : public Coder {
 public:
  Fixed() : Coder({"fixed", 1, Stores::kIndices, Layout::kWhole, false, 1'500, 0}) {}

  void check_data(Span data, const Header& header) const override {
    const uint64_t width = index_width(header);  // n < 2^63 / 2, width <= 16: split the product to keep it in range
    const uint64_t bytes = header.n / 8 * width + (header.n % 8 * width + 7) / 8;
    require(data.size == bytes, "its data have a wrong length");
    const unsigned used = static_cast<unsigned>((header.n % 8 * width) & 7);
    require(used == 0 || data.data[bytes - 1] >> used == 0, "padding bits are not zero");
  }

  std::unique_ptr<IndexReader> open(const CoderTables* /*tables*/, Span bytes, uint64_t first, size_t /*count*/,
                                    const Header& header) const override {
    return std::make_unique<FixedReader>(bytes, first, header);
  }

  EncodePlan plan(const IndexTensor& tensor) const override {
    const Header& header = tensor.header;
    const unsigned width = index_width(header);
    const uint16_t* const indices = tensor.request.indices;
    return {header, (header.n * width + 7) / 8 + kSectionOverhead, [indices, width, n = header.n](Bytes& frame) {
              BitWriter bits;
              for (size_t i = 0; i < n; ++i) {
                stop_if_cancelled(i);
                bits.put(indices[i], width);
              }
              append_section(frame, bits.finish());
            }};
  }
};

}  // namespace

const Coder& fixed_coder() {
  static const Fixed coder;
  return coder;
}

}  // namespace dcc
