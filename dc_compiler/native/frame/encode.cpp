// encode.cpp: one tensor into one frame, with the coder and the settings that make it smallest.
//
// Sizes are computed from histograms, in integers, before anything is encoded: the bytes written depend on the request alone.
#include <algorithm>
#include <optional>

#include "base/bit_io.h"
#include "coders/byte_stream.h"
#include "frame/codec.h"
#include "coders/context.h"
#include "base/crc32c.h"
#include "frame/dequantize.h"
#include "frame/frame.h"
#include "coders/huffman.h"
#include "base/log2_fixed.h"
#include "coders/lossless.h"
#include "coders/lz.h"
#include "frame/number_list.h"
#include "base/parallel.h"
#include "coders/rans.h"
#include "coders/text.h"

namespace dcc {
namespace {

constexpr uint64_t kMostChunk = uint64_t{1} << 20;
constexpr uint64_t kLeastChunk = uint64_t{1} << 16;
constexpr uint64_t kChunkBytes = 128 << 10;  // a chunk has more elements until it reaches this size
constexpr uint64_t kLosslessChunk = uint64_t{1} << 18;
constexpr uint64_t kMostText = uint64_t{1} << 20;  // bytes that coder text is tried on
constexpr uint64_t kContextChunk = uint64_t{1} << 20;
constexpr uint64_t kContextTrial = uint64_t{1} << 16;  // elements that its layouts are tried on
constexpr uint64_t kMostSide = 64;  // of an image, in pixels
constexpr uint64_t kSectionOverhead = 7;  // length of three bytes, CRC
constexpr unsigned kMostHuffmanLanes = 8;
constexpr unsigned kMostPositionBits = 16;

// Estimated size of a coder's sections, and the means to write them.
struct Plan {
  Header header;
  uint64_t bytes = 0;
  RansModel rans;
  std::vector<uint32_t> positions, codes;  // huffman code lengths
};

Header header_of(const dcc_encode_request& request) {
  require_argument(request.rank <= DCC_MAX_RANK, "the rank is above 32");
  Header header;
  header.dtype = request.dtype;
  header.coder = request.coder;
  header.codebook_kind = request.codebook_kind;
  header.scale_kind = request.scale_kind;
  header.rank = request.rank;
  std::copy(std::begin(request.dims), std::begin(request.dims) + request.rank, header.dims);
  header.n = 1;
  for (unsigned i = 0; i < header.rank; ++i) header.n *= header.dims[i];  // check_header looks for overflow
  if (header.has_codebook()) {
    header.k = request.codebook_entries;
    header.zero = request.zero;
  }
  if (header.codebook_kind == DCC_CODEBOOK_GRID) header.lo = request.grid_lo;
  if (header.has_scales()) {
    header.channels = request.channels;
    header.inner = request.inner;
  }
  if (header.coder == DCC_HUFFMAN) header.position_bits = request.position_bits;
  return header;
}

// Whether the encoder may choose the coder.
bool chooses(const dcc_encode_request& request) { return request.coder == DCC_AUTO || request.coder == DCC_SMALLEST; }

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

// Refuses a request that no frame can hold. `header` has its final nnz or one that fits any frame.
void check_request(Header header, uint8_t coder) {
  header.coder = coder;
  if (header.is_chunked()) header.chunk = header.is_one_chunk() ? header.n : 1;
  if (header.has_tables()) header.lanes = 1;
  if (header.coder == DCC_CONTEXT) header.columns = header.group = 1;
  check_argument([&] { check_header(header); });
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

// Runs of zeros before the other elements of each chunk.
struct Gaps {
  static constexpr uint32_t kShort = 65536;
  Counts shorter;                // how often each length below kShort occurs
  std::vector<uint32_t> longer;  // the others, one by one
};

Gaps count_gaps(const uint16_t* indices, const Header& header, int threads) {
  const uint16_t zero_index = static_cast<uint16_t>(header.zero - 1);
  const size_t chunks = static_cast<size_t>(header.chunks());
  const size_t parts = std::min(thread_count(threads), chunks);
  std::vector<Gaps> gaps(parts);
  parallel_for(parts, threads, [&](size_t part) {
    Gaps& own = gaps[part];
    own.shorter.resize(Gaps::kShort, 0);
    for (size_t c = chunks * part / parts; c < chunks * (part + 1) / parts; ++c) {
      const uint16_t* const first = indices + c * header.chunk;
      const size_t count = static_cast<size_t>(chunk_elements(header, c));
      uint32_t gap = 0;
      for (size_t i = 0; i < count; ++i) {
        if (first[i] == zero_index) {
          ++gap;
          continue;
        }
        if (gap < Gaps::kShort) {
          ++own.shorter[gap];
        } else {
          own.longer.push_back(gap);
        }
        gap = 0;
      }
    }
  });
  Gaps total = std::move(gaps[0]);
  for (size_t part = 1; part < parts; ++part) {
    for (size_t j = 0; j < total.shorter.size(); ++j) total.shorter[j] += gaps[part].shorter[j];
    total.longer.insert(total.longer.end(), gaps[part].longer.begin(), gaps[part].longer.end());
  }
  return total;
}

// Occurrences of each position, and the filler zeros they need.
Counts count_positions(const Gaps& gaps, unsigned position_bits, uint64_t& fillers) {
  const uint32_t span = 1U << position_bits;
  Counts positions(span, 0);
  fillers = 0;
  const auto add = [&](uint32_t gap, uint64_t times) {
    positions[gap & (span - 1)] += times;
    fillers += (gap >> position_bits) * times;
  };
  for (uint32_t gap = 0; gap < Gaps::kShort; ++gap) add(gap, gaps.shorter[gap]);
  for (const uint32_t gap : gaps.longer) add(gap, 1);
  positions[span - 1] += fillers;
  return positions;
}

// Bytes of huffman TABLES and CHUNKs. A stream has a length of about 3 bytes and ends in half a byte on average.
uint64_t huffman_bytes(const Header& header, uint64_t bits, uint64_t table_bytes) {
  const uint64_t streams = header.lanes * (header.position_bits > 0 ? 2U : 1U);
  return table_bytes + kSectionOverhead + bits / 8 + header.chunks() * (3 + kSectionOverhead + streams * 7 / 2);
}

Plan plan_dense_huffman(Header header, const Counts& counts) {
  Plan plan;
  plan.codes = huffman_lengths(counts);
  const uint64_t bits = coded_bits(counts, plan.codes);
  header.position_bits = 0;
  header.lanes = static_cast<uint8_t>(lanes_for(bits / 8 / header.chunks(), 4, kMostHuffmanLanes));
  plan.bytes = huffman_bytes(header, bits, number_list_size(plan.codes));
  plan.header = header;
  return plan;
}

Plan plan_sparse_huffman(Header header, Counts counts, const Gaps& gaps, unsigned position_bits) {
  Plan plan;
  uint64_t fillers = 0;
  const Counts positions = count_positions(gaps, position_bits, fillers);
  counts[header.zero - 1] = fillers;
  plan.positions = huffman_lengths(positions);
  plan.codes = huffman_lengths(counts);
  const uint64_t bits = coded_bits(positions, plan.positions) + coded_bits(counts, plan.codes);
  header.position_bits = static_cast<uint8_t>(position_bits);
  header.lanes = static_cast<uint8_t>(lanes_for(bits / 8 / header.chunks(), 8, kMostHuffmanLanes));
  plan.bytes = huffman_bytes(header, bits, number_list_size(plan.positions) + number_list_size(plan.codes));
  plan.header = header;
  return plan;
}

Plan plan_huffman(Header header, const Counts& counts, const dcc_encode_request& request) {
  header.coder = DCC_HUFFMAN;
  const unsigned wanted = request.coder == DCC_HUFFMAN ? request.position_bits : 0;
  if (wanted == 0 && header.zero == 0) return plan_dense_huffman(header, counts);
  const Gaps gaps = count_gaps(request.indices, header, request.threads);
  if (wanted != 0) return plan_sparse_huffman(header, counts, gaps, wanted);
  std::vector<Plan> plans(kMostPositionBits + 1);
  parallel_for(plans.size(), request.threads, [&](size_t bits) {
    plans[bits] = bits == 0 ? plan_dense_huffman(header, counts)
                            : plan_sparse_huffman(header, counts, gaps, static_cast<unsigned>(bits));
  });
  return *std::min_element(plans.begin(), plans.end(), [](const Plan& a, const Plan& b) { return a.bytes < b.bytes; });
}

Plan plan_rans(Header header, const Counts& counts) {
  Plan plan;
  uint64_t bits = 0;
  plan.rans = best_rans_model(counts, bits);
  header.coder = DCC_RANS;
  header.lanes = static_cast<uint8_t>(lanes_for(bits / 8 / header.chunks(), 3, kMostRansLanes));
  plan.bytes = 1 + number_list_size(plan.rans.frequencies) + kSectionOverhead + bits / 8 +
               header.chunks() * (kSectionOverhead + 3U * header.lanes);
  plan.header = header;
  return plan;
}

Plan plan_fixed(Header header) {
  Plan plan;
  header.coder = DCC_FIXED;
  plan.bytes = (header.n * header.index_width() + 7) / 8 + kSectionOverhead;
  plan.header = header;
  return plan;
}

Bytes encode_fixed(const uint16_t* indices, const Header& header) {
  const unsigned width = header.index_width();
  BitWriter bits;
  for (size_t i = 0; i < header.n; ++i) bits.put(indices[i], width);
  return bits.finish();
}

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

// Which columns lie near each other, as far as the dims tell: rows of a matrix or of a convolution's outputs; the kernel of a
// convolution; images of any square size that a fully-connected layer may have for inputs.
std::vector<Header> context_layouts(const dcc_encode_request& request, Header header) {
  header.coder = DCC_CONTEXT;
  header.chunk = request.chunk_elements != 0 ? request.chunk_elements : std::min(header.n, kContextChunk);
  header.columns = header.rank < 2 ? header.n : header.n / header.dims[0];
  header.columns = std::min(header.columns, header.chunk);
  std::vector<Header> layouts;
  const auto add = [&](uint64_t group, uint64_t stride) {
    header.group = std::min(group, header.columns);
    header.stride = stride < 2 || stride > header.columns ? 0 : stride;
    layouts.push_back(header);
  };
  uint64_t kernel = 1;
  for (unsigned i = 2; i < header.rank; ++i) kernel *= header.dims[i];
  if (kernel > 1) {
    add(kernel, header.dims[header.rank - 1]);
    return layouts;
  }
  add(header.columns, 0);
  for (uint64_t side = 2; side <= kMostSide && side * side <= header.columns; ++side) {
    if (header.columns % (side * side) == 0) add(side * side, side);
  }
  return layouts;
}

// The layout that makes the first elements smallest; the first one of equals.
Header best_layout(const std::vector<Header>& layouts, const dcc_encode_request& request) {
  if (layouts.size() == 1) return layouts[0];
  const size_t count = static_cast<size_t>(std::min(chunk_elements(layouts[0], 0), kContextTrial));
  std::vector<size_t> sizes(layouts.size());
  parallel_for(layouts.size(), request.threads,
               [&](size_t i) { sizes[i] = encode_context_chunk(request.indices, count, layouts[i]).size(); });
  return layouts[static_cast<size_t>(std::min_element(sizes.begin(), sizes.end()) - sizes.begin())];
}

Bytes write_context(const dcc_encode_request& request, const Header& given) {
  const Header header = best_layout(context_layouts(request, given), request);
  Bytes frame;
  append_header(frame, header);
  append_codebook_and_scales(frame, header, request);
  append_chunks(frame, header, request.threads, [&](size_t first, size_t count) {
    return encode_context_chunk(request.indices + first, count, header);
  });
  return frame;
}

Bytes write_indexed(const Plan& plan, const dcc_encode_request& request) {
  const Header& header = plan.header;
  const uint16_t* const indices = request.indices;
  Bytes frame;
  append_header(frame, header);
  append_codebook_and_scales(frame, header, request);
  if (header.coder == DCC_FIXED) {
    append_section(frame, encode_fixed(indices, header));
    return frame;
  }
  Bytes tables;
  if (header.coder == DCC_RANS) {
    append_rans_model(tables, plan.rans);
    append_section(frame, tables);
    append_chunks(frame, header, request.threads, [&](size_t first, size_t count) {
      return encode_rans_chunk(indices + first, count, header.lanes, plan.rans);
    });
    return frame;
  }
  std::optional<HuffmanEncoder> positions;
  if (header.position_bits > 0) {
    append_number_list(tables, plan.positions);
    positions.emplace(plan.positions);
  }
  append_number_list(tables, plan.codes);
  append_section(frame, tables);
  const HuffmanEncoder codes(plan.codes);
  append_chunks(frame, header, request.threads, [&](size_t first, size_t count) {
    return encode_huffman_chunk(indices + first, count, header.lanes, codes, positions ? &*positions : nullptr,
                                header.position_bits, static_cast<uint16_t>(header.zero - 1));
  });
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
  check_request(header, chooses(request) ? uint8_t{DCC_RANS} : request.coder);
  require_argument(request.indices != nullptr, "there are no indices");
  require_argument(header.codebook_kind != DCC_CODEBOOK_SHORT, "codebooks are given whole: the encoder shortens them");
  require_argument(header.codebook_kind == DCC_CODEBOOK_GRID || request.codebook != nullptr, "there is no codebook");
  require_argument(!header.has_scales() || request.scales != nullptr, "there are no scales");
  require_argument(request.position_bits <= kMostPositionBits, "position bits are above 16");
  require_argument(request.position_bits == 0 || header.zero != 0, "positions need a zero entry");
  require_argument(request.chunk_elements <= uint64_t{1} << 24, "a chunk has more than 2^24 elements");

  const Counts counts = count_indices(request.indices, header, request.threads);
  if (header.zero != 0) header.nnz = header.n - counts[header.zero - 1];
  if (request.coder == DCC_CONTEXT) return write_context(request, header);
  if (request.coder == DCC_SMALLEST && is_short(header, request)) header.codebook_kind = DCC_CODEBOOK_SHORT;
  uint64_t bits = 0;
  best_rans_model(counts, bits);
  header.chunk = request.chunk_elements != 0 ? request.chunk_elements : choose_chunk(header.n, bits);

  const bool any = chooses(request);
  std::vector<Plan> plans;
  if (any || request.coder == DCC_FIXED) plans.push_back(plan_fixed(header));
  if (any || request.coder == DCC_HUFFMAN) plans.push_back(plan_huffman(header, counts, request));
  if (any || request.coder == DCC_RANS) plans.push_back(plan_rans(header, counts));
  std::stable_sort(plans.begin(), plans.end(), [](const Plan& a, const Plan& b) { return a.bytes < b.bytes; });

  Bytes best = write_indexed(plans[0], request);
  for (size_t i = 1; i < plans.size(); ++i) {
    // Estimates are good to 0.3 % and some bytes; closer than that, the real sizes decide.
    if (plans[i].bytes > plans[0].bytes + plans[0].bytes / 333 + 32) break;
    keep_smaller(best, write_indexed(plans[i], request));
  }
  if (request.coder == DCC_SMALLEST) keep_smaller(best, write_context(request, header));
  return best;
}

Bytes write_plain(Header header, const dcc_encode_request& request, uint8_t coder) {
  const auto* const data = static_cast<const uint8_t*>(request.data);
  const size_t width = header.element_size();
  header.coder = coder;
  header.chunk = header.is_one_chunk() ? header.n : request.chunk_elements != 0 ? request.chunk_elements
                                                                               : std::min(header.n, kLosslessChunk);
  Bytes frame;
  append_header(frame, header);
  if (coder == DCC_RAW) {
    Bytes body;
    if (header.n > 0) append(body, data, static_cast<size_t>(header.n) * width);
    append_section(frame, body);
    return frame;
  }
  append_chunks(frame, header, request.threads, [&](size_t first, size_t count) {
    if (coder == DCC_LZ) return encode_lz_chunk({data, count});
    if (coder == DCC_TEXT) return encode_text_chunk({data, count});
    return encode_lossless_chunk(data + first * width, count, width, header.dtype != kUint8);
  });
  return frame;
}

uint64_t count_nonzero(const Header& header, const uint8_t* data) {
  const size_t width = header.element_size();
  uint64_t nonzero = 0;
  for (size_t i = 0; i < header.n; ++i) {
    uint64_t bits = 0;
    std::memcpy(&bits, data + i * width, width);
    nonzero += bits != 0 ? 1U : 0U;
  }
  return nonzero;
}

Bytes encode_plain(const dcc_encode_request& request) {
  Header header = header_of(request);
  check_request(header, chooses(request) ? uint8_t{DCC_RAW} : request.coder);
  require_argument(header.n == 0 || request.data != nullptr, "there are no data");
  require_argument(request.chunk_elements <= uint64_t{1} << 24, "a chunk has more than 2^24 elements");
  header.nnz = count_nonzero(header, static_cast<const uint8_t*>(request.data));
  if (!chooses(request)) return write_plain(header, request, request.coder);
  Bytes best = write_plain(header, request, DCC_RAW);
  if (header.n == 0) return best;
  const bool is_bytes = header.dtype == kUint8;
  keep_smaller(best, write_plain(header, request, DCC_LOSSLESS));
  if (is_bytes && header.n >> 31 == 0) keep_smaller(best, write_plain(header, request, DCC_LZ));
  if (is_bytes && request.coder == DCC_SMALLEST && header.n <= kMostText) {
    keep_smaller(best, write_plain(header, request, DCC_TEXT));
  }
  return best;
}

}  // namespace

std::vector<uint8_t> encode_frame(const dcc_encode_request& request) {
  return request.codebook_kind == DCC_CODEBOOK_NONE ? encode_plain(request) : encode_indexed(request);
}

}  // namespace dcc
