// text.cpp: coder `text`: structured bytes, graph topology above all, by context mixing (FORMAT.md, section 8.2).
//
// The model is one class for both directions: its coder either writes the bit it is told or reads one.
#include <cstdlib>
#include <memory>
#include <new>

#include "base/cancel.h"
#include "coders/binary_coder.h"
#include "coders/coder.h"
#include "text_primer.h"

namespace dcc {
namespace {

constexpr size_t kOrders = 6;
constexpr size_t kOrderBytes[kOrders] = {0, 1, 2, 3, 4, 6};  // bytes of history that each context sees
constexpr size_t kSlots = size_t{1} << 18;
constexpr uint64_t kMostTried = uint64_t{1} << 20;  // bytes; more would keep a decoder busy for too long
constexpr size_t kLeastMatch = 3;
constexpr size_t kMostMatch = 32;
constexpr uint32_t kSpread = 0x9E3779B1;

// A coder that only learns.
struct Listener {
  bool code(uint32_t /*p*/, bool known) { return known; }
};

class TextModel {
  struct Free {
    void operator()(Bit* memory) const { std::free(memory); }
  };

 public:
  TextModel()
      : slots_(static_cast<Bit*>(std::calloc(kOrders * kSlots, sizeof(Bit)))),
        mixers_(kOrders * 4 * 2, Mixer<kOrders + 1>(kOne * 3 / 10)),
        last_(1 << 16, 0) {
    if (!slots_) throw std::bad_alloc();
    Listener listener;
    for (const uint8_t byte : kTextPrimer) code(listener, byte);
  }

  // Codes the next byte; gives it back.
  template <typename Coder>
  uint8_t code(Coder& coder, uint8_t known) {
    const std::array<uint32_t, kOrders> contexts = hash_contexts();
    bool is_match = match_ != 0;
    uint32_t node = 1;
    for (unsigned i = 8; i-- > 0;) {
      if (i > 0) fetch_both(contexts, 2 * node);
      const bool expected = is_match && (history_[match_] >> i & 1) != 0;
      const bool one = code_bit(coder, contexts, node, is_match, expected, (known >> i & 1) != 0);
      is_match = is_match && one == expected;
      node = 2 * node + (one ? 1 : 0);
    }
    append(static_cast<uint8_t>(node));
    return static_cast<uint8_t>(node);
  }

 private:
  uint8_t back(size_t distance) const { return distance <= history_.size() ? history_[history_.size() - distance] : 0; }

  std::array<uint32_t, kOrders> hash_contexts() const {
    std::array<uint32_t, kOrders> contexts;
    for (size_t j = 0; j < kOrders; ++j) {
      uint32_t hash = static_cast<uint32_t>(j);
      for (size_t distance = 1; distance <= kOrderBytes[j]; ++distance) hash = (hash + back(distance) + 1) * kSpread;
      contexts[j] = hash;
    }
    return contexts;
  }

  Bit& slot(size_t order, uint32_t context, uint32_t node) {
    uint32_t hash = context ^ (node * 0x7FEB352D);
    hash = (hash ^ (hash >> 15)) * 0x2C1B3C6D;
    hash ^= hash >> 12;
    return slots_[order * kSlots + hash % kSlots];
  }

  // Gets what the next bit will need, whichever comes, while this one is being coded.
  void fetch_both(const std::array<uint32_t, kOrders>& contexts, uint32_t node) {
    for (size_t j = 0; j < kOrders; ++j) {
      __builtin_prefetch(&slot(j, contexts[j], node));
      __builtin_prefetch(&slot(j, contexts[j], node + 1));
    }
  }

  template <typename Coder>
  bool code_bit(Coder& coder, const std::array<uint32_t, kOrders>& contexts, uint32_t node, bool is_match,
                bool expected, bool known) {
    Bit unused;
    std::array<Bit*, kOrders + 1> bits;
    size_t longest = 0;  // the longest context that has been seen
    for (size_t j = 0; j < kOrders; ++j) {
      bits[j] = &slot(j, contexts[j], node);
      if (bits[j]->n > 0) longest = j;
    }
    const size_t length = std::min<size_t>(length_, 15);
    bits[kOrders] = is_match ? &matches_[2 * length + (expected ? 1 : 0)] : &unused;
    const size_t trust = !is_match ? 0 : length <= 4 ? 1 : length <= 8 ? 2 : 3;
    const size_t is_settled = bits[longest]->n > 2 ? 1 : 0;
    return mixers_[(longest * 4 + trust) * 2 + is_settled].code(coder, bits, 200, known);
  }

  // Follows the match, or looks for a new one: the last place where the same three bytes came before.
  void append(uint8_t byte) {
    history_.push_back(byte);
    if (match_ != 0 && history_[match_] == byte) {
      ++match_;
      length_ = std::min(length_ + 1, kMostMatch);
    } else {
      match_ = length_ = 0;
    }
    const size_t n = history_.size();
    if (n < kLeastMatch) return;
    const auto three = static_cast<uint32_t>(back(1) | back(2) << 8 | back(3) << 16);
    uint32_t& last = last_[(three * kSpread) >> 16];
    if (match_ == 0 && last != 0) {
      while (length_ < kMostMatch && length_ < last && history_[last - 1 - length_] == history_[n - 1 - length_])
        ++length_;
      if (length_ < kLeastMatch) length_ = 0;
      match_ = length_ > 0 ? last : 0;
    }
    last = static_cast<uint32_t>(n);
  }

  Bytes history_;
  std::unique_ptr<Bit[], Free> slots_;  // pages of zeros, which take no time before they are used
  std::vector<Mixer<kOrders + 1>> mixers_;
  std::array<Bit, 32> matches_;
  std::vector<uint32_t> last_;  // where the byte after three bytes was, by their hash
  size_t match_ = 0;            // where the byte is that is expected next; 0: nowhere
  size_t length_ = 0;           // how many bytes before it are equal, at most kMostMatch
};

class Text final : public Coder {
 public:
  Text() : Coder({"text", 7, Stores::kBytes, Layout::kOneChunk, false, 600'000, 0, 1'000'000}) {}

  void decode(Span chunk, uint64_t /*first*/, size_t count, const Header& /*header*/, uint8_t* out) const override {
    const auto model = std::make_unique<TextModel>();
    BinaryDecoder coder(chunk);
    for (size_t i = 0; i < count; ++i) {
      stop_if_cancelled(i);
      out[i] = model->code(coder, 0);
    }
    coder.finish();
  }

  Bytes encode(const uint8_t* elements, size_t count, const Header& /*header*/) const override {
    const auto model = std::make_unique<TextModel>();
    BinaryEncoder coder;
    for (size_t i = 0; i < count; ++i) {
      stop_if_cancelled(i);
      model->code(coder, elements[i]);
    }
    return coder.finish();
  }

  bool is_worth_trying(const Header& header) const override { return header.n <= kMostTried; }
};

}  // namespace

const Coder& text_coder() {
  static const Text coder;
  return coder;
}

}  // namespace dcc
