// binary_coder.cpp: the tables of the logistic function (FORMAT.md, section 5.3).
#include "binary_coder.h"

namespace dcc {
namespace {

// 2^16 / (1 + e^-(j/2 - 11)), rounded, for j = 0 to 22; the rest follows from symmetry.
constexpr int32_t kLogistic[23] = {1,   2,   3,   5,    8,    13,   22,   36,   60,    98,    162,  267,
                                   439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768};

int32_t logistic(int64_t j) { return j <= 22 ? kLogistic[j] : kOne - kLogistic[44 - j]; }

struct Stretch {
  int16_t values[4096];

  Stretch() {
    int32_t logit = -kLogitLimit;
    for (int32_t j = 0; j < 4096; ++j) {
      while (logit < kLogitLimit && squash(logit) < 16 * j + 8) ++logit;
      values[j] = static_cast<int16_t>(logit);
    }
  }
};

}  // namespace

int32_t squash(int64_t logit) {
  const int64_t x = std::clamp<int64_t>(logit, -kLogitLimit, kLogitLimit - 1) + kLogitLimit;
  const int64_t j = x >> 7;
  const int64_t part = x & 127;
  return static_cast<int32_t>((logistic(j) * (128 - part) + logistic(j + 1) * part) >> 7);
}

const int16_t* stretch_table() {
  static const Stretch table;
  return table.values;
}

}  // namespace dcc
