// lz.cpp: matches and literals for structured bytes (FORMAT.md, section 8).
#include "coders/lz.h"

#include <algorithm>
#include <array>

#include "coders/byte_stream.h"
#include "base/log2_fixed.h"

namespace dcc {
namespace {

constexpr uint32_t kLeastMatch = 4;
constexpr uint32_t kMostOffset = (1U << 24) - 1;
constexpr uint32_t kNibble = 15;
constexpr size_t kLarge = 1 << 20;  // from here on time counts more than the last bytes

uint64_t read_length(uint32_t nibble, ByteReader& extras) {
  uint64_t length = nibble;
  for (uint8_t extra = nibble == kNibble ? 255 : 0; extra == 255;) {
    extra = extras.u8();
    length += extra;
  }
  return length;
}

struct Match {
  uint32_t length = 0;  // 0: a literal
  uint32_t offset = 0;
};

// Finds earlier occurrences by chains of positions with equal hashes of four bytes.
class MatchFinder {
 public:
  MatchFinder(Span bytes, unsigned depth)
      : bytes_(bytes), depth_(depth), heads_(size_t{1} << kHashBits, kNone), previous_(bytes.size, kNone) {}

  // Matches at `at`, ever longer and ever farther; enters `at` into its chain.
  void find(uint32_t at, std::vector<Match>& matches) {
    matches.clear();
    const uint32_t room = static_cast<uint32_t>(bytes_.size) - at;
    if (room < kLeastMatch) return;
    uint32_t& head = heads_[(load<uint32_t>(bytes_.data + at) * 2654435761U) >> (32 - kHashBits)];
    uint32_t best = kLeastMatch - 1;
    unsigned depth = depth_;
    for (uint32_t from = head; from != kNone && at - from <= kMostOffset && depth > 0 && best < room; --depth) {
      if (bytes_.data[from + best] == bytes_.data[at + best]) {
        uint32_t length = 0;
        while (length < room && bytes_.data[from + length] == bytes_.data[at + length]) ++length;
        if (length > best) {
          best = length;
          matches.push_back({length, at - from});
          if (length >= kLongEnough) break;
        }
      }
      from = previous_[from];
    }
    previous_[at] = head;
    head = at;
  }

  static constexpr uint32_t kLongEnough = 256;  // taken without looking for better

 private:
  static constexpr unsigned kHashBits = 16;
  static constexpr uint32_t kNone = UINT32_MAX;
  Span bytes_;
  unsigned depth_;  // positions of a chain that are looked at
  std::vector<uint32_t> heads_;
  std::vector<uint32_t> previous_;
};

// The byte streams of a chunk, in their order.
struct Streams {
  Bytes tokens, low, middle, high, extras, literals;
};

void put_extras(Bytes& extras, uint32_t length) {
  if (length < kNibble) return;
  for (length -= kNibble; length >= 255; length -= 255) extras.push_back(255);
  extras.push_back(static_cast<uint8_t>(length));
}

// `parse[i]` is the match taken at i, or a literal; positions inside matches are not looked at.
Streams split(Span bytes, const std::vector<Match>& parse) {
  Streams streams;
  uint32_t run = 0;
  const auto token = [&](uint32_t match_length) {
    const uint32_t rest = match_length > 0 ? match_length - kLeastMatch : 0;
    streams.tokens.push_back(static_cast<uint8_t>(std::min(run, kNibble) << 4 | std::min(rest, kNibble)));
    put_extras(streams.extras, run);
    put_extras(streams.extras, rest);
    run = 0;
  };
  for (size_t at = 0; at < bytes.size;) {
    const Match match = parse[at];
    if (match.length == 0) {
      streams.literals.push_back(bytes.data[at++]);
      ++run;
      continue;
    }
    token(match.length);
    streams.low.push_back(static_cast<uint8_t>(match.offset));
    streams.middle.push_back(static_cast<uint8_t>(match.offset >> 8));
    streams.high.push_back(static_cast<uint8_t>(match.offset >> 16));
    at += match.length;
  }
  token(0);
  return streams;
}

// What bytes of a stream cost, in 2^-16 bits, going by how often they occurred.
std::array<uint32_t, 256> byte_costs(const Bytes& stream) {
  std::array<uint64_t, 256> counts{};
  counts.fill(1);
  for (const uint8_t byte : stream) counts[byte] += 16;
  const uint32_t total = log2_fixed(16 * stream.size() + 256);
  std::array<uint32_t, 256> costs{};
  for (size_t byte = 0; byte < 256; ++byte) costs[byte] = total - log2_fixed(counts[byte]);
  return costs;
}

// Prices of an earlier parse, with which the next one is chosen.
struct Prices {
  explicit Prices(const Streams& streams)
      : low(byte_costs(streams.low)),
        middle(byte_costs(streams.middle)),
        high(byte_costs(streams.high)),
        literals(byte_costs(streams.literals)) {
    // Of a token, a match pays for its own nibble and for that of the literals before it, on average.
    Bytes lengths;
    for (const uint8_t token : streams.tokens) lengths.push_back(token & 15);
    length = byte_costs(lengths);
    const std::array<uint32_t, 256> tokens = byte_costs(streams.tokens);
    uint64_t whole = 0;
    uint64_t own = 0;
    for (const uint8_t token : streams.tokens) {
      whole += tokens[token];
      own += length[token & 15];
    }
    run = static_cast<uint32_t>((whole > own ? whole - own : 0) / streams.tokens.size());
  }

