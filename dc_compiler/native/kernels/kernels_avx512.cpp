// kernels_avx512.cpp: the kernel set for AVX-512 F, BW, VL, DQ and VBMI2.
#include <immintrin.h>

#include "kernels/kernels_common.h"
#include "kernels/sparse_kernels.h"

namespace dcc {
namespace {

// One symbol of 16 lanes (FORMAT.md 5.2): the words go to the lanes that need one by vpexpandd.
template <bool kPacked>
inline __m256i rans_step16(const RansTable& table, __m512i& state, const uint8_t*& words) {
  const __m128i s = _mm_cvtsi32_si128(static_cast<int>(table.scale_bits));
  const __m512i mask = _mm512_set1_epi32((1 << table.scale_bits) - 1);
  const __m512i low16 = _mm512_set1_epi32(0xFFFF);
  const __m512i slot = _mm512_and_si512(state, mask);
  const __m512i step = _mm512_i32gather_epi32(slot, kPacked ? table.packed : table.steps, 4);
  const __m512i frequency = _mm512_add_epi32(_mm512_and_si512(step, kPacked ? mask : low16), _mm512_set1_epi32(1));
  const __m512i offset = kPacked ? _mm512_and_si512(_mm512_srl_epi32(step, s), mask) : _mm512_srli_epi32(step, 16);
  const __m512i x = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srl_epi32(state, s)), offset);

  const __mmask16 refill = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(0x10000));
  const __m512i next = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
  state = _mm512_mask_or_epi32(x, refill, _mm512_slli_epi32(x, 16), _mm512_maskz_expand_epi32(refill, next));
  words += 2 * static_cast<size_t>(__builtin_popcount(refill));

  if (kPacked) return _mm512_cvtepi32_epi16(_mm512_srl_epi32(step, _mm_slli_epi32(s, 1)));
  return _mm512_cvtepi32_epi16(_mm512_i32gather_epi32(slot, table.symbols, 2));
}

// kVectors vectors of 16 lanes.
template <bool kPacked, unsigned kVectors>
size_t rans_vectors(const RansTable& table, uint32_t* states, const uint8_t** words, const uint8_t* end, uint16_t* out,
                    size_t groups) {
  const RansTable local = table;
  __m512i state[kVectors];
  for (unsigned v = 0; v < kVectors; ++v) state[v] = _mm512_loadu_si512(states + 16 * v);
  const uint8_t* at = *words;
  size_t done = 0;
  for (; done < groups && end - at >= static_cast<ptrdiff_t>(32 * kVectors); ++done, out += 16 * kVectors) {
    for (unsigned v = 0; v < kVectors; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * v), rans_step16<kPacked>(local, state[v], at));
    }
  }
  for (unsigned v = 0; v < kVectors; ++v) _mm512_storeu_si512(states + 16 * v, state[v]);
  *words = at;
  return done;
}

size_t rans_avx512(const RansTable& table, uint32_t* states, unsigned lanes, const uint8_t** words, const uint8_t* end,
                   uint16_t* out, size_t groups) {
  const bool packed = table.packed != nullptr;
  switch (lanes) {
    case 32: return (packed ? rans_vectors<true, 2> : rans_vectors<false, 2>)(table, states, words, end, out, groups);
    case 16: return (packed ? rans_vectors<true, 1> : rans_vectors<false, 1>)(table, states, words, end, out, groups);
    default: return rans_scalar(table, states, lanes, words, end, out, groups);
  }
}

void float16_avx512(const float* values, uint16_t* out, size_t count) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm512_cvtps_ph(_mm512_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
  }
  float16_loop(values + i, out + i, count - i);
}

}  // namespace

const Kernels kAvx512Kernels = {"avx512",
                                rans_avx512,
                                huffman_scalar,
                                lookup_loop<uint16_t>,
                                lookup_loop<uint32_t>,
                                lookup_loop<uint64_t>,
                                scale_loop<float>,
                                scale_loop<double>,
                                float16_avx512,
                                bfloat16_loop,
                                count_other_loop,
                                &kAvx512Sparse};

}  // namespace dcc
