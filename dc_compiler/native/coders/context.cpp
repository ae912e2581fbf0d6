// context.cpp: coder `context`: indices by adaptive arithmetic coding, each predicted from those around it (FORMAT.md,
// section 5.4).
//
// The model is one class for both directions: its coder either writes the bit it is told or reads one.
#include <cstdlib>

#include "base/cancel.h"
#include "coders/binary_coder.h"
#include "coders/coder.h"
#include "coders/column_layouts.h"

namespace dcc {
namespace {

constexpr uint64_t kChunk = uint64_t{1} << 20;
constexpr uint64_t kTrial = uint64_t{1} << 16;  // elements that layouts are tried on

constexpr uint64_t kLevels = 14;
// 2^8 times 2^(j/2 - 2.75), rounded.
constexpr uint64_t kThresholds[kLevels - 1] = {38, 54, 76, 108, 152, 215, 304, 431, 609, 861, 1218, 1722, 2435};
constexpr uint64_t kMostRatio = kThresholds[kLevels - 2];

// The level of every ratio up to kMostRatio.
constexpr std::array<uint8_t, kMostRatio + 1> make_levels() {
  std::array<uint8_t, kMostRatio + 1> levels{};
  uint8_t level = 0;
  for (uint64_t ratio = 0; ratio <= kMostRatio; ++ratio) {
    if (ratio == kThresholds[level]) ++level;
    levels[ratio] = level;
  }
  return levels;
}
constexpr std::array<uint8_t, kMostRatio + 1> kLevelOfRatio = make_levels();

constexpr uint8_t kFirstUpdates = 4;  // what the first guess of a zero flag's probability weighs
constexpr unsigned kMostMagnitude = 15;
constexpr unsigned kNodes = 64;

struct Column {
  Bit kept, sign;
  uint32_t count = 0;     // non-zeros so far
  int8_t here = 0;        // sign of the element last coded, 0 for zero
  int8_t last_sign = 0;   // of the last non-zero
  uint8_t magnitude = 0;  // of the last non-zero, at most kMostMagnitude
};

template <typename Coder>
class IndexModel {
 public:
  explicit IndexModel(const Header& header)
      : k_(static_cast<int64_t>(header.k)),
        middle_(header.zero != 0 ? static_cast<int64_t>(header.zero) - 1 : k_ / 2),
        group_(static_cast<size_t>(header.group)),
        stride_(static_cast<size_t>(header.stride)),
        columns_(static_cast<size_t>(header.columns)),
        totals_((columns_.size() + group_ - 1) / group_) {}

  // Codes the next index; gives it back.
  uint16_t code(Coder& coder, uint16_t known) {
    const int64_t offset = k_ == 1 ? 0 : code_offset(coder, known - middle_);
    advance(offset);
    return static_cast<uint16_t>(middle_ + offset);
  }

 private:
  int64_t code_offset(Coder& coder, int64_t known) {
    if (!code_kept(coder, known != 0)) return 0;
    const bool positive = code_sign(coder, known > 0);
    const int64_t magnitude = code_magnitude(coder, positive, static_cast<uint64_t>(std::abs(known)));
    return positive ? magnitude : -magnitude;
  }

  // How dense a part of the tensor is, against all of it so far, in steps of a factor of sqrt(2).
  uint64_t level(uint64_t count, uint64_t seen) const {
    const uint64_t kept = 2 * kept_ + 1;
    const uint64_t ratio = ((count * (2 * seen_ + 2) + 2 * kept) << 8) / ((seen + 2) * kept);
    return kLevelOfRatio[std::min(ratio, kMostRatio)];
  }

  // The column `distance` before the current one.
  int here(size_t distance) const { return distance <= column_ ? columns_[column_ - distance].here : 0; }

  uint64_t near_level() const {
    uint64_t count = 0, seen = 0;
    const auto add = [&](size_t column) {
      count += columns_[column].count;
      seen += row_;
    };
    add(column_);
    for (const size_t distance : {size_t{1}, stride_}) {
      if (distance == 0) continue;
      if (distance <= column_) add(column_ - distance);
      if (distance < columns_.size() - column_) add(column_ + distance);
    }
    return level(count, seen);
  }

  // Which of five neighbours are not zero.
  unsigned neighbours() const {
    unsigned bits = (here(1) != 0 ? 2U : 0U) | (columns_[column_].here != 0 ? 4U : 0U);
    if (stride_ != 0) {
      bits |= (here(stride_) != 0 ? 1U : 0U) | (here(stride_ - 1) != 0 ? 8U : 0U) | (here(stride_ + 1) != 0 ? 16U : 0U);
    }
    return bits;
  }

