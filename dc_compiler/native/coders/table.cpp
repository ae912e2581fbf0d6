// table.cpp: the list of all coders.
#include <array>

#include "coders/coder.h"

namespace dcc {

// One a file, those that are tried first in front.
#define DCC_CODERS(ROW) \
  ROW(raw)              \
  ROW(fixed)            \
  ROW(huffman)          \
  ROW(rans)             \
  ROW(lossless)         \
  ROW(lz)               \
  ROW(context)          \
  ROW(rows)             \
  ROW(text)             \
  ROW(trees)

#define DCC_DECLARE(name) const Coder& name##_coder();
DCC_CODERS(DCC_DECLARE)
#undef DCC_DECLARE

const std::vector<const Coder*>& coders() {
#define DCC_ADDRESS(name) &name##_coder(),
  static const std::vector<const Coder*> table{DCC_CODERS(DCC_ADDRESS)};
#undef DCC_ADDRESS
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
