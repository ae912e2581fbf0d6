// huffman.cpp: coder `huffman`: canonical codes for indices and, if wanted, relative positions (FORMAT.md,
// section 5.1).
#include <algorithm>
#include <optional>

#include "base/bit_io.h"
#include "coders/coder.h"
#include "coders/gaps.h"
#include "coders/lanes.h"
#include "frame/number_list.h"
#include "kernels/isa.h"
#include "kernels/kernel_steps.h"
#include "kernels/kernels.h"

namespace dcc {
namespace {

constexpr unsigned kTableBits = 12;
constexpr unsigned kMostLanes = 8;
constexpr unsigned kMostPositionBits = 16;

// The next 32 bits or more, zeros after the end of `bytes`.
uint64_t window_at(Span bytes, uint64_t position) {
  const uint64_t byte = position >> 3;
  uint64_t window = 0;
  if (byte < bytes.size) std::memcpy(&window, bytes.data + byte, std::min<size_t>(8, bytes.size - byte));
  return window >> (position & 7);
}

// The first numbers of a huffman CHUNK: entries, and the bits of each stream (positions first).
struct ChunkHead {
  uint64_t entries = 0;
  uint64_t bits[16] = {};
};

ChunkHead read_head(ByteReader& reader, const Header& header, uint64_t elements) {
  ChunkHead head;
  head.entries = reader.varint();
  require(header.position_bits > 0 ? head.entries <= elements : head.entries == elements,
          "a chunk has a wrong number of entries");
  const unsigned streams = header.position_bits > 0 ? 2U * header.lanes : header.lanes;
  uint64_t bytes = 0;
  for (unsigned i = 0; i < streams; ++i) {
    head.bits[i] = reader.varint();
    require(head.bits[i] <= 16 * head.entries, "a stream is longer than its entries");  // entries <= 2^24
    bytes += (head.bits[i] + 7) / 8;
  }
  require(bytes == reader.remaining(), "the streams do not fill their chunk");
  return head;
}

// A code ready for decoding. Owns what `table` points to; movable, as vectors keep their buffers.
class HuffmanDecoder {
 public:
  explicit HuffmanDecoder(const std::vector<uint32_t>& lengths);
  const HuffmanTable& table() const { return table_; }

 private:
  std::vector<uint32_t> entries_;
  std::vector<uint16_t> sorted_;
  HuffmanTable table_;
};

// The symbols of one list of entries, whose streams (one a lane) follow each other.
class HuffmanReader {
 public:
  // `bits` holds the declared bits of each lane; the streams are `streams` from its first byte on.
  HuffmanReader(const HuffmanDecoder& decoder, Span streams, const uint64_t* bits, unsigned lanes);

  // Writes the next symbols. `count` is a multiple of the lanes in every call but the last.
  void read(uint16_t* out, size_t count);

  // Refuses streams that were not consumed exactly.
  void finish() const;

