// sparse_int8.h: a matrix of int8 kept as its weights that are not zero, to multiply rows of uint8 by.
#ifndef DCC_SPARSE_INT8_H_
#define DCC_SPARSE_INT8_H_

#include "kernels/sparse_layouts.h"

namespace dcc {

// y = (x - zero) * W in integers, times the step of x and the scale of the output, plus bias: what MatMulInteger, Cast,
// Mul and Add of ONNX give, to the bit and on every instruction set. The sums are modulo 2^32.
class SparseInt8MatMul {
 public:
  // `kept` has whole numbers from -128 to 127, `scales` [n].
  SparseInt8MatMul(const KeptWeights& kept, const float* scales, int threads = 1);

  size_t k() const { return weights_.view().k; }
  size_t n() const { return weights_.view().n; }
  size_t bytes() const { return weights_.bytes(); }

  // As SparseMatMul.
  size_t tasks(size_t m) const;
  void run(size_t task, const ByteRows& rows, const float* bias, float* y, const Bounds& bounds = {}) const;

 private:
  const SparseKernels* kernels_;
  ByteLayout weights_;
};

}  // namespace dcc
#endif  // DCC_SPARSE_INT8_H_
