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
    {"avx512", LayerKind::kInt8, 0, {0.73, 0.74, 0.69, 0.66, 0.58, 0.45}},
    {"avx512", LayerKind::kInt8, 300000, {1.66, 1.28, 0.89, 0.60, 0.58, 0.51}},
    {"avx512", LayerKind::kInt8, 4000000, {2.50, 1.72, 1.09, 0.75, 0.59, 0.48}},
    {"avx512", LayerKind::kKernel, 0, {2.65, 2.63, 2.01, 1.53, 1.25, 1.00}},
    {"avx512", LayerKind::kKernel, 200000, {4.80, 3.74, 2.36, 1.65, 1.24, 1.07}},
    {"avx512", LayerKind::kMatrix, 0, {1.56, 1.48, 1.27, 1.12, 0.93, 0.78}},
    {"avx512", LayerKind::kMatrix, 300000, {4.23, 3.05, 2.07, 1.44, 1.30, 1.08}},
    {"avx512", LayerKind::kMatrix, 4000000, {5.67, 4.07, 2.65, 1.77, 1.55, 1.19}},
    {"avx2", LayerKind::kKernel, 0, {2, 1.7, 1.3, 1.0, 0.8, 0.6}},
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
