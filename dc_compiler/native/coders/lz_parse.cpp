// lz_parse.cpp: which matches the encoder of coder `lz` takes (FORMAT.md, section 8.1 leaves that to it).
#include "coders/lz_parse.h"

#include <algorithm>
#include <array>

#include "base/cancel.h"
#include "base/log2_fixed.h"

namespace dcc {
namespace {

constexpr uint32_t kMostOffset = (1U << 24) - 1;
constexpr uint32_t kNibble = 15;

using Match = LzMatch;

// How many of `room` bytes are equal.
uint32_t common_length(const uint8_t* a, const uint8_t* b, uint32_t room) {
  uint32_t length = 0;
  for (; room - length >= 8; length += 8) {
    const uint64_t difference = load<uint64_t>(a + length) ^ load<uint64_t>(b + length);
    if (difference != 0) return length + static_cast<uint32_t>(__builtin_ctzll(difference)) / 8;
  }
  while (length < room && a[length] == b[length]) ++length;
  return length;
}

// Finds earlier occurrences by chains of positions with equal hashes of four bytes.
class MatchFinder {
 public:
  MatchFinder(Span bytes, unsigned depth)
      : bytes_(bytes), depth_(depth), heads_(size_t{1} << kHashBits, kNone), previous_(bytes.size, kNone) {}

  // Appends the matches at `at`, ever longer and ever farther; enters `at` into its chain.
  void find(uint32_t at, std::vector<Match>& matches) {
    const uint32_t room = static_cast<uint32_t>(bytes_.size) - at;
    if (room < kLeastLzMatch) return;
    const uint8_t* const here = bytes_.data + at;
    uint32_t best = kLeastLzMatch - 1;
    unsigned depth = depth_;
    for (uint32_t from = head(at); from != kNone && at - from <= kMostOffset && depth > 0 && best < room; --depth) {
      // A longer match has these four bytes in common: where few values occur, one byte tells next to nothing
      if (load<uint32_t>(bytes_.data + from + best - 3) == load<uint32_t>(here + best - 3)) {
        const uint32_t length = common_length(bytes_.data + from, here, room);
        if (length > best) {
          best = length;
          matches.push_back({length, at - from});
          if (length >= kLongLzMatch) break;
        }
      }
      from = previous_[from];
    }
    enter(at);
  }

  // Enters `at` into its chain without looking for matches.
  void enter(uint32_t at) {
    if (bytes_.size - at < kLeastLzMatch) return;
    previous_[at] = head(at);
    head(at) = at;
  }

 private:
  static constexpr unsigned kHashBits = 16;
  static constexpr uint32_t kNone = UINT32_MAX;

  uint32_t& head(uint32_t at) { return heads_[(load<uint32_t>(bytes_.data + at) * 2654435761U) >> (32 - kHashBits)]; }

  Span bytes_;
  unsigned depth_;  // positions of a chain that are looked at
  std::vector<uint32_t> heads_;
  std::vector<uint32_t> previous_;
};

void put_extras(Bytes& extras, uint32_t length) {
  if (length < kNibble) return;
  for (length -= kNibble; length >= 255; length -= 255) extras.push_back(255);
  extras.push_back(static_cast<uint8_t>(length));
}

// What bytes of a stream cost, in 2^-16 bits, going by how often they occurred.
std::array<uint32_t, 256> byte_costs(const Bytes& stream) {
  std::array<uint64_t, 256> counts{};
  counts.fill(1);
  for (const uint8_t byte : stream) counts[byte] += 16;
  const uint32_t total = log2_fixed(16 * stream.size() + 256);
  std::array<uint32_t, 256> costs{};  // of what did not occur: the logarithm of 1 is 0
  costs.fill(total);
  for (size_t byte = 0; byte < 256; ++byte) {
    if (counts[byte] > 1) costs[byte] -= log2_fixed(counts[byte]);
  }
  return costs;
}

// Prices of an earlier parse, with which the next one is chosen.
struct Prices {
  explicit Prices(const LzStreams& streams)
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
    const uint32_t rest = value - kLeastLzMatch;
    const uint32_t extras = rest < kNibble ? 0 : 1 + (rest - kNibble) / 255;
    return length[std::min(rest, kNibble)] + extras * (6U << kLog2FractionBits);
  }

  std::array<uint32_t, 256> low, middle, high, literals, length{};
  uint32_t run = 0;
};

// The steps that lead to the end, as sequences.
std::vector<LzSequence> sequences_of(const std::vector<Match>& arrived) {
  std::vector<LzSequence> sequences(1);  // last first
  for (size_t at = arrived.size() - 1; at > 0;) {
    const Match by = arrived[at];
    if (by.length == 0) {
      ++sequences.back().literals;
      --at;
      continue;
    }
    sequences.push_back({0, by.length, by.offset});
    at -= by.length;
  }
  std::reverse(sequences.begin(), sequences.end());
  return sequences;
}

// Remembers the last place of every eight bytes and of every five, as far as two small tables can.
class QuickFinder {
 public:
  explicit QuickFinder(Span bytes)
      : bytes_(bytes), eights_(size_t{1} << kEightBits, kNone), fives_(size_t{1} << kFiveBits, kNone) {}

  // A match at `at`, or none; enters `at`. Eight bytes can be read there.
  Match find(uint32_t at) {
    const uint64_t word = load<uint64_t>(bytes_.data + at);
    const Match far = take(at, eights_[eight_slot(word)], 8);
    const Match near = take(at, fives_[five_slot(word)], 5);
    enter(at);
    return far.length >= near.length ? far : near;
  }

