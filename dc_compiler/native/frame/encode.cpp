// encode.cpp: one tensor into one frame, with the coder and the settings that make it smallest.
//
// Sizes are computed from histograms, in integers, before anything is encoded: the bytes written depend on the request
// alone.
#include <algorithm>

#include "base/crc32c.h"
#include "base/parallel.h"
#include "coders/byte_stream.h"
#include "coders/coder.h"
#include "coders/rans_code.h"
#include "frame/codec.h"
#include "frame/dequantize.h"
#include "frame/frame.h"

namespace dcc {
namespace {

constexpr uint64_t kMostChunk = uint64_t{1} << 20;
constexpr uint64_t kLeastChunk = uint64_t{1} << 16;
constexpr uint64_t kChunkBytes = 128 << 10;  // a chunk has more elements until it reaches this size
constexpr unsigned kMostPositionBits = 16;

Header header_of(const dcc_encode_request& request) {
  require_argument(request.rank <= DCC_MAX_RANK, "the rank is above 32");
  require_argument(dtype_info(request.dtype) != nullptr, "there is no such dtype");
  Header header;
  header.dtype = request.dtype;
  header.codebook_kind = request.codebook_kind;
  header.scale_kind = request.scale_kind;
  header.rank = request.rank;
  std::copy(std::begin(request.dims), std::begin(request.dims) + request.rank, header.dims);
  header.n = 1;
  for (unsigned i = 0; i < header.rank; ++i) header.n *= header.dims[i];  // check_tensor looks for overflow
  if (header.has_codebook()) {
    header.k = request.codebook_entries;
    header.zero = request.zero;
  }
  if (header.codebook_kind == DCC_CODEBOOK_GRID) header.lo = request.grid_lo;
  if (header.has_scales()) {
    header.channels = request.channels;
    header.inner = request.inner;
    header.offset = request.offset;
  }
  return header;
}

// Whether the encoder may choose the coder.
bool chooses(const dcc_encode_request& request) { return request.coder >= DCC_SMALLEST_FAST; }

bool is_slower(const Coder& coder) { return coder.traits.stores == Stores::kIndices && !coder.is_quick(); }

// What a coder's bytes count as where one that decodes faster would do as well.
uint64_t weighed(uint64_t bytes, const Coder& coder, const dcc_encode_request& request) {
  return request.coder != DCC_SMALLEST && is_slower(coder) ? bytes + bytes / 256 : bytes;
}

// Runs a check of the decoder on what the caller gave, so that a refusal blames the argument and not a frame.
template <typename Check>
void check_argument(Check&& check) {
  try {
    check();
  } catch (const Failure& failure) {
    const std::string sentence = failure.what();
    throw Failure(DCC_BAD_ARGUMENT, "the tensor cannot be encoded" + sentence.substr(sentence.find(':')));
  }
}

// The coders that a request lets the encoder choose from, or the one it names, of those that suit it; in the order of
// the table.
std::vector<const Coder*> candidates(const dcc_encode_request& request, bool has_codebook) {
  std::vector<const Coder*> found;
  for (const Coder* coder : coders()) {
    const bool is_named = coder->traits.number == request.coder;
    const bool is_left_out =
        (request.coder != DCC_SMALLEST && coder->is_slow()) || (request.only_quick && is_slower(*coder));
    const bool is_choice = chooses(request) && !is_left_out &&
                           has_codebook == (coder->traits.stores == Stores::kIndices) && fits(*coder, request.dtype);
    if (is_named || is_choice) found.push_back(coder);
  }
  require_argument(!found.empty(), "there is no such coder");
  return found;
}

// Refuses a tensor that no frame of this coder can hold. `header` has its final nnz or one that fits any frame.
void check_request(Header header, const Coder* coder) {
  header.coder = coder;
  check_argument([&] { check_tensor(header); });
}

// Elements of a chunk: a power of two by what it encodes to, then as many chunks of about equal size as that needs.
uint64_t choose_chunk(uint64_t n, uint64_t total_bits) {
  uint64_t chunk = kLeastChunk;
  while (chunk < kMostChunk && total_bits / 8 / (n / chunk + 1) < kChunkBytes) chunk *= 2;
  if (n <= chunk) return n;
  const uint64_t chunks = (n + chunk - 1) / chunk;
  return ((n + chunks - 1) / chunks + 4095) / 4096 * 4096;
}

// How often each index occurs. Refuses an index that is not in the codebook.
Counts count_indices(const uint16_t* indices, const Header& header, int threads) {
  const size_t n = static_cast<size_t>(header.n);
  const size_t parts = std::min<size_t>(thread_count(threads), n / kLeastChunk + 1);
  std::vector<Counts> counts(parts);
  parallel_for(parts, threads, [&](size_t part) {
    Counts& own = counts[part];
    own.resize(65536, 0);
    for (size_t i = n * part / parts; i < n * (part + 1) / parts; ++i) ++own[indices[i]];
  });
  Counts total = std::move(counts[0]);
  for (size_t part = 1; part < parts; ++part) {
    for (size_t j = 0; j < total.size(); ++j) total[j] += counts[part][j];
  }
  require_argument(std::all_of(total.begin() + static_cast<ptrdiff_t>(header.k), total.end(),
                               [](uint64_t count) { return count == 0; }),
                   "an index is not in the codebook");
  total.resize(static_cast<size_t>(header.k));
  return total;
}

// A chunk of whole bytes, where two elements share one.
uint64_t whole_bytes(uint64_t chunk, const Header& header) {
  return header.is_nibbles() && chunk < header.n ? chunk + chunk % 2 : chunk;
}

Bytes log_scales_body(const int32_t* q, size_t channels) {
  const auto [least, most] = std::minmax_element(q, q + channels);
  require_argument(*least >= -1008 && *most <= 1015 && *most - *least <= 255,
                   "logarithmic scales must lie from -1008 to 1015 and at most 255 apart");
  Bytes body;
  append_svarint(body, *least);
  Bytes steps;
  for (size_t c = 0; c < channels; ++c) steps.push_back(static_cast<uint8_t>(q[c] - *least));
  append_byte_stream(body, steps);
  return body;
}

// Appends CODEBOOK and SCALES after checking them as a decoder does.
void append_codebook_and_scales(Bytes& out, const Header& header, const dcc_encode_request& request) {
  Frame frame;
  frame.header = header;
  const auto add = [&](const Bytes& body, Section& section, auto check) {
    section.body = {body.data(), body.size()};
    section.crc = crc32c(body.data(), body.size());
    check_argument([&] { check(frame); });
    append_section(out, body);
  };
  if (header.has_codebook_section()) {
    Bytes body;
    const size_t entry = header.codebook_entry_size();
    const auto* const entries = static_cast<const uint8_t*>(request.codebook);
    if (header.codebook_kind == DCC_CODEBOOK_SHORT) {
      for (size_t j = 0; j < header.k; ++j) append(body, entries + j * entry + 2, 2);
    } else {
      append(body, entries, static_cast<size_t>(header.k) * entry);
    }
    add(body, frame.codebook, checked_codebook);
  }
  const size_t channels = static_cast<size_t>(header.channels);
  if (header.scale_kind == DCC_SCALE_VALUES) {
    Bytes body;
    append(body, request.scales, channels * header.compute_size());
    add(body, frame.scales, checked_scales);
  } else if (header.scale_kind == DCC_SCALE_LOG) {
    append_section(out, log_scales_body(static_cast<const int32_t*>(request.scales), channels));
  }
}

Bytes write_indexed(const EncodePlan& plan, const dcc_encode_request& request) {
  Bytes frame;
  append_header(frame, plan.header);
  append_codebook_and_scales(frame, plan.header, request);
  plan.append(frame);
  return frame;
}

void keep_smaller(Bytes& best, Bytes other) {
  if (other.size() < best.size()) best = std::move(other);
}

// Whether the upper halves of the codebook's entries say everything.
bool is_short(const Header& header, const dcc_encode_request& request) {
  if (header.codebook_kind != DCC_CODEBOOK_VALUES || header.codebook_entry_size() != 4) return false;
  const auto* const entries = static_cast<const uint8_t*>(request.codebook);
  for (size_t j = 0; j < header.k; ++j) {
    if (load<uint16_t>(entries + 4 * j) != 0) return false;
  }
  return true;
}

Bytes encode_indexed(const dcc_encode_request& request) {
  Header header = header_of(request);
  header.nnz = header.zero == 0 ? header.n : 0;
  const std::vector<const Coder*> choice = candidates(request, true);
  check_request(header, choice[0]);
  require_argument(request.indices != nullptr, "there are no indices");
  require_argument(header.codebook_kind != DCC_CODEBOOK_SHORT, "codebooks are given whole: the encoder shortens them");
  require_argument(header.codebook_kind == DCC_CODEBOOK_GRID || request.codebook != nullptr, "there is no codebook");
  require_argument(!header.has_scales() || request.scales != nullptr, "there are no scales");
  require_argument(request.position_bits <= kMostPositionBits, "position bits are above 16");
  require_argument(request.position_bits == 0 || header.zero != 0, "positions need a zero entry");
  require_argument(request.chunk_elements <= uint64_t{1} << 24, "a chunk has more than 2^24 elements");

  IndexTensor tensor{request, header, count_indices(request.indices, header, request.threads)};
  if (header.zero != 0) tensor.header.nnz = header.n - tensor.counts[header.zero - 1];
  if (chooses(request) && request.coder != DCC_AUTO && is_short(header, request))
    tensor.header.codebook_kind = DCC_CODEBOOK_SHORT;
  uint64_t bits = 0;
  best_rans_model(tensor.counts, bits);
  tensor.header.chunk = request.chunk_elements != 0 ? request.chunk_elements : choose_chunk(header.n, bits);
  tensor.header.chunk = whole_bytes(tensor.header.chunk, header);

  std::vector<EncodePlan> plans;
  for (const Coder* coder : choice) {
    tensor.header.coder = coder;
    plans.push_back(coder->plan(tensor));
  }
  std::stable_sort(plans.begin(), plans.end(), [](const auto& a, const auto& b) { return a.bytes < b.bytes; });

  Bytes best = write_indexed(plans[0], request);
  const Coder* chosen = plans[0].header.coder;
  for (size_t i = 1; i < plans.size(); ++i) {
    // Estimates are good to 0.3 % and some bytes; closer than that, or where there is none, the real sizes decide.
    const bool is_far = plans[i].bytes > plans[0].bytes + plans[0].bytes / 333 + 32;
    if (plans[i].bytes != EncodePlan::kUnknown && is_far) continue;
    Bytes next = write_indexed(plans[i], request);
    const Coder* const coder = plans[i].header.coder;
    if (weighed(next.size(), *coder, request) >= weighed(best.size(), *chosen, request)) continue;
    best = std::move(next);
    chosen = coder;
  }
  return best;
}

Bytes write_plain(Header header, const dcc_encode_request& request, const Coder* coder) {
  const auto* const data = static_cast<const uint8_t*>(request.data);
  header.coder = coder;
  const bool is_open = request.chunk_elements == 0 || coder->traits.layout == Layout::kOneChunk;
  header.chunk = is_open ? coder->chunk_for(header) : request.chunk_elements;
  Bytes frame;
  append_header(frame, header);
  if (!header.is_chunked()) {
    append_section(frame, coder->encode(data, static_cast<size_t>(header.n), header));
    return frame;
  }
  append_chunks(frame, header, request.threads, [&](size_t first, size_t count) {
    return coder->encode(data + header.bytes_of(first), count, header);
  });
  return frame;
}

uint64_t count_nonzero(const Header& header, const uint8_t* data) {
  const size_t width = header.element_size();
  uint64_t nonzero = 0;
  if (header.is_nibbles()) {
    for (size_t i = 0; i < header.n; ++i) nonzero += (data[i / 2] >> (i % 2 * 4) & 15) != 0 ? 1U : 0U;
    return nonzero;
  }
  for (size_t i = 0; i < header.n; ++i) {
    uint64_t bits = 0;
    std::memcpy(&bits, data + i * width, width);
    nonzero += bits != 0 ? 1U : 0U;
  }
  return nonzero;
}

Bytes encode_plain(const dcc_encode_request& request) {
  Header header = header_of(request);
  const std::vector<const Coder*> choice = candidates(request, false);
  check_request(header, choice[0]);
  require_argument(header.n == 0 || request.data != nullptr, "there are no data");
  require_argument(request.chunk_elements <= uint64_t{1} << 24, "a chunk has more than 2^24 elements");
  header.nnz = count_nonzero(header, static_cast<const uint8_t*>(request.data));
  Bytes best = write_plain(header, request, choice[0]);
  for (size_t i = 1; i < choice.size(); ++i) {
    const bool is_fit = (header.n > 0 || choice[i]->holds_nothing()) && choice[i]->is_worth_trying(header);
    if (is_fit) keep_smaller(best, write_plain(header, request, choice[i]));
  }
  return best;
}

}  // namespace

std::vector<uint8_t> encode_frame(const dcc_encode_request& request) {
  return request.codebook_kind == DCC_CODEBOOK_NONE ? encode_plain(request) : encode_indexed(request);
}

}  // namespace dcc
