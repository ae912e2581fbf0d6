// rans_code.cpp: range asymmetric numeral systems (FORMAT.md, section 5.2): tables, decoding, encoding.
#include "coders/rans_code.h"

#include <algorithm>
#include <numeric>
#include <queue>

#include "base/log2_fixed.h"
#include "frame/number_list.h"
#include "kernels/isa.h"
#include "kernels/kernel_steps.h"

namespace dcc {
namespace {

constexpr unsigned kLeastScale = 8;
constexpr unsigned kMostScale = 16;
constexpr uint32_t kLowestState = 1U << 16;

}  // namespace

// Frequencies of sum 2^s, at least 1 for every used symbol, by Webster's method: what is left after rounding down goes
// one by one to the symbol with the largest count / (frequency + 1/2), which is what a step saves to a very good
// approximation; what is missing is taken back the same way.
std::vector<uint32_t> rans_frequencies(const Counts& counts, unsigned scale_bits) {
  struct Quotient {  // counts / (2 * frequency + 1), compared by cross multiplication
    uint64_t count, divisor;
    uint32_t symbol;
  };
  const auto smaller = [](const Quotient& a, const Quotient& b) {
    const uint64_t left = a.count * b.divisor;
    const uint64_t right = b.count * a.divisor;
    return left != right ? left < right : a.symbol > b.symbol;
  };
  const auto larger = [&](const Quotient& a, const Quotient& b) { return smaller(b, a); };

  const uint64_t total = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
  std::vector<uint32_t> frequencies(counts.size(), 0);
  int64_t left = int64_t{1} << scale_bits;
  if (total == 0) {
    frequencies[0] = static_cast<uint32_t>(left);
    return frequencies;
  }
  for (size_t symbol = 0; symbol < counts.size(); ++symbol) {
    if (counts[symbol] == 0) continue;
    frequencies[symbol] = static_cast<uint32_t>(std::max<uint64_t>(1, (counts[symbol] << scale_bits) / total));
    left -= frequencies[symbol];
  }
  std::vector<Quotient> quotients;
  for (uint32_t symbol = 0; symbol < counts.size(); ++symbol) {
    const uint64_t frequency = frequencies[symbol];
    if (left > 0 && frequency > 0) quotients.push_back({counts[symbol], 2 * frequency + 1, symbol});
    if (left < 0 && frequency > 1) quotients.push_back({counts[symbol], 2 * frequency - 1, symbol});
  }
  if (left > 0) {
    std::priority_queue<Quotient, std::vector<Quotient>, decltype(smaller)> heap(smaller, std::move(quotients));
    for (; left > 0; --left) {
      Quotient best = heap.top();
      heap.pop();
      ++frequencies[best.symbol];
      best.divisor += 2;
      heap.push(best);
    }
  } else {
    std::priority_queue<Quotient, std::vector<Quotient>, decltype(larger)> heap(larger, std::move(quotients));
    for (; left < 0; ++left) {
      Quotient worst = heap.top();
      heap.pop();
      if (--frequencies[worst.symbol] == 1) continue;
      worst.divisor -= 2;
      heap.push(worst);
    }
  }
  return frequencies;
}

// Bits of the streams, rounded up, from logarithms with 16 fraction bits.
uint64_t rans_stream_bits(const Counts& counts, const RansModel& model) {
  uint64_t whole = 0;
  uint64_t fraction = 0;  // in 2^-16 bits
  for (size_t symbol = 0; symbol < counts.size(); ++symbol) {
    if (counts[symbol] == 0) continue;
    const uint64_t cost =
        (static_cast<uint64_t>(model.scale_bits) << kLog2FractionBits) - log2_fixed(model.frequencies[symbol]);
    whole += counts[symbol] * (cost >> kLog2FractionBits);
    fraction += counts[symbol] * (cost & ((1U << kLog2FractionBits) - 1));
  }
  return whole + (fraction >> kLog2FractionBits) + 1;
}

RansModel read_rans_model(ByteReader& reader, size_t k) {
  RansModel model;
  model.scale_bits = reader.u8();
  require(model.scale_bits >= kLeastScale && model.scale_bits <= kMostScale, "its frequency bits are not 8 to 16");
  model.frequencies = read_number_list(reader, k);
  uint64_t sum = 0;
  for (const uint32_t frequency : model.frequencies) sum += frequency;
  require(sum == uint64_t{1} << model.scale_bits, "its frequencies have a wrong sum");
  return model;
}

void append_rans_model(Bytes& out, const RansModel& model) {
  out.push_back(static_cast<uint8_t>(model.scale_bits));
  append_number_list(out, model.frequencies);
}

RansModel best_rans_model(const Counts& counts, uint64_t& bits) {
  uint64_t used = 0;
  for (const uint64_t count : counts) used += count > 0 ? 1U : 0U;
  struct Candidate {
    RansModel model;
    uint64_t stream_bits, size;
  };
  std::vector<Candidate> candidates;
  uint64_t least = UINT64_MAX;
  for (unsigned scale_bits = kLeastScale; scale_bits <= kMostScale; ++scale_bits) {
    if (used > uint64_t{1} << scale_bits) continue;
    RansModel model{scale_bits, rans_frequencies(counts, scale_bits)};
    const uint64_t streams = rans_stream_bits(counts, model);
    const uint64_t size = streams + 8 * number_list_size(model.frequencies);
    least = std::min(least, size);
    candidates.push_back({std::move(model), streams, size});
  }
  const auto good = std::find_if(candidates.begin(), candidates.end(),
                                 [&](const Candidate& candidate) { return candidate.size - least <= least / 2000; });
  bits = good->stream_bits;
  return std::move(good->model);
}

RansDecoder::RansDecoder(const RansModel& model) {
  const unsigned s = model.scale_bits;
  const size_t slots = size_t{1} << s;
  // Only the symbols in use matter, so the last of them tells whether all fit in the packed form.
  size_t k = model.frequencies.size();
  while (model.frequencies[k - 1] == 0) --k;
  const uint32_t most = *std::max_element(model.frequencies.begin(), model.frequencies.end());
  unsigned w = 0;
  while ((most - 1) >> w != 0) ++w;
  const bool packed = 2 * w < 32 && (k - 1) >> (32 - 2 * w) == 0;
  const unsigned field = packed ? w : 16;
  steps_.resize(slots);
  if (!packed) symbols_.resize(slots + 1);
  uint32_t* step = steps_.data();
  for (uint32_t symbol = 0; symbol < k; ++symbol) {
    const uint32_t frequency = model.frequencies[symbol];
    const uint32_t first = (packed ? symbol << (2 * w) : 0) | (frequency - 1);
    if (!packed) std::fill_n(symbols_.begin() + (step - steps_.data()), frequency, static_cast<uint16_t>(symbol));
    for (uint32_t offset = 0; offset < frequency; ++offset) step[offset] = first | offset << field;
    step += frequency;
  }
  table_ = {s, w, packed ? steps_.data() : nullptr, packed ? nullptr : steps_.data(), symbols_.data()};
}

RansReader::RansReader(const RansDecoder& decoder, Span chunk, unsigned lanes)
    : table_(decoder.table()), lanes_(lanes), words_(chunk.data), end_(chunk.data + chunk.size) {
  require(chunk.size >= 4 * lanes && chunk.size % 2 == 0, "a chunk has a wrong length");
  for (unsigned lane = 0; lane < lanes; ++lane, words_ += 4) {
    states_[lane] = load<uint32_t>(words_);
    require(states_[lane] >= kLowestState, "an initial state is below 2^16");
  }
}

RansRun RansReader::run(uint16_t* out) { return {table_, states_, lanes_, words_, end_, out}; }

void RansReader::read(uint16_t* out, size_t count) {
  RansRun quick = run(out);
  const size_t done = lanes_ * kernels().rans(quick, count / lanes_);
  words_ = quick.words;
  const auto step = table_.packed != nullptr ? rans_step<true> : rans_step<false>;
  for (size_t t = done; t < count; ++t) {
    const uint8_t none[2] = {};
    const bool at_end = words_ == end_;
    const uint8_t* word = at_end ? none : words_;
    out[t] = step(table_, states_[t % lanes_], word);
    if (at_end) {
      require(word == none, "a chunk has too few words");
    } else {
      words_ = word;
    }
  }
}

void RansReader::read_two(uint16_t* out, RansReader& other, uint16_t* other_out, size_t count) {
  RansRun quick = run(out);
  RansRun other_quick = other.run(other_out);
  const size_t groups = count / std::max(lanes_, other.lanes_);
  const size_t done = kernels().rans_two(quick, other_quick, groups);
  words_ = quick.words;
  other.words_ = other_quick.words;
  read(out + done * lanes_, count - done * lanes_);
  other.read(other_out + done * other.lanes_, count - done * other.lanes_);
}

void RansReader::finish() const {
  require(words_ == end_, "a chunk has too many words");
  require(std::all_of(states_, states_ + lanes_, [](uint32_t state) { return state == kLowestState; }),
          "a final state is not 2^16");
}

template <typename T>
Bytes encode_rans_chunk(const T* symbols, size_t count, unsigned lanes, const RansModel& model) {
  const unsigned s = model.scale_bits;
  std::vector<uint32_t> start(model.frequencies.size() + 1, 0);
  for (size_t j = 0; j < model.frequencies.size(); ++j) start[j + 1] = start[j] + model.frequencies[j];

  std::vector<uint32_t> states(lanes, kLowestState);
  std::vector<uint16_t> words;  // last first, as the decoder runs the other way round
  for (size_t t = count; t-- > 0;) {
    const uint32_t frequency = model.frequencies[symbols[t]];
    uint32_t& state = states[t % lanes];
    if (state >> (32 - s) >= frequency) {
      words.push_back(static_cast<uint16_t>(state));
      state >>= 16;
    }
    state = ((state / frequency) << s) + state % frequency + start[symbols[t]];
  }
  std::reverse(words.begin(), words.end());
  Bytes out;
  out.reserve(4 * lanes + 2 * words.size());
  append(out, states.data(), 4 * lanes);
  append(out, words.data(), 2 * words.size());
  return out;
}

template Bytes encode_rans_chunk(const uint8_t*, size_t, unsigned, const RansModel&);
template Bytes encode_rans_chunk(const uint16_t*, size_t, unsigned, const RansModel&);

}  // namespace dcc