  void enter(uint32_t at) {
    const uint64_t word = load<uint64_t>(bytes_.data + at);
    eights_[eight_slot(word)] = fives_[five_slot(word)] = at;
  }

 private:
  static constexpr unsigned kEightBits = 17;
  static constexpr unsigned kFiveBits = 16;
  static constexpr uint32_t kNone = UINT32_MAX;

  static size_t eight_slot(uint64_t word) { return (word * 0x9E3779B97F4A7C15) >> (64 - kEightBits); }
  static size_t five_slot(uint64_t word) { return ((word << 24) * 0x9E3779B97F4A7C15) >> (64 - kFiveBits); }

  Match take(uint32_t at, uint32_t from, uint32_t least) const {
    if (from == kNone || at - from > kMostOffset) return {};
    const uint32_t length =
        common_length(bytes_.data + from, bytes_.data + at, static_cast<uint32_t>(bytes_.size) - at);
    return length < least ? Match{} : Match{length, at - from};
  }

  Span bytes_;
  std::vector<uint32_t> eights_, fives_;
};

}  // namespace

LzStreams split_lz(Span bytes, const std::vector<LzSequence>& sequences) {
  LzStreams streams;
  const uint8_t* at = bytes.data;
  for (const LzSequence& sequence : sequences) {
    append(streams.literals, at, sequence.literals);
    at += sequence.literals + sequence.length;
    const uint32_t rest = sequence.length > 0 ? sequence.length - kLeastLzMatch : 0;
    streams.tokens.push_back(static_cast<uint8_t>(std::min(sequence.literals, kNibble) << 4 | std::min(rest, kNibble)));
    put_extras(streams.extras, sequence.literals);
    put_extras(streams.extras, rest);
    if (sequence.length == 0) break;
    streams.low.push_back(static_cast<uint8_t>(sequence.offset));
    streams.middle.push_back(static_cast<uint8_t>(sequence.offset >> 8));
    streams.high.push_back(static_cast<uint8_t>(sequence.offset >> 16));
  }
  return streams;
}

LzMatches::LzMatches(Span bytes, unsigned depth) {
  MatchFinder finder(bytes, depth);
  const uint32_t size = static_cast<uint32_t>(bytes.size);
  uint32_t skip_to = 0;
  starts_.reserve(bytes.size + 1);
  for (uint32_t at = 0; at < size; ++at) {
    stop_if_cancelled(at);
    starts_.push_back(static_cast<uint32_t>(matches_.size()));
    if (at < skip_to) {
      finder.enter(at);
      continue;
    }
    finder.find(at, matches_);
    if (matches_.size() > starts_.back() && matches_.back().length >= kLongLzMatch) {
      skip_to = at + matches_.back().length;
    }
  }
  starts_.push_back(static_cast<uint32_t>(matches_.size()));
}

// A shortest path over positions, forwards, each step a literal or a match.
std::vector<LzSequence> cheapest_parse(Span bytes, const LzMatches& matches, const LzStreams& previous) {
  const Prices prices(previous);
  const uint32_t size = static_cast<uint32_t>(bytes.size);
  std::vector<uint64_t> cost(bytes.size + 1, UINT64_MAX);
  std::vector<Match> arrived(bytes.size + 1);
  cost[0] = 0;
  uint32_t skip_to = 0;  // inside a very long match nothing else is tried
  for (uint32_t at = 0; at < size; ++at) {
    stop_if_cancelled(at);
    if (at < skip_to) continue;
    const auto arrive = [&](uint32_t to, uint64_t price, Match by) {
      if (cost[at] + price < cost[to]) {
        cost[to] = cost[at] + price;
        arrived[to] = by;
      }
    };
    arrive(at + 1, prices.literals[bytes.data[at]], {});
    uint32_t length = kLeastLzMatch;
    for (const Match* found = matches.begin(at); found != matches.end(at); ++found) {
      const Match& match = *found;
      const uint32_t offset_price = prices.offset(match.offset);
      if (match.length >= kLongLzMatch) {
        skip_to = at + match.length;
        arrive(skip_to, offset_price + prices.match_length(match.length), match);
        break;
      }
      for (; length <= match.length; ++length) {
        arrive(at + length, offset_price + prices.match_length(length), {length, match.offset});
      }
    }
  }
  return sequences_of(arrived);
}

std::vector<LzSequence> quick_parse(Span bytes) {
  constexpr uint32_t kWord = 8;
  constexpr uint32_t kMostStep = 32;
  const uint32_t size = static_cast<uint32_t>(bytes.size);
  std::vector<LzSequence> sequences;
  QuickFinder finder(bytes);
  uint32_t from = 0;  // the first literal
  uint32_t turn = 0;
  for (uint32_t at = 0; size - at >= kWord && at < size;) {
    stop_if_cancelled(turn++);
    Match match = finder.find(at);
    if (match.length == 0) {
      at += std::min(1 + ((at - from) >> 7), kMostStep);  // where nothing repeats, look less often
      continue;
    }
    if (size - at > kWord) {  // one byte on there may be a longer one
      const Match next = finder.find(at + 1);
      if (next.length > match.length + 1) {
        match = next;
        ++at;
      }
    }
    while (at > from && at > match.offset && bytes.data[at - 1] == bytes.data[at - 1 - match.offset]) {
      --at;
      ++match.length;
    }
    sequences.push_back({at - from, match.length, match.offset});
    at = from = at + match.length;
    if (size - at >= kWord) finder.enter(at - 2);
  }
  sequences.push_back({size - from, 0, 0});
  return sequences;
}
}  // namespace dcc
