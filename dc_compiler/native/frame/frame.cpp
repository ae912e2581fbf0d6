// frame.cpp: the header and the sections of a frame (FORMAT.md, sections 1 to 3).
#include "frame/frame.h"

#include <algorithm>

#include "base/crc32c.h"
#include "coders/coder.h"

namespace dcc {
namespace {

constexpr uint8_t kMagic[4] = {0x44, 0x43, 0x43, 0x57};
constexpr uint8_t kVersion = 1;
constexpr uint64_t kMost = (uint64_t{1} << 63) - 1;
constexpr int64_t kGridLimit = int64_t{1} << 24;
constexpr DtypeInfo kDtypes[] = {
    {kFloat32, 32, false, 0, 0},
    {kUint8, 8, true, 0, UINT8_MAX},
    {kInt8, 8, true, INT8_MIN, INT8_MAX},
    {kUint16, 16, true, 0, UINT16_MAX},
    {kInt16, 16, true, INT16_MIN, INT16_MAX},
    {kInt32, 32, true, INT32_MIN, INT32_MAX},
    {kFloat16, 16, false, 0, 0},
    {kFloat64, 64, false, 0, 0},
    {kBfloat16, 16, false, 0, 0},
    {kFloat8E4m3fn, 8, false, 0, 0},
    {kFloat8E4m3fnuz, 8, false, 0, 0},
    {kFloat8E5m2, 8, false, 0, 0},
    {kFloat8E5m2fnuz, 8, false, 0, 0},
    {kUint4, 4, true, 0, 15},
    {kInt4, 4, true, -8, 7},
    {kFloat4E2m1, 4, false, 0, 0},
};
constexpr size_t kLeastSection = 5;  // a length of one byte, and the CRC

// The extents and the element size multiplied, extents of 0 left out, must stay below 2^63.
uint64_t count_elements(const Header& header) {
  uint64_t bytes = header.element_size();
  uint64_t product = 1;
  for (unsigned i = 0; i < header.rank; ++i) {
    const uint64_t extent = header.dims[i];
    if (extent != 0) {
      require(bytes <= kMost / extent, "its dims are too large");
      bytes *= extent;
    }
    product *= extent;  // at most `bytes`, so it cannot overflow either
  }
  return product;
}

// What a dtype that is no float of 16 bits or more asks of codebook and scales.
void check_codebook_of(const Header& header) {
  const DtypeInfo& type = header.type();
  if (header.is_plain_float()) return;
  const bool is_grid = header.codebook_kind == DCC_CODEBOOK_GRID;
  require(is_grid == type.is_integer, "its codebook does not fit its dtype");
  require(!header.has_scales() || (type.is_integer && type.bits <= 16), "its dtype has no scales");
  if (header.has_scales()) {
    require(header.offset >= type.least && header.offset <= type.most, "its offset does not fit its dtype");
  } else if (is_grid) {
    require(header.lo >= type.least && header.lo + static_cast<int64_t>(header.k) - 1 <= type.most,
            "its grid does not fit its dtype");
  } else {
    require(header.codebook_kind == DCC_CODEBOOK_VALUES, "its codebook does not fit its dtype");
  }
}

void check_codebook_fields(const Header& header) {
  require(header.codebook_kind != DCC_CODEBOOK_SHORT || header.codebook_entry_size() == 4,
          "a short codebook stands for f32 entries only");
  require(header.k >= 1 && header.k <= 65536, "its codebook has 0 or more than 65536 entries");
  require(header.zero <= header.k, "its zero entry is not in the codebook");
  require(header.zero != 0 || header.nnz == header.n, "it has zeros but no zero entry");
  if (header.codebook_kind == DCC_CODEBOOK_GRID) {
    require(header.lo >= -kGridLimit && header.lo <= kGridLimit + 1 - static_cast<int64_t>(header.k),
            "its grid is out of range");
    const bool is_any_zero = header.is_integer() && !header.has_scales();
    require(header.zero == 0 || is_any_zero || header.lo + static_cast<int64_t>(header.zero) == 1,
            "its zero entry is not zero");
  }
  check_codebook_of(header);
  if (header.has_scales()) {
    require(header.channels >= 1 && header.inner >= 1 && header.channels <= header.n / header.inner &&
                header.n % (header.channels * header.inner) == 0,
            "its channels do not divide its elements");
  }
}

void check_chunk(const Header& header) {
  if (header.coder->traits.layout == Layout::kOneChunk) {
    require(header.chunk == header.n, "its coder needs one chunk below 2^31 bytes");
  } else {
    require(header.chunk >= 1 && header.chunk <= uint64_t{1} << 24, "its chunk size is out of range");
    require(!header.is_nibbles() || header.chunk % 2 == 0 || header.chunk >= header.n,
            "a byte lies in two of its chunks");
  }
}

Header read_header(ByteReader& reader) {
  require(std::equal(kMagic, kMagic + 4, reader.take(4).data), "it does not start with DCCW");
  require(reader.u8() == kVersion, "its version is unknown");
  Header header;
  header.dtype = reader.u8();
  require(dtype_info(header.dtype) != nullptr, "its dtype is unknown");
  header.coder = find_coder(reader.u8());
  require(header.coder != nullptr, "its coder is unknown");
  header.codebook_kind = reader.u8();
  header.scale_kind = reader.u8();
  header.rank = reader.u8();
  require(header.rank <= DCC_MAX_RANK, "its rank is above 32");
  for (unsigned i = 0; i < header.rank; ++i) header.dims[i] = reader.varint();
  header.nnz = reader.varint();
  if (header.has_codebook()) {
    header.k = reader.varint();
    header.zero = reader.varint();
  }
  if (header.codebook_kind == DCC_CODEBOOK_GRID) header.lo = reader.svarint();
  if (header.has_scales()) {
    header.channels = reader.varint();
    header.inner = reader.varint();
    if (header.is_integer()) header.offset = reader.svarint();
  }
  if (header.is_chunked()) header.chunk = reader.varint();
  header.coder->read_fields(reader, header);
  check_tensor(header);
  if (header.is_chunked()) check_chunk(header);
  header.coder->check_fields(header);
  return header;
}

Section read_section(ByteReader& reader) {
  const size_t start = reader.position();
  Section section;
  section.body = reader.take(reader.varint());
  section.crc = reader.u32();
  section.size = reader.position() - start;
  return section;
}

}  // namespace

const DtypeInfo* dtype_info(uint8_t dtype) {
  const auto* const found = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                         [dtype](const DtypeInfo& info) { return info.number == dtype; });
  return found == std::end(kDtypes) ? nullptr : found;
}

