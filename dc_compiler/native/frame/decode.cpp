// decode.cpp: whole frames, their chunks spread over threads.
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>

#include "frame/codec.h"
#include "coders/context.h"
#include "frame/dequantize.h"
#include "coders/huffman.h"
#include "kernels/isa.h"
#include "coders/lossless.h"
#include "coders/lz.h"
#include "frame/number_list.h"
#include "base/parallel.h"
#include "coders/rans.h"
#include "coders/text.h"

namespace dcc {
namespace {

constexpr uint64_t kUnchunkedElements = uint64_t{1} << 18;  // a task's share of a frame without chunks, a multiple of 8

// The indices of one chunk, in order.
class IndexReader {
 public:
  virtual ~IndexReader() = default;
  // `count` is kBlockElements in every call but the last.
  virtual void read(uint16_t* out, size_t count) = 0;
  virtual void finish() = 0;
};

class FixedReader final : public IndexReader {
 public:
  FixedReader(Span bytes, uint64_t first, const Header& header)
      : bytes_(bytes), width_(header.index_width()), at_(first * width_), k_(header.k) {}

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

Span skip(Span bytes, uint64_t count) { return {bytes.data + count, static_cast<size_t>(bytes.size - count)}; }

// FORMAT.md 5.1 with positions: entries are decoded a block at a time and put where they belong.
class SparseHuffmanReader final : public IndexReader {
 public:
  SparseHuffmanReader(const HuffmanDecoder& positions, const HuffmanDecoder& codes, Span streams,
                      const HuffmanChunkHead& head, const Header& header)
      : positions_(positions, streams, head.bits, header.lanes),
        codes_(codes, skip(streams, position_bytes(head, header.lanes)), head.bits + header.lanes, header.lanes),
        left_(head.entries),
        zero_index_(static_cast<uint16_t>(header.zero - 1)) {}

  void read(uint16_t* out, size_t count) override {
    std::fill_n(out, count, zero_index_);
    const uint64_t end = first_ + count;
    while (next_ < ready_ || refill()) {
      const uint64_t element = after_ + gaps_[next_];
      if (element >= end) break;
      out[element - first_] = indices_[next_];
      after_ = element + 1;
      ++next_;
    }
    first_ = end;
  }

  void finish() override {
    require(next_ == ready_ && left_ == 0, "an entry lies behind the end of its chunk");
    positions_.finish();
    codes_.finish();
  }

