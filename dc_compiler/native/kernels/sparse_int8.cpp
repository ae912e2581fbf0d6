// sparse_int8.cpp: sparse_int8.h.
#include "kernels/sparse_int8.h"

#include <algorithm>

#include "kernels/isa.h"
#include "kernels/kernels.h"

namespace dcc {
namespace {

// Of a task
constexpr size_t kMostGroups = 8;
constexpr size_t kMostRows = 32;

size_t divided_up(size_t a, size_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace

SparseInt8MatMul::SparseInt8MatMul(const KeptWeights& kept, const float* scales, int threads)
    : kernels_(kernels().sparse), weights_(kept, scales, threads) {}

size_t SparseInt8MatMul::tasks(size_t m) const {
  return divided_up(divided_up(n(), kLanes), kMostGroups) * divided_up(m, kMostRows);
}

void SparseInt8MatMul::run(size_t task, const ByteRows& rows, const float* bias, float* y, const Bounds& bounds) const {
  const size_t groups = divided_up(n(), kLanes);
  const size_t across = divided_up(groups, kMostGroups);
  const size_t first = task % across * kMostGroups;
  const size_t row = task / across * kMostRows;
  const ByteRows part{rows.x + row * k(), std::min(kMostRows, rows.m - row), rows.zero, rows.step};
  const Ends ends{bias, bounds.low, bounds.high};
  kernels_->bytes(weights_.view(), first, std::min(first + kMostGroups, groups), part, ends, y + row * n());
}

}  // namespace dcc