bool fits(const Coder& coder, uint8_t dtype) {
  switch (coder.traits.stores) {
    case Stores::kBytes: return dtype == kUint8;
    case Stores::kElements: return coder.traits.layout == Layout::kWhole || dtype_info(dtype)->bits != 4;
    default: return true;
  }
}

bool Header::is_chunked() const { return coder->traits.layout != Layout::kWhole; }

void check_tensor(Header& header) {
  const CoderTraits& coder = header.coder->traits;
  require(dtype_info(header.dtype) != nullptr, "its dtype is unknown");
  require(header.codebook_kind <= DCC_CODEBOOK_SHORT, "its codebook kind is unknown");
  require(header.scale_kind <= DCC_SCALE_LOG, "its scale kind is unknown");
  require(header.has_codebook() == (coder.stores == Stores::kIndices), "its codebook does not fit its coder");
  require(header.has_codebook() || !header.has_scales(), "it has scales but no codebook");
  require(fits(*header.coder, header.dtype), "its dtype does not fit its coder");
  header.n = count_elements(header);
  require(header.n > 0 || header.coder->holds_nothing(), "it has no elements");
  require(header.nnz <= header.n, "it has more non-zeros than elements");
  require(coder.layout != Layout::kOneChunk || header.n < uint64_t{1} << 31,
          "its coder needs one chunk below 2^31 bytes");
  if (header.has_codebook()) check_codebook_fields(header);
}

