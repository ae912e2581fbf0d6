// kernels_portable.cpp: the kernel set that runs everywhere.
#include "kernels/kernels_common.h"
#include "kernels/sparse_kernels.h"

namespace dcc {

const Kernels kPortableKernels = {
    "portable",        rans_scalar,           rans_not_two,          huffman_scalar,
    rows_columns_loop, rows_flags_loop,       rows_values_loop,      rows_transpose_loop,
    unpack_loop,       lookup_loop<uint16_t>, lookup_loop<uint32_t>, lookup_loop<uint64_t>,
    scale_loop<float>, scale_loop<double>,    float16_loop,          bfloat16_loop,
    count_other_loop,  &kPortableSparse};

}  // namespace dcc
