// sparse_gain.h: the cost model of layers that can run from what is kept of their weights.
#ifndef DCC_SPARSE_GAIN_H_
#define DCC_SPARSE_GAIN_H_

#include <cstdint>
#include <string_view>

namespace dcc {

enum class LayerKind {
  kMatrix,  // MatMul, Gemm
  kKernel,  // 2-D Conv
  kInt8,    // MatMul, Gemm in int8
};

struct SparseLayer {
  LayerKind kind;
  uint64_t inputs;    // that an output has
  uint64_t elements;  // of the weight
  double kept;        // share of them that is not zero
};

// How many times as fast as dense in onnxruntime (kInt8: in its int8) a layer is expected to be with a kernel set, for
// the number of rows or images at a time with which it gains least. 0 where that is not known: it does not pay.
double sparse_gain(std::string_view isa, const SparseLayer& layer);

// Whether layers of that gain run so: what they gain must be worth what it takes to make them.
inline bool runs_sparse(double gain) { return gain >= 1.15; }

}  // namespace dcc
#endif  // DCC_SPARSE_GAIN_H_
