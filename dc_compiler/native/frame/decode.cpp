// decode.cpp: whole frames, their chunks spread over threads.
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>

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
  constexpr size_t kBlock = 240;  // counters as wide as elements, which a vector holds many of, do not overflow
  uint64_t nonzero = 0;
  for (size_t at = 0; at < count; at += kBlock) {
    const size_t end = std::min(count, at + kBlock);
    T found = 0;
    for (size_t i = at; i < end; ++i) found = static_cast<T>(found + (load<T>(elements + i * sizeof(T)) != 0 ? 1 : 0));
    nonzero += found;
  }
  return nonzero;
}

// Of elements that share bytes; the upper half of the last byte is zero where it holds none.
uint64_t count_nonzero_nibbles(const uint8_t* bytes, size_t count) {
  uint64_t nonzero = 0;
  for (size_t i = 0; i < count; ++i) nonzero += ((bytes[i] & 15) != 0 ? 1U : 0U) + ((bytes[i] >> 4) != 0 ? 1U : 0U);
  return nonzero;
}

uint64_t count_nonzero(const uint8_t* elements, size_t count, const Header& header) {
  if (header.is_nibbles()) return count_nonzero_nibbles(elements, static_cast<size_t>(header.bytes_of(count)));
  switch (header.element_size()) {
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
  // Bytes that so many elements take in the caller's buffer.
  uint64_t bytes_for(uint64_t elements) const {
    return wanted_ == Wanted::kIndices  ? elements * sizeof(uint16_t)
           : wanted_ == Wanted::kPoints ? elements
                                        : header().bytes_of(elements);
  }
  uint64_t tasks() const { return (header().n + task_elements() - 1) / task_elements(); }
  size_t count_of(uint64_t task) const {
    return static_cast<size_t>(std::min(task_elements(), header().n - first_of(task)));
  }

  // What remains to be checked and built once the caller's buffer is known to hold all elements.
  void prepare() {
    check_data(frame_);
    tables_ = read_tables(frame_);
    if (header().has_codebook() && wanted_ == Wanted::kElements) dequantizer_.emplace(frame_);
  }

  // Whether two tasks of such frames take less time together (run_two).
  bool runs_in_pairs() const { return header().has_codebook() && header().coder->reads_in_pairs(header()); }

  // Decodes into `out`, the buffer of the whole tensor.
  void run(uint64_t task, uint8_t* out) {
    if (header().has_codebook()) {
      IndexTask indices(*this, task, out);
      while (!indices.is_done()) indices.step();
      indices.finish();
    } else {
      run_plain(task, out);
    }
  }

  // The same for two tasks that run in pairs.
  static void run_two(FrameDecoder& one, uint64_t task, uint8_t* out, FrameDecoder& other, uint64_t other_task,
                      uint8_t* other_out) {
    IndexTask indices(one, task, out);
    IndexTask others(other, other_task, other_out);
    while (indices.has_block() && others.has_block()) IndexTask::step_two(indices, others);
    for (IndexTask* rest : {&indices, &others}) {
      while (!rest->is_done()) rest->step();
      rest->finish();
    }
  }

  void finish() const { require(nonzero_ == header().nnz, "it has a wrong number of non-zeros"); }

 private:
  uint64_t task_elements() const { return header().is_chunked() ? header().chunk : kUnchunkedElements; }

  uint64_t first_of(uint64_t task) const { return task * task_elements(); }
  Span bytes_of(uint64_t task) const {
    return header().is_chunked() ? checked(frame_.data[task]) : frame_.data[0].body;
  }

  void run_plain(uint64_t task, uint8_t* out) {
    const size_t count = count_of(task);
    uint8_t* const to = out + bytes_for(first_of(task));
    header().coder->decode(bytes_of(task), first_of(task), count, header(), to);
    nonzero_.fetch_add(count_nonzero(to, count, header()), std::memory_order_relaxed);
  }

  // A task of a frame with a codebook, a block at a time.
  class IndexTask {
   public:
    IndexTask(FrameDecoder& decoder, uint64_t task, uint8_t* out)
        : decoder_(decoder),
          at_(decoder.first_of(task)),
          left_(decoder.count_of(task)),
          out_(out),
          reader_(decoder.header().coder->open(decoder.tables_.get(), decoder.bytes_of(task), at_, left_,
                                               decoder.header())) {}

    bool has_block() const { return left_ >= kBlockElements; }
    bool is_done() const { return left_ == 0; }

    void step() {
      const size_t count = std::min(kBlockElements, left_);
      reader_->read(block_, count);
      put(count);
    }

    static void step_two(IndexTask& one, IndexTask& other) {
      one.reader_->read_two(one.block_, *other.reader_, other.block_, kBlockElements);
      one.put(kBlockElements);
      other.put(kBlockElements);
    }

    void finish() {
      reader_->finish();
      decoder_.nonzero_.fetch_add(nonzero_, std::memory_order_relaxed);
    }

   private:
    void put(size_t count) {
      const uint64_t zero = decoder_.header().zero;
      nonzero_ += zero == 0 ? count : kernels().count_other(block_, count, static_cast<uint16_t>(zero - 1));
      decoder_.put(block_, at_, count, out_);
      at_ += count;
      left_ -= count;
    }

    FrameDecoder& decoder_;
    uint64_t at_;  // the next element
    size_t left_;
    uint8_t* out_;
    std::unique_ptr<IndexReader> reader_;
    uint64_t nonzero_ = 0;
    alignas(64) uint16_t block_[kBlockElements];
  };

  // What is wanted of elements `first` to `first + count`.
  void put(const uint16_t* indices, uint64_t first, size_t count, uint8_t* out) const {
    uint8_t* const to = out + bytes_for(first);
    switch (wanted_) {
      case Wanted::kElements: dequantizer_->run(indices, first, count, to); break;
      case Wanted::kIndices: std::memcpy(to, indices, count * sizeof(uint16_t)); break;
      case Wanted::kPoints:  // modulo 256, which is exact for numbers that fit
        for (size_t i = 0; i < count; ++i)
          to[i] = static_cast<uint8_t>(indices[i] + static_cast<unsigned>(header().lo));
    }
  }

  Frame frame_;
  Wanted wanted_;
  std::unique_ptr<CoderTables> tables_;
  std::optional<Dequantizer> dequantizer_;
  std::atomic<uint64_t> nonzero_{0};
};

// The tasks of several frames.
class TaskList {
 public:
  void append(FrameDecoder& decoder, uint8_t* out) {
    for (uint64_t number = 0; number < decoder.tasks(); ++number)
      tasks_.push_back({&decoder, out, number, decoder.count_of(number), frames_});
    ++frames_;
  }

  // Runs all. When some fail, sets `failed` to the frame of the first of them and rethrows what that threw.
  void run(int threads, size_t& failed) {
    // Two at a time where they run in pairs, which should end together, as long as enough is left for every thread
    constexpr size_t kLeastPerThread = 8;
    std::stable_sort(tasks_.begin(), tasks_.end(), [](const Task& a, const Task& b) {
      return std::make_pair(a.runs_in_pairs(), a.count) > std::make_pair(b.runs_in_pairs(), b.count);
    });
    const size_t workers = thread_count(threads);
    const size_t stride = workers == 1 || tasks_.size() >= kLeastPerThread * workers ? 2 : 1;
    const TaskFailure failure = try_parallel((tasks_.size() + stride - 1) / stride, threads, [&](size_t i) {
      run_some(i * stride, std::min(tasks_.size(), (i + 1) * stride));
    });
    if (!failure.error) return;
    failed = tasks_[failure.task * stride].frame;
    try {
      std::rethrow_exception(failure.error);
    } catch (const TaskFailure& blamed) {
      failed = tasks_[blamed.task].frame;
      std::rethrow_exception(blamed.error);
    }
  }

 private:
  struct Task {
    FrameDecoder* decoder;
    uint8_t* out;
    uint64_t number;  // within the frame
    size_t count;     // of elements
    size_t frame;
    bool runs_in_pairs() const { return decoder->runs_in_pairs(); }
  };

  void run_some(size_t first, size_t end) const {
    if (end - first == 2 && run_pair(tasks_[first], tasks_[first + 1])) return;
    for (size_t i = first; i < end; ++i) {
      try {
        tasks_[i].decoder->run(tasks_[i].number, tasks_[i].out);
      } catch (...) {
        throw TaskFailure{i, std::current_exception()};
      }
    }
  }

  // False when that gains nothing, or when one of them fails: one after the other they tell which.
  static bool run_pair(const Task& one, const Task& other) {
    if (!one.runs_in_pairs() || !other.runs_in_pairs()) return false;
    try {
      FrameDecoder::run_two(*one.decoder, one.number, one.out, *other.decoder, other.number, other.out);
    } catch (const Failure&) {
      return false;
    }
    return true;
  }

  std::vector<Task> tasks_;
  size_t frames_ = 0;
};

void fill_tensor(const Header& header, dcc_frame_info& info) {
  info = {};
  info.dtype = header.dtype;
  info.rank = header.rank;
  std::copy(std::begin(header.dims), std::end(header.dims), info.dims);
  info.elements = header.n;
  info.nonzero = header.nnz;
  info.channels = header.channels;
}

void fill_info(const Frame& frame, dcc_frame_info& info) {
  const Header& header = frame.header;
  fill_tensor(header, info);
  info.coder = header.coder->traits.number;
  info.codebook_kind = header.codebook_kind;
  info.scale_kind = header.scale_kind;
  info.lanes = header.lanes;
  info.position_bits = header.position_bits;
  info.codebook_entries = static_cast<uint32_t>(header.k);
  info.zero = static_cast<uint32_t>(header.zero);
  info.grid_lo = header.lo;
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
    require_argument(job.out_bytes == decoder.bytes_for(decoder.header().n),
                     "the output buffer has not the size of the decoded tensor");
    if (job.scales) {
      require_argument(job.channels == decoder.header().channels, "the frame has another number of scales");
      copy_scales(decoder.frame(), job.scales);
    }
    decoders[j]->prepare();
  });
  rethrow(unprepared, unprepared.task);

  TaskList tasks;
  for (size_t j = 0; j < count; ++j) tasks.append(*decoders[j], static_cast<uint8_t*>(jobs[j].out));
  tasks.run(threads, *failed);
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

int parse_header(const uint8_t* frame, size_t size, dcc_frame_info& info, std::string& error) {
  return guarded(error, [&] { fill_tensor(read_frame({frame, size}).header, info); });
}

void decode_indices(const uint8_t* frame, size_t size, uint16_t* indices, size_t capacity, int threads) {
  FrameDecoder decoder({frame, size}, Wanted::kIndices);
  require_argument(decoder.header().has_codebook(), "the frame has no codebook, so it has no indices");
  require_argument(decoder.header().n <= capacity, "the output buffer is smaller than the tensor");
  decoder.prepare();
  TaskList tasks;
  tasks.append(decoder, reinterpret_cast<uint8_t*>(indices));
  size_t failed = 0;
  tasks.run(threads, failed);
  decoder.finish();
}

}  // namespace dcc