 private:
  const HuffmanTable& table_;
  Span bytes_;
  unsigned lanes_;
  uint64_t positions_[8] = {};
  uint64_t ends_[8] = {};
};

// What it takes to write the entries of a chunk with one code.
struct HuffmanEncoder {
  explicit HuffmanEncoder(const std::vector<uint32_t>& code_lengths);
  std::vector<uint32_t> lengths;  // all 0 for a lone symbol
  std::vector<uint16_t> codes;
};

HuffmanDecoder::HuffmanDecoder(const std::vector<uint32_t>& lengths) {
  const bool lone = check_lengths(lengths);
  const uint32_t longest = *std::max_element(lengths.begin(), lengths.end());
  table_.bits = lone ? 0 : std::min(longest, kTableBits);
  table_.has_long_codes = longest > kTableBits;
  entries_.resize(size_t{1} << table_.bits, kLongCode);
  const std::vector<uint16_t> codes = canonical_codes(lengths);

  uint32_t count[kLongestCode + 1] = {};
  for (const uint32_t length : lengths) ++count[length];
  uint32_t code = 0;    // first of its length
  uint32_t before = 0;  // symbols with shorter codes
  uint32_t next[kLongestCode + 1] = {};
  for (unsigned length = 1; length <= kLongestCode; ++length) {
    table_.first[length] = code - before;  // wraps around when negative, and so does the sum it is used in
    table_.end16[length] = (code + count[length]) << (kLongestCode - length);
    next[length] = before;
    before += count[length];
    code = (code + count[length]) << 1;
  }

  if (table_.has_long_codes) sorted_.resize(before);
  for (uint32_t symbol = 0; symbol < lengths.size(); ++symbol) {
    const uint32_t length = lone ? 0 : lengths[symbol];
    if (lengths[symbol] == 0) continue;
    if (table_.has_long_codes) sorted_[next[length]++] = static_cast<uint16_t>(symbol);
    if (length > table_.bits) continue;
    for (size_t slot = lone ? 0 : codes[symbol]; slot < entries_.size(); slot += size_t{1} << length) {
      entries_[slot] = symbol << 16 | length;
    }
  }
  table_.entries = entries_.data();
  table_.sorted = sorted_.data();
}

HuffmanReader::HuffmanReader(const HuffmanDecoder& decoder, Span streams, const uint64_t* bits, unsigned lanes)
    : table_(decoder.table()), bytes_(streams), lanes_(lanes) {
  uint64_t start = 0;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    positions_[lane] = start;
    ends_[lane] = start + bits[lane];
    start = (ends_[lane] + 7) / 8 * 8;
  }
}

void HuffmanReader::read(uint16_t* out, size_t count) {
  const size_t done =
      lanes_ * kernels().huffman(table_, positions_, lanes_, bytes_.data, bytes_.size, out, count / lanes_);
  for (size_t t = done; t < count; ++t) {
    uint64_t& position = positions_[t % lanes_];
    const uint32_t entry = huffman_entry<true>(table_, window_at(bytes_, position));
    position += entry & 0xFF;
    out[t] = static_cast<uint16_t>(entry >> 16);
  }
}

void HuffmanReader::finish() const {
  for (unsigned lane = 0; lane < lanes_; ++lane) {
    require(positions_[lane] == ends_[lane], "a stream does not end where it should");
    const unsigned used = static_cast<unsigned>(ends_[lane] & 7);
    require(used == 0 || bytes_.data[ends_[lane] >> 3] >> used == 0, "padding bits are not zero");
  }
}

HuffmanEncoder::HuffmanEncoder(const std::vector<uint32_t>& code_lengths)
    : lengths(code_lengths), codes(canonical_codes(code_lengths)) {
  if (check_lengths(lengths)) std::fill(lengths.begin(), lengths.end(), 0);
}

Span skip(Span bytes, uint64_t count) { return {bytes.data + count, static_cast<size_t>(bytes.size - count)}; }

// FORMAT.md 5.1 with positions: entries are decoded a block at a time and put where they belong.
class SparseHuffmanReader final : public IndexReader {
 public:
  SparseHuffmanReader(const HuffmanDecoder& positions, const HuffmanDecoder& codes, Span streams, const ChunkHead& head,
                      const Header& header)
      : positions_(positions, streams, head.bits, header.lanes),
        codes_(codes, skip(streams, position_bytes(head, header.lanes)), head.bits + header.lanes, header.lanes),
        left_(head.entries),
        zero_index_(static_cast<uint16_t>(header.zero - 1)) {}

  void read(uint16_t* out, size_t count) override {
    std::fill_n(out, count, zero_index_);
    while ((next_ < ready_ || refill()) && place(out, count)) {
    }
    first_ += count;
  }

  void finish() override {
    require(next_ == ready_ && left_ == 0, "an entry lies behind the end of its chunk");
    positions_.finish();
    codes_.finish();
  }

 private:
  static uint64_t position_bytes(const ChunkHead& head, unsigned lanes) {
    uint64_t bytes = 0;
    for (unsigned lane = 0; lane < lanes; ++lane) bytes += (head.bits[lane] + 7) / 8;
    return bytes;
  }

  // Puts entries where they belong among the `count` elements from `first_` on. False when one lies behind them.
  bool place(uint16_t* out, size_t count) {
    uint64_t after = after_ - first_;
    size_t next = next_;
    const size_t ready = ready_;
    for (; next < ready; ++next) {
      const uint64_t element = after + gaps_[next];
      if (element >= count) break;
      out[element] = indices_[next];
      after = element + 1;
    }
    after_ = first_ + after;
    next_ = next;
    return next == ready;
  }

  bool refill() {
    ready_ = static_cast<size_t>(std::min<uint64_t>(left_, kEntries));
    next_ = 0;
    left_ -= ready_;
    positions_.read(gaps_, ready_);
    codes_.read(indices_, ready_);
    return ready_ > 0;
  }

