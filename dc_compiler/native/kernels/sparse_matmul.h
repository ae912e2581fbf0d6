// sparse_matmul.h: a matrix kept as its weights that are not zero, to multiply by without ever making it dense.
#ifndef DCC_SPARSE_MATMUL_H_
#define DCC_SPARSE_MATMUL_H_

#include "kernels/sparse_layouts.h"

namespace dcc {

// y = x * W + bias in fp32. Every y[i, o] starts from bias[o], or +0.0 without a bias, adds x[i, c] * W[c, o] for the
// kept weights by ascending c with one fused multiply-add each, and at last +0.0: the same bits on every instruction
// set and for any m (but for which NaN it is), in the default floating-point environment. What is not kept multiplies
// nothing, not even an infinity.
class SparseMatMul {
 public:
  // `usual_m` is the number of rows that run() will mostly be called for, 0 if unknown: it changes speed and bytes
  // alone. Not knowing takes both layouts where they are small: together 4.4 bytes a weight at 9 % kept.
  SparseMatMul(const KeptWeights& kept, size_t usual_m, int threads = 1);

  size_t k() const { return k_; }
  size_t n() const { return n_; }
  size_t kept() const { return kept_; }
  size_t bytes() const { return rows_.bytes() + lanes_.bytes(); }

  // The work for `m` rows falls into this many tasks, which may run in any order and at the same time.
  size_t tasks(size_t m) const;

  // Writes the part `task` < tasks(m) of y [m, n] from x [m, k]. `bias` is [n] or null.
  void run(size_t task, const float* x, size_t m, const float* bias, float* y, const Bounds& bounds = {}) const;

 private:
  struct Cut {  // of outputs, in chunks or groups, and of rows
    size_t units, rows;
  };
  Cut cut(size_t m) const;
  size_t units(size_t m) const;
  bool by_lanes(size_t m) const;

  const SparseKernels* kernels_;
  size_t k_, n_, kept_;
  bool has_rows_, has_lanes_;
  RowLayout rows_;
  LaneLayout lanes_;
};

}  // namespace dcc
#endif  // DCC_SPARSE_MATMUL_H_
