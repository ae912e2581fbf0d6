// sparse_avx2.cpp: the sparse kernels for AVX2 and FMA.
#include <immintrin.h>

#include "kernels/sparse_loops.h"

namespace dcc {
namespace {

struct Eight {
  static constexpr size_t kSize = 8;
  __m256 value;
  static Eight zero() { return {_mm256_setzero_ps()}; }
  static Eight broadcast(const float* from) { return {_mm256_broadcast_ss(from)}; }
  static Eight load(const float* from) { return {_mm256_loadu_ps(from)}; }
  void store(float* to) const { _mm256_storeu_ps(to, value); }
  static Eight fma(Eight a, Eight b, Eight c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
  static Eight add(Eight a, Eight b) { return {_mm256_add_ps(a.value, b.value)}; }
  static Eight clamp(Eight a, Eight low, Eight high) {  // the second operand comes out where one is NaN
    return {_mm256_min_ps(high.value, _mm256_max_ps(low.value, a.value))};
  }
  static Eight load_some(const float* from, size_t at, size_t first, size_t last) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i is_before = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(first)), lane);
    const __m256i is_inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(last)), lane);
    return {_mm256_maskload_ps(moved(from, at), _mm256_andnot_si256(is_before, is_inside))};
  }
};

}  // namespace

const SparseKernels kAvx2Sparse = {keep_loop,         rows_loop<Eight, 2>, nullptr, bytes_loop,
                                   conv_of<Eight, 6>, plane_rows<Eight>,   6};

}  // namespace dcc