 private:
  static uint64_t position_bytes(const HuffmanChunkHead& head, unsigned lanes) {
    uint64_t bytes = 0;
    for (unsigned lane = 0; lane < lanes; ++lane) bytes += (head.bits[lane] + 7) / 8;
    return bytes;
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

template <typename T>
uint64_t count_nonzero(const uint8_t* elements, size_t count) {
  uint64_t nonzero = 0;
  for (size_t i = 0; i < count; ++i) nonzero += load<T>(elements + i * sizeof(T)) != 0 ? 1U : 0U;
  return nonzero;
}

uint64_t count_nonzero(const uint8_t* elements, size_t count, size_t width) {
  switch (width) {
    case 1: return count_nonzero<uint8_t>(elements, count);
    case 2: return count_nonzero<uint16_t>(elements, count);
    case 4: return count_nonzero<uint32_t>(elements, count);
    default: return count_nonzero<uint64_t>(elements, count);
  }
}

// The entropy coder's tables.
struct Tables {
  std::optional<HuffmanDecoder> positions, codes;
  std::optional<RansDecoder> rans;
};

Tables read_tables(const Frame& frame) {
  Tables tables;
  const Header& header = frame.header;
  if (!header.has_tables()) return tables;
  ByteReader reader(checked(frame.tables));
  if (header.coder == DCC_RANS) {
    tables.rans.emplace(read_rans_model(reader, header.k));
  } else {
    if (header.position_bits > 0) {
      tables.positions.emplace(read_number_list(reader, size_t{1} << header.position_bits));
    }
    tables.codes.emplace(read_number_list(reader, header.k));
  }
  reader.finish("bytes follow the tables");
  return tables;
}

// Checks the CRC and the length of DATA, and the padding of `fixed`.
void check_data(const Frame& frame) {
  const Header& header = frame.header;
  if (header.is_chunked()) return;
  const Span data = checked(frame.data[0]);
  if (header.coder == DCC_RAW) {
    require(data.size == header.n * header.element_size(), "its data have a wrong length");
    return;
  }
  const uint64_t width = header.index_width();  // n < 2^63 / 2, width <= 16: split the product to keep it in range
  const uint64_t bytes = header.n / 8 * width + (header.n % 8 * width + 7) / 8;
  require(data.size == bytes, "its data have a wrong length");
  const unsigned used = static_cast<unsigned>((header.n % 8 * width) & 7);
  require(used == 0 || data.data[bytes - 1] >> used == 0, "padding bits are not zero");
}

// A frame made ready, then decoded task by task from any thread.
class FrameDecoder {
 public:
  // `indices_only`: codebook and scales are left alone.
  FrameDecoder(Span bytes, bool indices_only) : frame_(read_frame(bytes)), indices_only_(indices_only) {}

  const Header& header() const { return frame_.header; }
  uint64_t tasks() const { return (header().n + task_elements() - 1) / task_elements(); }

  // What remains to be checked and built once the caller's buffer is known to hold all elements.
  void prepare() {
    check_data(frame_);
    tables_ = read_tables(frame_);
    if (header().has_codebook() && !indices_only_) dequantizer_.emplace(frame_);
  }

  // Decodes into `out`, the buffer of the whole tensor (elements, or uint16 indices).
  void run(uint64_t task, uint8_t* out) {
    const uint64_t first = task * task_elements();
    const size_t count = static_cast<size_t>(std::min(task_elements(), header().n - first));
    const Section& section = frame_.data[header().is_chunked() ? task : 0];
    const Span bytes = header().is_chunked() ? checked(section) : section.body;
    const uint64_t nonzero = header().has_codebook() ? run_indexed(bytes, first, count, out)
                                                     : run_plain(bytes, first, count, out);
    nonzero_.fetch_add(nonzero, std::memory_order_relaxed);
  }

  void finish() const { require(nonzero_ == header().nnz, "it has a wrong number of non-zeros"); }

 private:
  uint64_t task_elements() const { return header().is_chunked() ? header().chunk : kUnchunkedElements; }

  uint64_t run_plain(Span bytes, uint64_t first, size_t count, uint8_t* out) const {
    const size_t width = header().element_size();
    uint8_t* const to = out + first * width;
    switch (header().coder) {
      case DCC_RAW: std::memcpy(to, bytes.data + first * width, count * width); break;
      case DCC_LZ: decode_lz_chunk(bytes, to, count); break;
      case DCC_TEXT: decode_text_chunk(bytes, to, count); break;
      default: decode_lossless_chunk(bytes, count, width, header().dtype != kUint8, to);
    }
    return count_nonzero(to, count, width);
  }

  std::unique_ptr<IndexReader> open(Span bytes, uint64_t first, size_t count) const {
    if (header().coder == DCC_FIXED) return std::make_unique<FixedReader>(bytes, first, header());
    if (header().coder == DCC_RANS) {
      return std::make_unique<SymbolReader<RansReader>>(*tables_.rans, bytes, header().lanes);
    }
    if (header().coder == DCC_CONTEXT) return std::make_unique<SymbolReader<ContextReader>>(bytes, header());
    ByteReader reader(bytes);
    const HuffmanChunkHead head = read_huffman_head(reader, header(), count);
    const Span streams = reader.rest();
    if (header().position_bits == 0) {
      return std::make_unique<SymbolReader<HuffmanReader>>(*tables_.codes, streams, head.bits, header().lanes);
    }
    return std::make_unique<SparseHuffmanReader>(*tables_.positions, *tables_.codes, streams, head, header());
  }

  uint64_t run_indexed(Span bytes, uint64_t first, size_t count, uint8_t* out) const {
    const std::unique_ptr<IndexReader> reader = open(bytes, first, count);
    const size_t width = indices_only_ ? sizeof(uint16_t) : header().element_size();
    alignas(64) uint16_t block[kBlockElements];
    uint64_t nonzero = 0;
    for (size_t at = 0; at < count; at += kBlockElements) {
      const size_t now = std::min(kBlockElements, count - at);
      reader->read(block, now);
      nonzero += header().zero == 0 ? now : kernels().count_other(block, now, static_cast<uint16_t>(header().zero - 1));
      uint8_t* const to = out + (first + at) * width;
      if (indices_only_) {
        std::memcpy(to, block, now * width);
      } else {
        dequantizer_->run(block, first + at, now, to);
      }
    }
    reader->finish();
    return nonzero;
  }

  Frame frame_;
  bool indices_only_;
  Tables tables_;
  std::optional<Dequantizer> dequantizer_;
  std::atomic<uint64_t> nonzero_{0};
};

void fill_info(const Frame& frame, dcc_frame_info& info) {
  const Header& header = frame.header;
  info = {};
  info.dtype = header.dtype;
  info.coder = header.coder;
  info.codebook_kind = header.codebook_kind;
  info.scale_kind = header.scale_kind;
  info.rank = header.rank;
  info.lanes = header.lanes;
  info.position_bits = header.position_bits;
  info.codebook_entries = static_cast<uint32_t>(header.k);
  info.zero = static_cast<uint32_t>(header.zero);
  info.grid_lo = header.lo;
  std::copy(std::begin(header.dims), std::end(header.dims), info.dims);
  info.elements = header.n;
  info.nonzero = header.nnz;
  info.channels = header.channels;
  info.inner = header.inner;
  info.chunk_elements = header.chunk;
  info.chunks = header.is_chunked() ? header.chunks() : 0;
  info.header_bytes = frame.header_size;
  info.codebook_bytes = frame.codebook.size;
  info.scales_bytes = frame.scales.size;
  info.tables_bytes = frame.tables.size;
  info.entries = header.coder == DCC_HUFFMAN ? 0 : header.n;
  for (size_t c = 0; c < frame.data.size(); ++c) {
    const Section& section = frame.data[c];
    const Span bytes = header.is_chunked() ? checked(section) : section.body;
    info.data_bytes += section.size;
    if (header.coder != DCC_HUFFMAN) {
      info.index_bits_total += 8 * bytes.size;
      continue;
    }
    ByteReader reader(bytes);
    const HuffmanChunkHead head = read_huffman_head(reader, header, chunk_elements(header, c));
    info.entries += head.entries;
    const unsigned first = header.position_bits > 0 ? header.lanes : 0;
    for (unsigned i = 0; i < first; ++i) info.position_bits_total += head.bits[i];
    for (unsigned i = 0; i < header.lanes; ++i) info.index_bits_total += head.bits[first + i];
  }
}

void decode_jobs(const DecodeJob* jobs, size_t count, int threads, size_t* failed) {
  *failed = 0;
  std::vector<std::unique_ptr<FrameDecoder>> decoders(count);
  const auto rethrow = [&](const TaskFailure& failure, size_t job) {
    if (!failure.error) return;
    *failed = job;
    std::rethrow_exception(failure.error);
  };
  const TaskFailure unprepared = try_parallel(count, threads, [&](size_t j) {
    decoders[j] = std::make_unique<FrameDecoder>(Span{jobs[j].frame, jobs[j].size}, false);
    const Header& header = decoders[j]->header();
    require_argument(jobs[j].out_bytes == header.n * header.element_size(),
                     "the output buffer has not the size of the decoded tensor");
    decoders[j]->prepare();
  });
  rethrow(unprepared, unprepared.task);

  // Task t belongs to the job j with first_task[j] <= t < first_task[j + 1].
  std::vector<size_t> first_task(count + 1, 0);
  for (size_t j = 0; j < count; ++j) first_task[j + 1] = first_task[j] + static_cast<size_t>(decoders[j]->tasks());
  const auto job_of = [&](size_t task) {
    return static_cast<size_t>(std::upper_bound(first_task.begin(), first_task.end(), task) - first_task.begin()) - 1;
  };
  const TaskFailure undecoded = try_parallel(first_task[count], threads, [&](size_t task) {
    const size_t j = job_of(task);
    decoders[j]->run(task - first_task[j], static_cast<uint8_t*>(jobs[j].out));
  });
  rethrow(undecoded, undecoded.error ? job_of(undecoded.task) : 0);
  for (size_t j = 0; j < count; ++j) {
    *failed = j;
    decoders[j]->finish();
  }
}

}  // namespace

int decode_all(const DecodeJob* jobs, size_t count, int threads, std::string& error, size_t* failed) {
  return guarded(error, [&] { decode_jobs(jobs, count, threads, failed); });
}

int parse_frame(const uint8_t* frame, size_t size, dcc_frame_info& info, std::string& error) {
  return guarded(error, [&] {
    const Frame parsed = read_frame({frame, size});
    checked_codebook(parsed);
    checked_scales(parsed);
    read_tables(parsed);
    check_data(parsed);
    fill_info(parsed, info);
  });
}

void decode_indices(const uint8_t* frame, size_t size, uint16_t* indices, size_t capacity, int threads) {
  FrameDecoder decoder({frame, size}, true);
  require_argument(decoder.header().has_codebook(), "the frame has no codebook, so it has no indices");
  require_argument(decoder.header().n <= capacity, "the output buffer is smaller than the tensor");
  decoder.prepare();
  parallel_for(static_cast<size_t>(decoder.tasks()), threads,
               [&](size_t task) { decoder.run(task, reinterpret_cast<uint8_t*>(indices)); });
  decoder.finish();
}

}  // namespace dcc
