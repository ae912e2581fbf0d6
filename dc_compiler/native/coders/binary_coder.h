// binary_coder.h: adaptive binary arithmetic coding in integers (FORMAT.md, section 5.3): range coder, probabilities,
// mixer.
#ifndef DCC_BINARY_CODER_H_
#define DCC_BINARY_CODER_H_

#include <algorithm>
#include <array>

#include "base/byte_io.h"

namespace dcc {

// Probabilities of a one are in units of 2^-16, logits in units of 2^-8.
constexpr int32_t kOne = 1 << 16;
constexpr int32_t kLogitLimit = 2816;

// 2^16 / (1 + e^-(j/2 - 11)), rounded, for j = 0 to 22; the rest follows from symmetry.
constexpr std::array<int32_t, 45> make_logistic() {
  std::array<int32_t, 45> values{1,   2,   3,    5,    8,    13,   22,   36,    60,    98,    162,  267,
                                 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768};
  for (size_t j = 23; j < 45; ++j) values[j] = kOne - values[44 - j];
  return values;
}
constexpr std::array<int32_t, 45> kLogistic = make_logistic();

// Probability for a logit, which is limited to 11 in each direction.
constexpr int32_t squash(int64_t logit) {
  const int64_t x = (logit < -kLogitLimit ? -kLogitLimit : logit < kLogitLimit ? logit : kLogitLimit - 1) + kLogitLimit;
  const auto j = static_cast<size_t>(x >> 7);
  const auto part = static_cast<int32_t>(x & 127);
  return (kLogistic[j] * (128 - part) + kLogistic[j + 1] * part) >> 7;
}

extern const std::array<int16_t, 4096> kStretch;  // the inverse for probabilities 16 j + 8

constexpr uint8_t kMostUpdates = 255;

// The share of its error that a probability learns after n updates, in units of 2^-16.
constexpr std::array<int32_t, kMostUpdates + 1> make_steps() {
  std::array<int32_t, kMostUpdates + 1> steps{};
  for (int32_t n = 0; n <= kMostUpdates; ++n) steps[static_cast<size_t>(n)] = 2 * kOne / (2 * n + 3);
  return steps;
}
constexpr std::array<int32_t, kMostUpdates + 1> kSteps = make_steps();

// An adaptive probability. It starts unused, and memory of zeros is just that.
struct Bit {
  int16_t above_half = 0;
  uint8_t n = 0;  // updates so far, up to kMostUpdates

  static Bit of(uint16_t p, uint8_t n) { return {static_cast<int16_t>(p - kOne / 2), n}; }
  uint16_t p() const { return static_cast<uint16_t>(above_half + kOne / 2); }

  void update(bool one) {
    const int32_t error = (one ? kOne / 2 : -kOne / 2) - above_half;
    above_half = static_cast<int16_t>(above_half + ((int64_t{error} * kSteps[n]) >> 16));
    if (n < kMostUpdates) ++n;
  }
};

// The numbers that are left for a code, which every bit narrows. Its first byte is settled when all of them agree on
// it.
class Range {
 public:
  uint32_t middle(uint32_t p) const { return low_ + static_cast<uint32_t>((uint64_t{high_ - low_} * p) >> 16); }

  void narrow(uint32_t middle, bool one) {
    if (one) {
      high_ = middle;
    } else {
      low_ = middle + 1;
    }
  }

  bool is_settled() const { return ((low_ ^ high_) >> 24) == 0; }
  uint8_t first_byte() const { return static_cast<uint8_t>(high_ >> 24); }

  void shift() {
    low_ <<= 8;
    high_ = (high_ << 8) | 255;
  }

  // Whether zeros lie in it; if not, the byte that does when zeros follow.
  bool has_zero() const { return low_ == 0; }
  uint8_t last_byte() const { return static_cast<uint8_t>((low_ >> 24) + 1); }

 private:
  uint32_t low_ = 0, high_ = 0xFFFFFFFF;
};

class BinaryEncoder {
 public:
  bool code(uint32_t p, bool one) {
    range_.narrow(range_.middle(p), one);
    for (; range_.is_settled(); range_.shift()) bytes_.push_back(range_.first_byte());
    return one;
  }

  Bytes finish() {
    if (!range_.has_zero()) bytes_.push_back(range_.last_byte());
    return std::move(bytes_);
  }

 private:
  Bytes bytes_;
  Range range_;
};

class BinaryDecoder {
 public:
  explicit BinaryDecoder(Span bytes) : bytes_(bytes) {
    for (size_t i = 0; i < 4; ++i) value_ = (value_ << 8) | byte(i);
  }

  bool code(uint32_t p, bool /*unknown*/) {
    const uint32_t middle = range_.middle(p);
    const bool one = value_ <= middle;
    range_.narrow(middle, one);
    for (; range_.is_settled(); range_.shift()) {
      value_ = (value_ << 8) | byte(4 + settled_++);
      // Without bytes there is always a symbol to decode: a few of them must not keep a decoder busy for ever.
      require(settled_ <= bytes_.size, "an arithmetic code is cut short");
    }
    return one;
  }

  // Refuses bytes that BinaryEncoder would not have written.
  void finish() const {
    const bool is_end = range_.has_zero() ? bytes_.size == settled_
                                          : bytes_.size == settled_ + 1 && bytes_.data[settled_] == range_.last_byte();
    require(is_end, "an arithmetic code does not end where its symbols end");
  }

 private:
  uint32_t byte(size_t at) const { return at < bytes_.size ? bytes_.data[at] : 0; }

  Span bytes_;
  size_t settled_ = 0;  // bytes of which nothing is left in the range
  Range range_;
  uint32_t value_ = 0;
};

// Mixes the logits of N probabilities (logistic mixing; Mahoney, "Adaptive weighing of context models", 2005).
template <size_t N>
class Mixer {
 public:
  explicit Mixer(int32_t weight) { weights_.fill(weight); }

  // Codes one bit with these probabilities and teaches them and the weights. `rate` is in units of 2^-14.
  template <typename Coder>
  bool code(Coder& coder, const std::array<Bit*, N>& bits, int64_t rate, bool known) {
    std::array<int64_t, N> logits;
    int64_t sum = 0;
    for (size_t i = 0; i < N; ++i) {
      logits[i] = kStretch[bits[i]->p() >> 4];
      sum += logits[i] * weights_[i];
    }
    const int32_t p = std::clamp(squash(sum >> 16), kLeast, kOne - kLeast);
    const bool one = coder.code(static_cast<uint32_t>(p), known);
    const int64_t error = (one ? kOne : 0) - p;
    for (size_t i = 0; i < N; ++i) {
      const int64_t weight = weights_[i] + ((logits[i] * error * rate + (1 << 21)) >> 22);
      weights_[i] = static_cast<int32_t>(std::clamp<int64_t>(weight, -kMostWeight, kMostWeight));
      bits[i]->update(one);
    }
    return one;
  }

 private:
  static constexpr int32_t kLeast = 16;
  static constexpr int64_t kMostWeight = 1 << 20;
  std::array<int32_t, N> weights_;  // in units of 2^-16
};

}  // namespace dcc
#endif  // DCC_BINARY_CODER_H_
