// sparse_portable.cpp: the sparse kernels that run everywhere.
#include "kernels/sparse_loops.h"

namespace dcc {
namespace {

struct Four {
  static constexpr size_t kSize = 4;
  float value[4];
  static Four zero() { return {}; }
  static Four broadcast(const float* from) { return {{*from, *from, *from, *from}}; }
  static Four load(const float* from) { return {{from[0], from[1], from[2], from[3]}}; }
  void store(float* to) const {
    for (size_t i = 0; i < kSize; ++i) to[i] = value[i];
  }
  static Four fma(const Four& a, const Four& b, const Four& c) {
    Four sum;
    for (size_t i = 0; i < kSize; ++i) sum.value[i] = __builtin_fmaf(a.value[i], b.value[i], c.value[i]);
    return sum;
  }
  static Four add(const Four& a, const Four& b) {
    Four sum;
    for (size_t i = 0; i < kSize; ++i) sum.value[i] = a.value[i] + b.value[i];
    return sum;
  }
  static Four clamp(const Four& a, const Four& low, const Four& high) {
    Four within;
    for (size_t i = 0; i < kSize; ++i) within.value[i] = bounded(a.value[i], {nullptr, low.value[i], high.value[i]});
    return within;
  }
  static Four load_some(const float* from, size_t at, size_t first, size_t last) {
    Four some = zero();
    for (size_t i = first; i < last; ++i) some.value[i] = from[at + i];
    return some;
  }
};

}  // namespace

const SparseKernels kPortableSparse = {keep_loop, rows_loop<Four, 2>, nullptr, conv_of<Four, 1>, plane_rows<Four>, 1};

}  // namespace dcc