  static constexpr size_t kEntries = 1024;  // a multiple of every number of lanes
  HuffmanReader positions_, codes_;
  uint64_t left_;       // entries not yet decoded
  uint64_t first_ = 0;  // element that the next call starts with
  uint64_t after_ = 0;  // element after the last entry
  size_t next_ = 0, ready_ = 0;
  uint16_t zero_index_;
  uint16_t gaps_[kEntries];
  uint16_t indices_[kEntries];
};

// Streams of one list of entries, entry t in stream t mod lanes.
class LaneWriters {
 public:
  explicit LaneWriters(unsigned lanes) : writers_(lanes) {}

  void put(const HuffmanEncoder& code, uint32_t symbol) {
    writers_[next_].put(code.codes[symbol], code.lengths[symbol]);
    next_ = next_ + 1 == writers_.size() ? 0 : next_ + 1;
  }

  void append_sizes(Bytes& out) const {
    for (const BitWriter& writer : writers_) append_varint(out, writer.bits());
  }

  void append_streams(Bytes& out) {
    for (BitWriter& writer : writers_) {
      const Bytes bytes = writer.finish();
      append(out, bytes.data(), bytes.size());
    }
  }

 private:
  std::vector<BitWriter> writers_;
  size_t next_ = 0;
};

// CHUNK of `count` indices. With `positions` non-null, zeros (index `zero_index`) are skipped with positions of
// `position_bits` bits and filler zeros.
Bytes encode_chunk(const uint16_t* indices, size_t count, unsigned lanes, const HuffmanEncoder& codes,
                   const HuffmanEncoder* positions, unsigned position_bits, uint16_t zero_index) {
  LaneWriters gaps(lanes);
  LaneWriters symbols(lanes);
  uint64_t entries = 0;
  if (positions == nullptr) {
    entries = count;
    for (size_t i = 0; i < count; ++i) symbols.put(codes, indices[i]);
  } else {
    const uint32_t longest = (1U << position_bits) - 1;
    uint32_t gap = 0;
    for (size_t i = 0; i < count; ++i) {
      if (indices[i] == zero_index) {
        ++gap;
        continue;
      }
      for (; gap > longest; gap -= longest + 1, ++entries) {
        gaps.put(*positions, longest);
        symbols.put(codes, zero_index);
      }
      gaps.put(*positions, gap);
      symbols.put(codes, indices[i]);
      gap = 0;
      ++entries;
    }
  }
  Bytes out;
  append_varint(out, entries);
  if (positions != nullptr) gaps.append_sizes(out);
  symbols.append_sizes(out);
  if (positions != nullptr) gaps.append_streams(out);
  symbols.append_streams(out);
  return out;
}

// Bytes of huffman TABLES and CHUNKs. A stream has a length of about 3 bytes and ends in half a byte on average.
uint64_t chunk_bytes(const Header& header, uint64_t bits, uint64_t table_bytes) {
  const uint64_t streams = header.lanes * (header.position_bits > 0 ? 2U : 1U);
  return table_bytes + kSectionOverhead + bits / 8 + header.chunks() * (3 + kSectionOverhead + streams * 7 / 2);
}

// Code lengths of a tensor, the header that goes with them, and an estimate of the bytes.
struct Codes {
  Header header;
  uint64_t bytes = 0;
  std::vector<uint32_t> positions, indices;
};

Codes dense_codes(Header header, const Counts& counts) {
  Codes codes;
  codes.indices = huffman_lengths(counts);
  const uint64_t bits = coded_bits(counts, codes.indices);
  header.position_bits = 0;
  header.lanes = static_cast<uint8_t>(lanes_for(bits / 8 / header.chunks(), 4, kMostLanes));
  codes.bytes = chunk_bytes(header, bits, number_list_size(codes.indices));
  codes.header = header;
  return codes;
}

Codes sparse_codes(Header header, Counts counts, const Gaps& gaps, unsigned position_bits) {
  Codes codes;
  uint64_t fillers = 0;
  const Counts positions = count_positions(gaps, position_bits, fillers);
  counts[header.zero - 1] = fillers;
  codes.positions = huffman_lengths(positions);
  codes.indices = huffman_lengths(counts);
  const uint64_t bits = coded_bits(positions, codes.positions) + coded_bits(counts, codes.indices);
  header.position_bits = static_cast<uint8_t>(position_bits);
  header.lanes = static_cast<uint8_t>(lanes_for(bits / 8 / header.chunks(), 8, kMostLanes));
  codes.bytes = chunk_bytes(header, bits, number_list_size(codes.positions) + number_list_size(codes.indices));
  codes.header = header;
  return codes;
}

// With positions of `wanted` bits; 0: the best, without positions included.
Codes best_codes(const IndexTensor& tensor, unsigned wanted) {
  const Header& header = tensor.header;
  if (wanted == 0 && header.zero == 0) return dense_codes(header, tensor.counts);
  const Gaps gaps = count_gaps(tensor.request.indices, header, tensor.request.threads);
  if (wanted != 0) return sparse_codes(header, tensor.counts, gaps, wanted);
  std::vector<Codes> codes(kMostPositionBits + 1);
  parallel_for(codes.size(), tensor.request.threads, [&](size_t bits) {
    codes[bits] = bits == 0 ? dense_codes(header, tensor.counts)
                            : sparse_codes(header, tensor.counts, gaps, static_cast<unsigned>(bits));
  });
  return *std::min_element(codes.begin(), codes.end(),
                           [](const Codes& a, const Codes& b) { return a.bytes < b.bytes; });
}

void append_sections(Bytes& frame, const Codes& codes, const dcc_encode_request& request) {
  const Header& header = codes.header;
  Bytes tables;
  std::optional<HuffmanEncoder> positions;
  if (header.position_bits > 0) {
    append_number_list(tables, codes.positions);
    positions.emplace(codes.positions);
  }
  append_number_list(tables, codes.indices);
  append_section(frame, tables);
  const HuffmanEncoder indices(codes.indices);
  append_chunks(frame, header, request.threads, [&](size_t first, size_t count) {
    return encode_chunk(request.indices + first, count, header.lanes, indices, positions ? &*positions : nullptr,
                        header.position_bits, static_cast<uint16_t>(header.zero - 1));
  });
}

struct HuffmanTables final : CoderTables {
  std::optional<HuffmanDecoder> positions, indices;
};

class Huffman final : public Coder {
 public:
  Huffman() : Coder({"huffman", 2, Stores::kIndices, Layout::kChunks, true, 1'100, 0}) {}

  void read_fields(ByteReader& reader, Header& header) const override {
    header.lanes = reader.u8();
    header.position_bits = reader.u8();
  }

  void append_fields(Bytes& out, const Header& header) const override {
    out.push_back(header.lanes);
    out.push_back(header.position_bits);
  }

  void check_fields(const Header& header) const override {
    require_lanes(header.lanes, kMostLanes);
    require(header.position_bits <= kMostPositionBits, "its position bits are above 16");
    require(header.position_bits == 0 || header.zero != 0, "positions need a zero entry");
  }

  std::unique_ptr<CoderTables> read_tables(ByteReader& reader, const Header& header) const override {
    auto tables = std::make_unique<HuffmanTables>();
    if (header.position_bits > 0) {
      tables->positions.emplace(read_number_list(reader, size_t{1} << header.position_bits));
    }
    tables->indices.emplace(read_number_list(reader, static_cast<size_t>(header.k)));
    return tables;
  }

  void measure(Span bytes, uint64_t elements, const Header& header, dcc_frame_info& info) const override {
    ByteReader reader(bytes);
    const ChunkHead head = read_head(reader, header, elements);
    info.entries += head.entries;
    const unsigned first = header.position_bits > 0 ? header.lanes : 0;
    for (unsigned i = 0; i < first; ++i) info.position_bits_total += head.bits[i];
    for (unsigned i = 0; i < header.lanes; ++i) info.index_bits_total += head.bits[first + i];
  }

  std::unique_ptr<IndexReader> open(const CoderTables* tables, Span bytes, uint64_t /*first*/, size_t count,
                                    const Header& header) const override {
    const auto* const codes = static_cast<const HuffmanTables*>(tables);
    ByteReader reader(bytes);
    const ChunkHead head = read_head(reader, header, count);
    const Span streams = reader.rest();
    if (header.position_bits == 0) {
      return std::make_unique<SymbolReader<HuffmanReader>>(*codes->indices, streams, head.bits, header.lanes);
    }
    return std::make_unique<SparseHuffmanReader>(*codes->positions, *codes->indices, streams, head, header);
  }

  EncodePlan plan(const IndexTensor& tensor) const override {
    const dcc_encode_request& request = tensor.request;
    const unsigned wanted = request.coder == traits.number ? request.position_bits : 0;
    const Codes codes = best_codes(tensor, wanted);
    return {codes.header, codes.bytes, [codes, &request](Bytes& frame) { append_sections(frame, codes, request); }};
  }
};

}  // namespace

const Coder& huffman_coder() {
  static const Huffman coder;
  return coder;
}

}  // namespace dcc