Frame read_frame(Span bytes) {
  ByteReader reader(bytes);
  Frame frame;
  frame.header = read_header(reader);
  const size_t header_bytes = reader.position();
  require(has_crc32c(bytes.data, header_bytes, reader.u32()), "its header has a wrong CRC");
  frame.header_size = reader.position();
  if (frame.header.has_codebook_section()) frame.codebook = read_section(reader);
  if (frame.header.has_scales()) frame.scales = read_section(reader);
  if (frame.header.coder->traits.has_tables) frame.tables = read_section(reader);
  const uint64_t chunks = frame.header.chunks();
  require(chunks <= reader.remaining() / kLeastSection, "it is cut short");
  frame.data.resize(static_cast<size_t>(chunks));
  for (Section& section : frame.data) section = read_section(reader);
  reader.finish("bytes follow its last section");
  return frame;
}

Span checked(const Section& section) {
  require(has_crc32c(section.body.data, section.body.size, section.crc), "a section has a wrong CRC");
  return section.body;
}

Bytes checked_codebook(const Frame& frame) {
  const Header& header = frame.header;
  if (!header.has_codebook_section()) return {};
  const Span stored = checked(frame.codebook);
  const size_t entry = header.codebook_entry_size();
  const bool is_short = header.codebook_kind == DCC_CODEBOOK_SHORT;
  require(stored.size == header.k * (is_short ? 2 : entry), "its codebook has a wrong length");
  Bytes bytes(static_cast<size_t>(header.k) * entry);
  if (is_short) {
    for (size_t j = 0; j < header.k; ++j) std::memcpy(bytes.data() + 4 * j + 2, stored.data + 2 * j, 2);
  } else {
    std::memcpy(bytes.data(), stored.data, stored.size);
  }
  if (header.is_nibbles()) {
    require(std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte < 16; }),
            "a codebook entry has more than 4 bits");
  }
  if (header.zero != 0) {
    const uint8_t* zero = bytes.data() + (header.zero - 1) * entry;
    require(std::all_of(zero, zero + entry, [](uint8_t byte) { return byte == 0; }), "its zero entry is not zero");
  }
  if (header.has_scales()) {
    // Finite: the exponent bits are not all set.
    const unsigned shift = entry == 8 ? 52 : 23;
    const uint64_t ones = entry == 8 ? 0x7FF : 0xFF;
    for (size_t j = 0; j < header.k; ++j) {
      const uint64_t bits = entry == 8 ? load<uint64_t>(bytes.data() + 8 * j) : load<uint32_t>(bytes.data() + 4 * j);
      require(((bits >> shift) & ones) != ones, "a scaled codebook entry is not finite");
    }
  }
  return bytes;
}

void append_header(Bytes& out, const Header& header) {
  const size_t start = out.size();
  append(out, kMagic, sizeof kMagic);
  for (const uint8_t field :
       {kVersion, header.dtype, header.coder->traits.number, header.codebook_kind, header.scale_kind, header.rank}) {
    out.push_back(field);
  }
  for (unsigned i = 0; i < header.rank; ++i) append_varint(out, header.dims[i]);
  append_varint(out, header.nnz);
  if (header.has_codebook()) {
    append_varint(out, header.k);
    append_varint(out, header.zero);
  }
  if (header.codebook_kind == DCC_CODEBOOK_GRID) append_svarint(out, header.lo);
  if (header.has_scales()) {
    append_varint(out, header.channels);
    append_varint(out, header.inner);
    if (header.is_integer()) append_svarint(out, header.offset);
  }
  if (header.is_chunked()) append_varint(out, header.chunk);
  header.coder->append_fields(out, header);
  append_u32(out, crc32c(out.data() + start, out.size() - start));
}

void append_section(Bytes& out, const Bytes& body) {
  append_varint(out, body.size());
  append(out, body.data(), body.size());
  append_u32(out, crc32c(body.data(), body.size()));
}

}  // namespace dcc
