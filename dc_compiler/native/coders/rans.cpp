// rans.cpp: coder `rans`: indices by range asymmetric numeral systems (FORMAT.md, section 5.2).
#include "coders/coder.h"
#include "coders/rans_code.h"

namespace dcc {
namespace {

struct RansTables final : CoderTables {
  explicit RansTables(const RansModel& model) : decoder(model) {}
  RansDecoder decoder;
};

class RansIndexReader final : public IndexReader {
 public:
  RansIndexReader(const RansDecoder& decoder, Span chunk, unsigned lanes) : symbols_(decoder, chunk, lanes) {}
  void read(uint16_t* out, size_t count) override { symbols_.read(out, count); }
  void read_two(uint16_t* out, IndexReader& other, uint16_t* other_out, size_t count) override {
    auto* const rans = dynamic_cast<RansIndexReader*>(&other);
    if (rans == nullptr) {
      IndexReader::read_two(out, other, other_out, count);
    } else {
      symbols_.read_two(out, rans->symbols_, other_out, count);
    }
  }
  void finish() override { symbols_.finish(); }

 private:
  RansReader symbols_;
};

class Rans final : public Coder {
 public:
  Rans() : Coder({"rans", 3, Stores::kIndices, Layout::kChunks, true, 1'000, 0}) {}

  void read_fields(ByteReader& reader, Header& header) const override { header.lanes = reader.u8(); }
  void append_fields(Bytes& out, const Header& header) const override { out.push_back(header.lanes); }
  void check_fields(const Header& header) const override { require_lanes(header.lanes, kMostRansLanes); }

  std::unique_ptr<CoderTables> read_tables(ByteReader& reader, const Header& header) const override {
    return std::make_unique<RansTables>(read_rans_model(reader, static_cast<size_t>(header.k)));
  }

  std::unique_ptr<IndexReader> open(const CoderTables* tables, Span bytes, uint64_t /*first*/, size_t /*count*/,
                                    const Header& header) const override {
    const auto& decoder = static_cast<const RansTables*>(tables)->decoder;
    return std::make_unique<RansIndexReader>(decoder, bytes, unsigned{header.lanes});
  }

  bool reads_in_pairs(const Header& header) const override { return header.lanes >= 16; }

  EncodePlan plan(const IndexTensor& tensor) const override {
    Header header = tensor.header;
    uint64_t bits = 0;
    const RansModel model = best_rans_model(tensor.counts, bits);
    header.lanes = static_cast<uint8_t>(lanes_for(bits / 8 / header.chunks(), 3, kMostRansLanes));
    const uint64_t bytes = 1 + number_list_size(model.frequencies) + kSectionOverhead + bits / 8 +
                           header.chunks() * (kSectionOverhead + 3U * header.lanes);
    return {header, bytes, [header, model, &request = tensor.request](Bytes& frame) {
              Bytes tables;
              append_rans_model(tables, model);
              append_section(frame, tables);
              append_chunks(frame, header, request.threads, [&](size_t first, size_t count) {
                return encode_rans_chunk(request.indices + first, count, header.lanes, model);
              });
            }};
  }
};

}  // namespace

const Coder& rans_coder() {
  static const Rans coder;
  return coder;
}

}  // namespace dcc
