// decode.cpp: whole frames, their chunks spread over threads.
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>

#include "base/parallel.h"
#include "coders/coder.h"
#include "frame/codec.h"
#include "frame/dequantize.h"
#include "kernels/isa.h"
#include "kernels/kernels.h"

namespace dcc {
namespace {

constexpr uint64_t kUnchunkedElements = uint64_t{1} << 18;  // a task's share of a frame without chunks, a multiple of 8

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

// The coder's tables; null when it has none.
std::unique_ptr<CoderTables> read_tables(const Frame& frame) {
  const Coder& coder = *frame.header.coder;
  if (!coder.traits.has_tables) return nullptr;
  ByteReader reader(checked(frame.tables));
  std::unique_ptr<CoderTables> tables = coder.read_tables(reader, frame.header);
  reader.finish("bytes follow the tables");
  return tables;
}

// Checks the CRC and the contents of DATA.
void check_data(const Frame& frame) {
  if (!frame.header.is_chunked()) frame.header.coder->check_data(checked(frame.data[0]), frame.header);
}

// What a frame is decoded to.
enum class Wanted {
  kElements,
  kIndices,  // uint16; codebook and scales are left alone
  kPoints,   // int8, of a scaled grid of f32
};

// Refuses a frame whose elements are not points of a grid times scales.
void check_points(const Header& header) {
  require_argument(header.codebook_kind == DCC_CODEBOOK_GRID && header.has_scales() && header.dtype == kFloat32,
                   "the frame holds no scaled grid of f32");
  require_argument(header.lo >= INT8_MIN && header.lo + static_cast<int64_t>(header.k) - 1 <= INT8_MAX,
                   "the points of the frame's grid do not fit int8");
}

// A frame made ready, then decoded task by task from any thread.
class FrameDecoder {
 public:
  FrameDecoder(Span bytes, Wanted wanted) : frame_(read_frame(bytes)), wanted_(wanted) {
    if (wanted == Wanted::kPoints) check_points(frame_.header);
  }

  const Frame& frame() const { return frame_; }
  const Header& header() const { return frame_.header; }
  size_t width() const {
    return wanted_ == Wanted::kIndices ? sizeof(uint16_t) : wanted_ == Wanted::kPoints ? 1 : header().element_size();
  }
  uint64_t tasks() const { return (header().n + task_elements() - 1) / task_elements(); }

  // What remains to be checked and built once the caller's buffer is known to hold all elements.
  void prepare() {
    check_data(frame_);
    tables_ = read_tables(frame_);
    if (header().has_codebook() && wanted_ == Wanted::kElements) dequantizer_.emplace(frame_);
  }

  // Decodes into `out`, the buffer of the whole tensor.
  void run(uint64_t task, uint8_t* out) {
    const uint64_t first = task * task_elements();
    const size_t count = static_cast<size_t>(std::min(task_elements(), header().n - first));
    const Section& section = frame_.data[header().is_chunked() ? task : 0];
    const Span bytes = header().is_chunked() ? checked(section) : section.body;
    const uint64_t nonzero =
        header().has_codebook() ? run_indexed(bytes, first, count, out) : run_plain(bytes, first, count, out);
    nonzero_.fetch_add(nonzero, std::memory_order_relaxed);
  }

  void finish() const { require(nonzero_ == header().nnz, "it has a wrong number of non-zeros"); }

 private:
  uint64_t task_elements() const { return header().is_chunked() ? header().chunk : kUnchunkedElements; }

  uint64_t run_plain(Span bytes, uint64_t first, size_t count, uint8_t* out) const {
    const size_t width = header().element_size();
    uint8_t* const to = out + first * width;
    header().coder->decode(bytes, first, count, header(), to);
    return count_nonzero(to, count, width);
  }

  uint64_t run_indexed(Span bytes, uint64_t first, size_t count, uint8_t* out) const {
    const std::unique_ptr<IndexReader> reader = header().coder->open(tables_.get(), bytes, first, count, header());
    alignas(64) uint16_t block[kBlockElements];
    uint64_t nonzero = 0;
    for (size_t at = 0; at < count; at += kBlockElements) {
      const size_t now = std::min(kBlockElements, count - at);
      reader->read(block, now);
      nonzero += header().zero == 0 ? now : kernels().count_other(block, now, static_cast<uint16_t>(header().zero - 1));
      uint8_t* const to = out + (first + at) * width();
      switch (wanted_) {
        case Wanted::kElements: dequantizer_->run(block, first + at, now, to); break;
        case Wanted::kIndices: std::memcpy(to, block, now * sizeof(uint16_t)); break;
        case Wanted::kPoints:  // modulo 256, which is exact for numbers that fit
          for (size_t i = 0; i < now; ++i) to[i] = static_cast<uint8_t>(block[i] + static_cast<unsigned>(header().lo));
      }
    }
    reader->finish();
    return nonzero;
  }

  Frame frame_;
  Wanted wanted_;
  std::unique_ptr<CoderTables> tables_;
  std::optional<Dequantizer> dequantizer_;
  std::atomic<uint64_t> nonzero_{0};
};

void fill_info(const Frame& frame, dcc_frame_info& info) {
  const Header& header = frame.header;
  info = {};
  info.dtype = header.dtype;
  info.coder = header.coder->traits.number;
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
  for (size_t c = 0; c < frame.data.size(); ++c) {
    const Section& section = frame.data[c];
    const Span bytes = header.is_chunked() ? checked(section) : section.body;
    info.data_bytes += section.size;
    header.coder->measure(bytes, header.is_chunked() ? chunk_elements(header, c) : header.n, header, info);
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
    const DecodeJob& job = jobs[j];
    const Wanted wanted = job.scales ? Wanted::kPoints : Wanted::kElements;
    decoders[j] = std::make_unique<FrameDecoder>(Span{job.frame, job.size}, wanted);
    const FrameDecoder& decoder = *decoders[j];
    require_argument(job.out_bytes == decoder.header().n * decoder.width(),
                     "the output buffer has not the size of the decoded tensor");
    if (job.scales) {
      require_argument(job.channels == decoder.header().channels, "the frame has another number of scales");
      copy_scales(decoder.frame(), job.scales);
    }
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
  FrameDecoder decoder({frame, size}, Wanted::kIndices);
  require_argument(decoder.header().has_codebook(), "the frame has no codebook, so it has no indices");
  require_argument(decoder.header().n <= capacity, "the output buffer is smaller than the tensor");
  decoder.prepare();
  parallel_for(static_cast<size_t>(decoder.tasks()), threads,
               [&](size_t task) { decoder.run(task, reinterpret_cast<uint8_t*>(indices)); });
  decoder.finish();
}

}  // namespace dcc
