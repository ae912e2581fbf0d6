// sparse_gain.cpp: sparse_gain.h.
#include "kernels/sparse_gain.h"

#include <algorithm>
#include <iterator>

namespace dcc {
namespace {

constexpr double kShares[] = {0.05, 0.1, 0.2, 0.3, 0.4, 0.5};
constexpr size_t kCount = std::size(kShares);
constexpr uint64_t kLeastElements = 1 << 12;
constexpr uint64_t kLeastInputs = 64;  // of a kernel: with few, sums are loaded and stored for too few products

struct Row {
  std::string_view isa;
  LayerKind kind;
  uint64_t least_elements;
  double gains[kCount];  // by share
};

// As benchmarks/sparse_gains.py prints them. The last row that fits holds.
constexpr Row kRows[] = {
    // placeholder
    {"avx512", LayerKind::kMatrix, 0, {3, 2, 1.3, 1.0, 0.8, 0.6}},
    {"avx512", LayerKind::kMatrix, 300000, {4, 3, 2, 1.3, 1.0, 0.8}},
    {"avx512", LayerKind::kKernel, 0, {4, 3, 1.7, 1.15, 0.9, 0.7}},
    {"avx512", LayerKind::kInt8, 0, {4, 3, 2, 1.3, 1.0, 0.8}},
    {"avx2", LayerKind::kKernel, 0, {4, 3, 1.7, 1.15, 0.9, 0.7}},
};

}  // namespace

double sparse_gain(std::string_view isa, const SparseLayer& layer) {
  const bool is_small =
      layer.elements < kLeastElements || (layer.kind == LayerKind::kKernel && layer.inputs < kLeastInputs);
  if (is_small || layer.kept > kShares[kCount - 1]) return 0;
  const Row* fitting = nullptr;
  for (const Row& row : kRows) {
    if (row.isa == isa && row.kind == layer.kind && row.least_elements <= layer.elements) fitting = &row;
  }
  if (fitting == nullptr) return 0;
  const double kept = std::max(layer.kept, kShares[0]);
  size_t after = 1;
  while (kept > kShares[after]) ++after;
  const double part = (kept - kShares[after - 1]) / (kShares[after] - kShares[after - 1]);
  return fitting->gains[after - 1] + part * (fitting->gains[after] - fitting->gains[after - 1]);
}

}  // namespace dcc
