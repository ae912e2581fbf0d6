// frame.h: the header and the sections of a frame (FORMAT.md, sections 1 to 3).
#ifndef DCC_FRAME_H_
#define DCC_FRAME_H_

#include <vector>

#include "base/byte_io.h"

namespace dcc {

enum Dtype : uint8_t {
  kFloat32 = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kFloat16 = 10,
  kFloat64 = 11,
  kBfloat16 = 16,
  kFloat8E4m3fn = 17,
  kFloat8E4m3fnuz = 18,
  kFloat8E5m2 = 19,
  kFloat8E5m2fnuz = 20,
  kUint4 = 21,
  kInt4 = 22,
  kFloat4E2m1 = 23
};

// What FORMAT.md says of a dtype (section 2); null for one that it does not have.
struct DtypeInfo {
  uint8_t number;
  uint8_t bits;
  bool is_integer;
  int64_t least, most;  // of integers
};
const DtypeInfo* dtype_info(uint8_t dtype);

class Coder;  // coders/coder.h

struct Header {
  const Coder* coder = nullptr;
  uint8_t dtype = 0, codebook_kind = 0, scale_kind = 0, rank = 0, lanes = 0, position_bits = 0;
  uint64_t dims[DCC_MAX_RANK] = {};
  uint64_t nnz = 0;
  uint64_t k = 0, zero = 0;
  int64_t lo = 0;
  int64_t offset = 0;  // of integers with scales: what stands for zero
  uint64_t channels = 0, inner = 0;
  uint64_t chunk = 0;
  uint64_t columns = 0, group = 0, stride = 0;
  uint64_t n = 0;  // product of the dims

  const DtypeInfo& type() const { return *dtype_info(dtype); }
  bool is_integer() const { return type().is_integer; }
  bool is_nibbles() const { return type().bits == 4; }
  bool is_plain_float() const { return !is_integer() && type().bits >= 16; }
  size_t element_size() const { return type().bits / 8 + size_t{is_nibbles()}; }  // two elements share a byte
  // Bytes of elements in memory; where two share a byte, those in front of an element of even number.
  uint64_t bytes_of(uint64_t elements) const {
    return is_nibbles() ? elements / 2 + elements % 2 : elements * element_size();
  }
  size_t compute_size() const { return dtype == kFloat64 ? 8 : 4; }
  size_t codebook_entry_size() const { return scale_kind == DCC_SCALE_NONE ? element_size() : compute_size(); }
  bool has_codebook() const { return codebook_kind != DCC_CODEBOOK_NONE; }
  bool has_codebook_section() const { return has_codebook() && codebook_kind != DCC_CODEBOOK_GRID; }
  bool has_scales() const { return scale_kind != DCC_SCALE_NONE; }
  bool is_chunked() const;
  uint64_t chunks() const { return is_chunked() ? n / chunk + (n % chunk != 0) : 1; }
};

struct Section {
  Span body;
  uint32_t crc = 0;
  size_t size = 0;  // with its length and CRC
};

struct Frame {
  Header header;
  size_t header_size = 0;  // with its CRC
  Section codebook, scales, tables;
  std::vector<Section> data;  // DATA, or the CHUNKs
};

// Whether a coder can hold elements of a dtype.
bool fits(const Coder& coder, uint8_t dtype);

// Computes `n` and refuses a tensor that its coder cannot hold.
void check_tensor(Header& header);

// Reads the header, whose CRC is checked, and finds the sections, whose CRCs and contents are not.
Frame read_frame(Span bytes);

// Returns the bytes of a section after checking its CRC.
Span checked(const Section& section);

// Checks the CODEBOOK section and returns its entries, short ones at full length (empty for a grid).
Bytes checked_codebook(const Frame& frame);

// Elements of chunk `c`.
inline uint64_t chunk_elements(const Header& header, uint64_t c) {
  const uint64_t first = c * header.chunk;
  return header.n - first < header.chunk ? header.n - first : header.chunk;
}

void append_header(Bytes& out, const Header& header);  // with its CRC
void append_section(Bytes& out, const Bytes& body);

}  // namespace dcc
#endif  // DCC_FRAME_H_
