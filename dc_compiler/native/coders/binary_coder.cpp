// binary_coder.cpp: the inverse of the logistic function (FORMAT.md, section 5.3).
#include "coders/binary_coder.h"

namespace dcc {
namespace {

constexpr std::array<int16_t, 4096> make_stretch() {
  std::array<int16_t, 4096> values{};
  int32_t logit = -kLogitLimit;
  for (int32_t j = 0; j < 4096; ++j) {
    while (logit < kLogitLimit && squash(logit) < 16 * j + 8) ++logit;
    values[static_cast<size_t>(j)] = static_cast<int16_t>(logit);
  }
  return values;
}

}  // namespace

constexpr std::array<int16_t, 4096> kStretch = make_stretch();

}  // namespace dcc
