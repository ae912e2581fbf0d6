// sparse_portable.cpp: the sparse kernels that run everywhere.
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels/sparse_loops.h"

namespace dcc {
namespace {

#if defined(__aarch64__)  // where NEON is part of what runs everywhere
struct Four {
  static constexpr size_t kSize = 4;
  float32x4_t value;
  static Four zero() { return {vdupq_n_f32(0)}; }
  static Four broadcast(const float* from) { return {vld1q_dup_f32(from)}; }
  static Four load(const float* from) { return {vld1q_f32(from)}; }
  void store(float* to) const { vst1q_f32(to, value); }
  static Four fma(Four a, Four b, Four c) { return {vfmaq_f32(c.value, a.value, b.value)}; }
  static Four add(Four a, Four b) { return {vaddq_f32(a.value, b.value)}; }
  static Four clamp(Four a, Four low, Four high) {  // NaN is below and above nothing
    const float32x4_t above = vbslq_f32(vcltq_f32(a.value, low.value), low.value, a.value);
    return {vbslq_f32(vcgtq_f32(above, high.value), high.value, above)};
  }
  static Four load_some(const float* from, size_t at, size_t first, size_t last) {
    float some[kSize] = {};
    for (size_t i = first; i < last; ++i) some[i] = from[at + i];
    return load(some);
  }
};
constexpr size_t kTileLines = 4;  // 16 sums in 32 registers
#else
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
constexpr size_t kTileLines = 1;
#endif

}  // namespace

const SparseKernels kPortableSparse = {
    keep_loop, rows_loop<Four, 2>, nullptr, bytes_loop, conv_of<Four, kTileLines>, plane_rows<Four>, kTileLines};

}  // namespace dcc
