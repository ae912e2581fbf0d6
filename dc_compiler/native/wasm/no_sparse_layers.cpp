// no_sparse_layers.cpp: in the place of kernels/sparse_portable.cpp where models are unpacked and not run.
#include "kernels/sparse_kernels.h"

namespace dcc {

const SparseKernels kPortableSparse = {};

}  // namespace dcc
