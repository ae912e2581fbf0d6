// fixed.cpp: coder `fixed`: indices of equally many bits (FORMAT.md, section 3).
#include <algorithm>

#include "base/bit_io.h"
#include "base/cancel.h"
#include "coders/coder.h"
#include "kernels/isa.h"
#include "kernels/kernels.h"

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
    size_t i = 0;
    if (width_ > 0 && at_ % 8 == 0) {
      const size_t byte = static_cast<size_t>(at_ >> 3);
      i = kernels().unpack(bytes_.data + byte, bytes_.size - byte, width_, out, count);
      at_ += i * width_;
    }
    for (; i < count; ++i, at_ += width_) out[i] = static_cast<uint16_t>(last_window() & ((1U << width_) - 1));
    uint16_t largest = 0;
    for (i = 0; i < count; ++i) largest = std::max(largest, out[i]);
    require(largest < k_, "an index is not in the codebook");
  }

  void finish() override {}

 private:
  // From bit `at_` on, with zeros after the end.
  uint32_t last_window() const {
    const uint64_t byte = at_ >> 3;
    uint32_t window = 0;
    for (unsigned i = 0; i < 4 && byte + i < bytes_.size; ++i) window |= uint32_t{bytes_.data[byte + i]} << (8 * i);
    return window >> (at_ & 7);
  }

  Span bytes_;
  unsigned width_;
  uint64_t at_;  // in bits
  uint64_t k_;
};

class Fixed final : public Coder {
 public:
  Fixed() : Coder({"fixed", 1, Stores::kIndices, Layout::kWhole, false, 500, 0}) {}

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
