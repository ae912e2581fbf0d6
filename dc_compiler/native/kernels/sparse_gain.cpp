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

// As benchmarks/sparse_gains.py prints them, for AVX-512 the lesser of two runs. The last row that fits holds.
constexpr Row kRows[] = {
    {"avx512", LayerKind::kInt8, 0, {0.73, 0.74, 0.68, 0.59, 0.54, 0.45}},
    {"avx512", LayerKind::kInt8, 300000, {1.32, 1.26, 0.85, 0.60, 0.53, 0.48}},
    {"avx512", LayerKind::kInt8, 4000000, {2.36, 1.72, 1.09, 0.73, 0.59, 0.48}},
    {"avx512", LayerKind::kKernel, 0, {2.35, 1.85, 1.62, 1.24, 0.97, 0.87}},
    {"avx512", LayerKind::kKernel, 200000, {2.87, 2.38, 1.77, 1.57, 1.20, 0.93}},
    {"avx512", LayerKind::kMatrix, 0, {1.56, 1.48, 1.13, 0.95, 0.75, 0.64}},
    {"avx512", LayerKind::kMatrix, 300000, {3.20, 2.95, 1.94, 1.44, 1.06, 1.06}},
    {"avx512", LayerKind::kMatrix, 4000000, {5.67, 4.07, 2.52, 1.77, 1.50, 1.19}},
    {"avx2", LayerKind::kKernel, 0, {1.98, 1.86, 1.37, 0.91, 0.82, 0.76}},
    {"avx2", LayerKind::kKernel, 200000, {3.36, 2.43, 1.87, 1.24, 1.17, 0.92}},
    {"avx2", LayerKind::kMatrix, 0, {0.98, 0.75, 0.57, 0.43, 0.35, 0.30}},
    {"avx2", LayerKind::kMatrix, 300000, {1.57, 1.29, 1.23, 0.96, 0.68, 0.65}},
    {"avx2", LayerKind::kMatrix, 4000000, {4.29, 2.67, 1.80, 1.44, 0.96, 0.92}},
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
