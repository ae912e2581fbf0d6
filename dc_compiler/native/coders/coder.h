// coder.h: what a coder is. Each has a file of its own beside this one and a line in table.cpp; nothing else knows its
// number.
#ifndef DCC_CODER_H_
#define DCC_CODER_H_

#include <functional>
#include <memory>
#include <utility>

#include "base/parallel.h"
#include "coders/huffman_code.h"
#include "frame/frame.h"

namespace dcc {

enum class Stores : uint8_t {
  kIndices = DCC_STORES_INDICES,    // codebook indices
  kElements = DCC_STORES_ELEMENTS,  // elements of any type as they are
  kBytes = DCC_STORES_BYTES,        // uint8 elements as they are
};

enum class Layout : uint8_t {
  kWhole,     // one section DATA, of which any part can be decoded
  kChunks,    // CHUNKs
  kOneChunk,  // one CHUNK, whatever its size
};

struct CoderTraits {
  const char* name;
  uint8_t number;  // in headers
  Stores stores;
  Layout layout;
  bool has_tables;  // a section TABLES before the CHUNKs
  // For an element, and more for one that is not zero, on one core of about 3 GHz; benchmarks/codec_speed.py measures
  // both. And for a frame, whatever it holds, where that is worth telling.
  uint32_t decode_picoseconds, nonzero_picoseconds;
  uint32_t frame_nanoseconds = 0;
};

// Coders above this are slow to decode: `auto` leaves them out.
constexpr uint32_t kSlowPicoseconds = 20'000;
// Coders above this are to be smaller by 1/256 than those below, unless the smallest frame is wanted whatever it takes.
constexpr uint32_t kQuickPicoseconds = 2'000;

// The contents of TABLES, ready for decoding; any number of threads may read them.
class CoderTables {
 public:
  virtual ~CoderTables() = default;
};

// The indices of one chunk (or task, in one section), in order.
class IndexReader {
 public:
  virtual ~IndexReader() = default;
  // `count` is kBlockElements (dequantize.h) in every call but the last.
  virtual void read(uint16_t* out, size_t count) = 0;
  // The same of two readers, whose coder may do both in less time than one after the other.
  virtual void read_two(uint16_t* out, IndexReader& other, uint16_t* other_out, size_t count) {
    read(out, count);
    other.read(other_out, count);
  }
  // Refuses what is left over.
  virtual void finish() = 0;
};

// What an encoder knows of indices before it chooses a coder. `header` lacks the coder and its own fields.
struct IndexTensor {
  const dcc_encode_request& request;
  Header header;
  Counts counts;  // of each index
};

// How a coder would write a tensor, and how large that gets.
struct EncodePlan {
  static constexpr uint64_t kUnknown = UINT64_MAX;
  Header header;
  uint64_t bytes;                            // estimate of TABLES and DATA or CHUNKs
  std::function<void(Bytes& frame)> append;  // writes them
};

class Coder {
 public:
  explicit constexpr Coder(const CoderTraits& coder_traits) : traits(coder_traits) {}
  virtual ~Coder() = default;
  Coder(const Coder&) = delete;
  Coder& operator=(const Coder&) = delete;

  bool is_slow() const { return traits.decode_picoseconds > kSlowPicoseconds; }
  bool is_quick() const { return traits.decode_picoseconds <= kQuickPicoseconds; }

  // The header's fields that only this coder has.
  virtual void read_fields(ByteReader& /*reader*/, Header& /*header*/) const {}
  virtual void append_fields(Bytes& /*out*/, const Header& /*header*/) const {}
  virtual void check_fields(const Header& /*header*/) const {}
  // Whether it can hold a tensor without elements.
  virtual bool holds_nothing() const { return false; }

  virtual std::unique_ptr<CoderTables> read_tables(ByteReader& reader, const Header& header) const;
  // Refuses DATA of a wrong length (Layout::kWhole).
  virtual void check_data(Span data, const Header& header) const;
  // Adds what `elements` elements in `bytes` take to `entries`, `position_bits_total` and `index_bits_total`.
  virtual void measure(Span bytes, uint64_t elements, const Header& header, dcc_frame_info& info) const;

  // Stores::kIndices. `bytes` are a CHUNK of `count` indices, or DATA, of which `count` from index `first` on are
  // wanted.
  virtual std::unique_ptr<IndexReader> open(const CoderTables* tables, Span bytes, uint64_t first, size_t count,
                                            const Header& header) const;
  // Whether readers of such frames gain from read_two with each other.
  virtual bool reads_in_pairs(const Header& /*header*/) const { return false; }
  virtual EncodePlan plan(const IndexTensor& tensor) const;

  // The others. `out` is where the first of these elements goes; `elements` is where it lies.
  virtual void decode(Span bytes, uint64_t first, size_t count, const Header& header, uint8_t* out) const;
  virtual Bytes encode(const uint8_t* elements, size_t count, const Header& header) const;
  // Elements of a chunk (Layout::kChunks) when the caller leaves that open.
  virtual uint64_t chunk_for(const Header& header) const { return header.n; }
  // Whether an encoder that looks for the smallest result should try it.
  virtual bool is_worth_trying(const Header& /*header*/) const { return true; }

  const CoderTraits traits;
};

// All coders, those that are tried first in front (table.cpp).
const std::vector<const Coder*>& coders();

// Null when there is none.
const Coder* find_coder(uint8_t number);

// A coder's own reader, whose symbols are the indices.
template <typename Reader>
class SymbolReader final : public IndexReader {
 public:
  template <typename... Arguments>
  explicit SymbolReader(const Arguments&... arguments) : reader_(arguments...) {}
  void read(uint16_t* out, size_t count) override { reader_.read(out, count); }
  void finish() override { reader_.finish(); }

 private:
  Reader reader_;
};

// Encodes all chunks side by side and appends them in order.
template <typename EncodeChunk>
void append_chunks(Bytes& frame, const Header& header, int threads, EncodeChunk&& encode_chunk) {
  std::vector<Bytes> chunks(static_cast<size_t>(header.chunks()));
  parallel_for(chunks.size(), threads, [&](size_t c) {
    chunks[c] = encode_chunk(static_cast<size_t>(c * header.chunk), static_cast<size_t>(chunk_elements(header, c)));
  });
  for (Bytes& chunk : chunks) {
    append_section(frame, chunk);
    Bytes().swap(chunk);
  }
}

constexpr uint64_t kSectionOverhead = 7;  // for estimates: a length of three bytes, and the CRC

}  // namespace dcc
#endif  // DCC_CODER_H_
