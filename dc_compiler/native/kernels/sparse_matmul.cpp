// sparse_matmul.cpp: chooses the layout of a sparse matrix and cuts its products into tasks.
#include "kernels/sparse_matmul.h"

#include <algorithm>

#include "kernels/isa.h"
#include "kernels/kernels.h"

namespace dcc {
namespace {

// From how many rows on layout `rows` is faster than `lanes` where there are both.
constexpr size_t kManyRows = 16;

size_t divided_up(size_t a, size_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace

SparseMatMul::SparseMatMul(const KeptWeights& kept, size_t usual_m, int threads)
    : kernels_(kernels().sparse),
      k_(kept.k),
      n_(kept.n),
      kept_(kept.values.size()),
      has_lanes_(kernels_->lanes != nullptr && usual_m < kManyRows) {
  if (has_lanes_) lanes_ = LaneLayout(kept, threads);
  has_rows_ = !has_lanes_ || (usual_m == 0 && lanes_.is_coded());
  if (has_rows_) rows_ = RowLayout(kept, threads);
}

bool SparseMatMul::by_lanes(size_t m) const { return has_lanes_ && (m < kManyRows || !has_rows_); }

size_t SparseMatMul::units(size_t m) const { return divided_up(n_, by_lanes(m) ? kLanes : kRowsInChunk); }

// Layout `rows` turns 128 x 32 inputs around for each part of the outputs, which pays for many of these alone.
SparseMatMul::Cut SparseMatMul::cut(size_t m) const {
  if (by_lanes(m)) return {m >= 8 ? size_t{8} : size_t{4}, 32};
  return {m > 1 ? size_t{8} : size_t{2}, 32};
}

size_t SparseMatMul::tasks(size_t m) const {
  const Cut part = cut(m);
  return divided_up(units(m), part.units) * divided_up(m, part.rows);
}

void SparseMatMul::run(size_t task, const float* x, size_t m, const float* bias, float* y, const Bounds& bounds) const {
  const Cut part = cut(m);
  const size_t across = divided_up(units(m), part.units);
  const size_t first = task % across * part.units;
  const size_t last = std::min(first + part.units, units(m));
  const size_t row = task / across * part.rows;
  const size_t rows = std::min(part.rows, m - row);
  const Ends ends{bias, bounds.low, bounds.high};
  if (by_lanes(m)) {
    kernels_->lanes(lanes_.view(), first, last, x + row * k_, rows, ends, y + row * n_);
  } else {
    kernels_->rows(rows_.view(), first, last, x + row * k_, rows, ends, y + row * n_);
  }
}

}  // namespace dcc