  bool code_kept(Coder& coder, bool known) {
    Column& column = columns_[column_];
    const size_t group = column_ / group_, first = group * group_;
    const uint64_t width = std::min(group_, columns_.size() - first);
    const uint64_t of_column = level(column.count, row_);
    const uint64_t of_row = level(row_count_, column_);
    const std::array<Bit*, 5> bits = {
        &near_row_[near_level() * kLevels + of_row],
        &groups_[level(group_count_, column_ - first) * kLevels + level(totals_[group], row_ * width)],
        &neighbour_column_[neighbours() * kLevels + of_column],
        &column_row_[of_column * kLevels + of_row],
        &column.kept,
    };
    for (Bit* const bit : bits) {
      if (bit->n == 0) *bit = Bit::of(overall(), kFirstUpdates);
    }
    const auto rate = static_cast<int64_t>(33 + 328 * 256 / (256 + seen_));
    return kept_mixer_.code(coder, bits, rate, known);
  }

  uint16_t overall() const {
    return static_cast<uint16_t>(std::clamp<uint64_t>(kOne * (2 * kept_ + 1) / (2 * seen_ + 2), 32, kOne - 32));
  }

  bool code_sign(Coder& coder, bool known) {
    if (middle_ == 0) return true;
    if (middle_ == k_ - 1) return false;
    int sum = here(1) + here(2);
    if (stride_ != 0) sum += here(stride_ - 1) + here(stride_) + here(stride_ + 1) + here(2 * stride_);
    Column& column = columns_[column_];
    const int around = (std::clamp(sum, -2, 2) + 2) * 9 + (column.last_sign + 1) * 3 + row_sign_ + 1;
    return sign_mixer_.code(coder, {&signs_[static_cast<size_t>(around)], &column.sign}, 328, known);
  }

  // Elias gamma code of the magnitude: the length of its binary form, then its bits after the first.
  int64_t code_magnitude(Coder& coder, bool positive, uint64_t known) {
    const auto most = static_cast<uint64_t>(positive ? k_ - 1 - middle_ : middle_);
    unsigned length = 0;  // less one
    while (most >> (length + 1) != 0 && code_node(coder, positive, std::min(length, 7U), known >> (length + 1) != 0)) {
      ++length;
    }
    uint64_t magnitude = 1;
    for (unsigned i = length; i-- > 0;) {
      const auto prefix = static_cast<unsigned>(std::min<uint64_t>(magnitude, 7));
      const unsigned node = std::min(8 + 8 * length + prefix, kNodes - 1);
      magnitude = 2 * magnitude + (code_node(coder, positive, node, (known >> i & 1) != 0) ? 1 : 0);
    }
    require(magnitude <= most, "an index is not in the codebook");
    return static_cast<int64_t>(magnitude);
  }

  bool code_node(Coder& coder, bool positive, unsigned node, bool known) {
    const size_t at = (positive ? kNodes : 0) + node;
    const size_t column_at = 2 * kNodes * columns_[column_].magnitude + at;
    const std::array<Bit*, 3> bits = {&nodes_[at], &row_nodes_[2 * kNodes * row_magnitude_ + at],
                                      &column_nodes_[column_at]};
    return node_mixers_[node].code(coder, bits, 164, known);
  }

  void advance(int64_t offset) {
    Column& column = columns_[column_];
    column.here = static_cast<int8_t>(offset > 0 ? 1 : offset < 0 ? -1 : 0);
    if (offset != 0) {
      const int64_t magnitude = std::min<int64_t>(std::abs(offset), kMostMagnitude);
      column.last_sign = row_sign_ = column.here;
      column.magnitude = row_magnitude_ = static_cast<uint8_t>(magnitude);
      ++column.count;
      ++row_count_;
      ++group_count_;
      ++totals_[column_ / group_];
      ++kept_;
    }
    ++seen_;
    ++column_;
    if (column_ % group_ == 0) group_count_ = 0;
    if (column_ == columns_.size()) {
      column_ = 0;
      ++row_;
      row_count_ = group_count_ = 0;
      row_sign_ = 0;
      row_magnitude_ = 0;
    }
  }