  uint32_t offset(uint32_t value) const {
    return low[value & 255] + middle[(value >> 8) & 255] + high[value >> 16] + run;
  }

  uint32_t match_length(uint32_t value) const {
    const uint32_t rest = value - kLeastMatch;
    const uint32_t extras = rest < kNibble ? 0 : 1 + (rest - kNibble) / 255;
    return length[std::min(rest, kNibble)] + extras * (6U << kLog2FractionBits);
  }

  std::array<uint32_t, 256> low, middle, high, literals, length{};
  uint32_t run = 0;
};

// The cheapest way through the bytes: a shortest path over positions, forwards, each step a literal or a match.
std::vector<Match> cheapest_parse(Span bytes, const Prices& prices, unsigned depth) {
  const uint32_t size = static_cast<uint32_t>(bytes.size);
  std::vector<uint64_t> cost(bytes.size + 1, UINT64_MAX);
  std::vector<Match> arrived(bytes.size + 1);
  cost[0] = 0;
  MatchFinder finder(bytes, depth);
  std::vector<Match> matches;
  uint32_t skip_to = 0;  // inside a very long match nothing else is tried
  for (uint32_t at = 0; at < size; ++at) {
    finder.find(at, matches);
    if (at < skip_to) continue;
    const auto arrive = [&](uint32_t to, uint64_t price, Match by) {
      if (cost[at] + price < cost[to]) {
        cost[to] = cost[at] + price;
        arrived[to] = by;
      }
    };
    arrive(at + 1, prices.literals[bytes.data[at]], {});
    uint32_t length = kLeastMatch;
    for (const Match& match : matches) {
      const uint32_t offset_price = prices.offset(match.offset);
      if (match.length >= MatchFinder::kLongEnough) {
        skip_to = at + match.length;
        arrive(skip_to, offset_price + prices.match_length(match.length), match);
        break;
      }
      for (; length <= match.length; ++length) {
        arrive(at + length, offset_price + prices.match_length(length), {length, match.offset});
      }
    }
  }
  std::vector<Match> parse(bytes.size);
  for (uint32_t at = size; at > 0;) {
    const Match by = arrived[at];
    at -= std::max(by.length, 1U);
    parse[at] = by;
  }
  return parse;
}

Bytes assemble(const Streams& streams) {
  Bytes out;
  append_varint(out, streams.tokens.size());
  append_varint(out, streams.literals.size());
  append_varint(out, streams.extras.size());
  for (const Bytes* stream :
       {&streams.tokens, &streams.low, &streams.middle, &streams.high, &streams.extras, &streams.literals}) {
    append_byte_stream(out, *stream);
  }
  return out;
}

}  // namespace

void decode_lz_chunk(Span chunk, uint8_t* out, size_t size) {
  ByteReader reader(chunk);
  const uint64_t sequences = reader.varint();
  const uint64_t literal_count = reader.varint();
  const uint64_t extra_count = reader.varint();
  require(sequences >= 1 && sequences - 1 <= size / 4 && literal_count <= size && extra_count <= size,
          "a chunk has more parts than bytes");
  const size_t count = static_cast<size_t>(sequences);
  const Bytes tokens = read_byte_stream(reader, count);
  const Bytes low = read_byte_stream(reader, count - 1);
  const Bytes middle = read_byte_stream(reader, count - 1);
  const Bytes high = read_byte_stream(reader, count - 1);
  const Bytes extra_bytes = read_byte_stream(reader, static_cast<size_t>(extra_count));
  const Bytes literal_bytes = read_byte_stream(reader, static_cast<size_t>(literal_count));
  reader.finish("bytes follow the last stream of a chunk");
  ByteReader extras({extra_bytes.data(), extra_bytes.size()});
  ByteReader literals({literal_bytes.data(), literal_bytes.size()});

  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    const Span run = literals.take(read_length(tokens[i] >> 4, extras));
    require(run.size <= size - at, "a chunk decodes to too many bytes");
    if (run.size > 0) std::memcpy(out + at, run.data, run.size);
    at += run.size;
    const uint32_t nibble = tokens[i] & 15;
    if (i + 1 == count) {
      require(nibble == 0, "a match follows the last literals");
      break;
    }
    const uint64_t length = read_length(nibble, extras) + kLeastMatch;
    const size_t offset = low[i] | static_cast<size_t>(middle[i]) << 8 | static_cast<size_t>(high[i]) << 16;
    require(offset >= 1 && offset <= at, "a match starts before the first byte");
    require(length <= size - at, "a chunk decodes to too many bytes");
    for (const size_t end = at + static_cast<size_t>(length); at < end; ++at) out[at] = out[at - offset];
  }
  require(at == size, "a chunk decodes to too few bytes");
  extras.finish("extras are left over");
  literals.finish("literals are left over");
}

Bytes encode_lz_chunk(Span bytes) {
  // The first prices are those of bytes as they come; each parse gives better prices to the next. The smallest result counts.
  const bool large = bytes.size > kLarge;
  Streams streams = split(bytes, std::vector<Match>(bytes.size));
  Bytes best;
  for (unsigned pass = 0; pass < (large ? 2U : 5U); ++pass) {
    streams = split(bytes, cheapest_parse(bytes, Prices(streams), large ? 8 : 128));
    Bytes out = assemble(streams);
    if (best.empty() || out.size() < best.size()) best = std::move(out);
  }
  return best;
}

}  // namespace dcc
