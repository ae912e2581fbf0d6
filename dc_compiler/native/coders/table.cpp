// table.cpp: the list of all coders.
#include <array>

#include "coders/coder.h"

namespace dcc {

// One a file.
const Coder& raw_coder();
const Coder& fixed_coder();
const Coder& huffman_coder();
const Coder& rans_coder();
const Coder& lossless_coder();
const Coder& lz_coder();
const Coder& context_coder();
const Coder& text_coder();

const std::vector<const Coder*>& coders() {
  static const std::vector<const Coder*> table{&raw_coder(),      &fixed_coder(), &huffman_coder(), &rans_coder(),
                                               &lossless_coder(), &lz_coder(),    &context_coder(), &text_coder()};
  return table;
}

const Coder* find_coder(uint8_t number) {
  static const std::array<const Coder*, 256> by_number = [] {
    std::array<const Coder*, 256> found{};
    for (const Coder* coder : coders()) found[coder->traits.number] = coder;
    return found;
  }();
  return by_number[number];
}

namespace {

// A call that the coder's traits rule out.
[[noreturn]] void not_this_coder() { throw std::logic_error("a coder was asked for what it does not do"); }

}  // namespace

std::unique_ptr<CoderTables> Coder::read_tables(ByteReader& /*reader*/, const Header& /*header*/) const {
  not_this_coder();
}

void Coder::check_data(Span /*data*/, const Header& /*header*/) const { not_this_coder(); }

void Coder::measure(Span bytes, uint64_t elements, const Header& /*header*/, dcc_frame_info& info) const {
  info.entries += elements;
  info.index_bits_total += 8 * bytes.size;
}

std::unique_ptr<IndexReader> Coder::open(const CoderTables* /*tables*/, Span /*bytes*/, uint64_t /*first*/,
                                         size_t /*count*/, const Header& /*header*/) const {
  not_this_coder();
}

EncodePlan Coder::plan(const IndexTensor& /*tensor*/) const { not_this_coder(); }

void Coder::decode(Span /*bytes*/, uint64_t /*first*/, size_t /*count*/, const Header& /*header*/,
                   uint8_t* /*out*/) const {
  not_this_coder();
}

Bytes Coder::encode(const uint8_t* /*elements*/, size_t /*count*/, const Header& /*header*/) const { not_this_coder(); }

}  // namespace dcc