  const int64_t k_, middle_;
  const size_t group_, stride_;
  std::vector<Column> columns_;
  std::vector<uint32_t> totals_;  // non-zeros of each group's columns
  size_t column_ = 0;
  uint64_t row_ = 0, seen_ = 0, kept_ = 0;
  uint64_t row_count_ = 0, group_count_ = 0;
  int8_t row_sign_ = 0;
  uint8_t row_magnitude_ = 0;
  std::array<Bit, kLevels * kLevels> near_row_, groups_, column_row_;
  std::array<Bit, 32 * kLevels> neighbour_column_;
  std::array<Bit, 45> signs_;
  std::array<Bit, 2 * kNodes> nodes_;
  std::array<Bit, 2 * kNodes*(kMostMagnitude + 1)> row_nodes_, column_nodes_;
  Mixer<5> kept_mixer_{kOne * 28 / 100};
  Mixer<2> sign_mixer_{kOne / 2};
  std::vector<Mixer<3>> node_mixers_ = std::vector<Mixer<3>>(kNodes, Mixer<3>(kOne * 4 / 10));
};

// CHUNK of `count` indices, all below k.
Bytes encode_chunk(const uint16_t* indices, size_t count, const Header& header) {
  BinaryEncoder coder;
  const auto model = std::make_unique<IndexModel<BinaryEncoder>>(header);
  for (size_t i = 0; i < count; ++i) {
    stop_if_cancelled(i);
    model->code(coder, indices[i]);
  }
  return coder.finish();
}

class ContextReader final : public IndexReader {
 public:
  ContextReader(Span chunk, const Header& header) : coder_(chunk), model_(header) {}

  void read(uint16_t* out, size_t count) override {
    stop_if_cancelled();
    for (size_t i = 0; i < count; ++i) out[i] = model_.code(coder_, 0);
  }

  void finish() override { coder_.finish(); }

 private:
  BinaryDecoder coder_;
  IndexModel<BinaryDecoder> model_;
};

// One header for each way in which columns may lie near each other; rows are those of a matrix or a convolution's
// outputs.
std::vector<Header> possible_layouts(const dcc_encode_request& request, Header header) {
  header.chunk = request.chunk_elements != 0 ? request.chunk_elements : std::min(header.n, kChunk);
  header.columns = header.rank < 2 ? header.n : header.n / header.dims[0];
  header.columns = std::min(header.columns, header.chunk);
  std::vector<Header> layouts;
  for (const auto& [group, stride] : column_layouts(header.rank, header.dims, header.columns)) {
    header.group = group;
    header.stride = stride;
    layouts.push_back(header);
  }
  return layouts;
}

// The layout that makes the first elements smallest; the first one of equals.
Header best_layout(const std::vector<Header>& layouts, const dcc_encode_request& request) {
  if (layouts.size() == 1) return layouts[0];
  const size_t count = static_cast<size_t>(std::min(chunk_elements(layouts[0], 0), kTrial));
  std::vector<size_t> sizes(layouts.size());
  parallel_for(layouts.size(), request.threads,
               [&](size_t i) { sizes[i] = encode_chunk(request.indices, count, layouts[i]).size(); });
  return layouts[static_cast<size_t>(std::min_element(sizes.begin(), sizes.end()) - sizes.begin())];
}

class Context final : public Coder {
 public:
  Context() : Coder({"context", 6, Stores::kIndices, Layout::kChunks, false, 45'000, 160'000, 60'000}) {}

  void read_fields(ByteReader& reader, Header& header) const override {
    header.columns = reader.varint();
    header.group = reader.varint();
    header.stride = reader.varint();
  }

  void append_fields(Bytes& out, const Header& header) const override {
    for (const uint64_t field : {header.columns, header.group, header.stride}) append_varint(out, field);
  }

  void check_fields(const Header& header) const override {
    require(header.columns >= 1 && header.columns <= header.chunk && header.columns <= header.n,
            "its columns are out of range");
    require(header.group >= 1 && header.group <= header.columns, "its group of columns is out of range");
    require(header.stride != 1 && header.stride <= header.columns, "its stride is out of range");
  }

  std::unique_ptr<IndexReader> open(const CoderTables* /*tables*/, Span bytes, uint64_t /*first*/, size_t /*count*/,
                                    const Header& header) const override {
    return std::make_unique<ContextReader>(bytes, header);
  }

  EncodePlan plan(const IndexTensor& tensor) const override {
    const dcc_encode_request& request = tensor.request;
    const Header header = best_layout(possible_layouts(request, tensor.header), request);
    return {header, EncodePlan::kUnknown, [header, &request](Bytes& frame) {
              append_chunks(frame, header, request.threads, [&](size_t first, size_t count) {
                return encode_chunk(request.indices + first, count, header);
              });
            }};
  }
};

}  // namespace

const Coder& context_coder() {
  static const Context coder;
  return coder;
}

}  // namespace dcc
