// kernels_avx2.cpp: the kernel set for AVX2, BMI2, LZCNT and F16C.
#include <immintrin.h>

#include "kernels/kernels_common.h"
#include "kernels/sparse_kernels.h"

namespace dcc {
namespace {

// For each mask of lanes to refill: from which word each of 8 lanes takes its bits.
struct RefillOrders {
  alignas(8) uint8_t word[256][8];
};

constexpr RefillOrders make_refill_orders() {
  RefillOrders orders{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    uint8_t next = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      orders.word[mask][lane] = next;
      if ((mask >> lane & 1) != 0) ++next;
    }
  }
  return orders;
}

constexpr RefillOrders kRefillOrders = make_refill_orders();

inline const int* as_ints(const void* from) { return static_cast<const int*>(from); }

// One symbol of 8 lanes (FORMAT.md 5.2); returns the symbols as 32-bit numbers.
template <bool kPacked>
inline __m256i rans_step8(const RansTable& table, __m256i& state, const uint8_t*& words) {
  const int field = kPacked ? static_cast<int>(table.field_bits) : 16;
  const __m128i s = _mm_cvtsi32_si128(static_cast<int>(table.scale_bits));
  const __m256i field_mask = _mm256_set1_epi32((1 << field) - 1);
  const __m256i slot = _mm256_and_si256(state, _mm256_set1_epi32((1 << table.scale_bits) - 1));
  const __m256i step = _mm256_i32gather_epi32(as_ints(kPacked ? table.packed : table.steps), slot, 4);
  const __m256i rest = _mm256_srl_epi32(state, s);
  const __m256i less = _mm256_and_si256(step, field_mask);  // frequency - 1
  const __m256i offset = _mm256_and_si256(_mm256_srl_epi32(step, _mm_cvtsi32_si128(field)), field_mask);
  // frequency * rest + offset, of which the sum is ready before the product
  const __m256i x = _mm256_add_epi32(_mm256_mullo_epi32(less, rest), _mm256_add_epi32(rest, offset));

  const __m256i refill = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
  const unsigned lanes = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(refill)));
  const __m256i next = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words)));
  const __m256i order =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kRefillOrders.word[lanes])));
  const __m256i word = _mm256_permutevar8x32_epi32(next, order);
  state = _mm256_blendv_epi8(x, _mm256_or_si256(_mm256_slli_epi32(x, 16), word), refill);
  words += 2 * static_cast<size_t>(__builtin_popcount(lanes));

  if (kPacked) return _mm256_srl_epi32(step, _mm_cvtsi32_si128(2 * field));
  return _mm256_and_si256(_mm256_i32gather_epi32(as_ints(table.symbols), slot, 2), _mm256_set1_epi32(0xFFFF));
}

// kVectors vectors of 8 lanes.
template <bool kPacked, unsigned kVectors>
size_t rans_vectors(RansRun& run, size_t groups) {
  const RansTable table = run.table;
  auto* const stored = reinterpret_cast<__m256i*>(run.states);
  __m256i state[kVectors];
  for (unsigned v = 0; v < kVectors; ++v) state[v] = _mm256_loadu_si256(stored + v);
  const uint8_t* at = run.words;
  uint16_t* out = run.out;
  size_t done = 0;
  for (; done < groups && run.end - at >= static_cast<ptrdiff_t>(16 * kVectors); ++done, out += 8 * kVectors) {
    for (unsigned v = 0; v < kVectors; v += 2) {
      const __m256i first = rans_step8<kPacked>(table, state[v], at);
      const __m256i second = rans_step8<kPacked>(table, state[v + 1], at);
      const __m256i symbols = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xD8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * v), symbols);
    }
  }
  for (unsigned v = 0; v < kVectors; ++v) _mm256_storeu_si256(stored + v, state[v]);
  run.words = at;
  return done;
}

size_t rans_avx2(RansRun& run, size_t groups) {
  const bool packed = run.table.packed != nullptr;
  switch (run.lanes) {
    case 32: return (packed ? rans_vectors<true, 4> : rans_vectors<false, 4>)(run, groups);
    case 16: return (packed ? rans_vectors<true, 2> : rans_vectors<false, 2>)(run, groups);
    default: return rans_scalar(run, groups);
  }
}

void float16_avx2(const float* values, uint16_t* out, size_t count) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
  }
  float16_loop(values + i, out + i, count - i);
}

// 8 numbers lie in `width` bytes: 4 bytes around each, shifted.
size_t unpack_avx2(const uint8_t* bytes, size_t size, unsigned width, uint16_t* out, size_t count) {
  alignas(32) uint8_t byte[32];
  alignas(32) uint32_t shift[8];
  for (unsigned j = 0; j < 8; ++j) {
    // of the last 3 bytes, as the window of 16 bytes ends; a number ends before that window does
    for (unsigned b = 0; b < 4; ++b)
      byte[4 * j + b] = static_cast<uint8_t>(j * width / 8 + b < 16 ? j * width / 8 + b : 0x80);
    shift[j] = j * width % 8;
  }
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(byte));
  const __m256i shifts = _mm256_load_si256(reinterpret_cast<const __m256i*>(shift));
  const __m256i mask = _mm256_set1_epi32((1 << width) - 1);
  const auto eight = [&](const uint8_t* from) {
    const __m128i window = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    const __m256i spread = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(window), order);
    return _mm256_and_si256(_mm256_srlv_epi32(spread, shifts), mask);
  };
  size_t done = 0;
  for (; count - done >= 16 && size >= width + 16; done += 16, bytes += 2 * width, size -= 2 * width) {
    const __m256i numbers = _mm256_packus_epi32(eight(bytes), eight(bytes + width));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + done), _mm256_permute4x64_epi64(numbers, 0xD8));
  }
  return done + unpack_loop(bytes, size, width, out + done, count - done);
}

// Tables of up to 32 entries stay in registers: 3 bits of an index choose within each, the next two between them.
size_t lookup32_vectors(const Codebook<uint32_t>& codebook, const uint16_t* indices, uint32_t* out, size_t count) {
  __m256 parts[4];
  for (unsigned v = 0; v < 4; ++v) parts[v] = _mm256_loadu_ps(reinterpret_cast<const float*>(codebook.table) + 8 * v);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i index = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(indices + i)));
    const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 as the sign
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 27));
    const __m256 low =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(parts[0], index), _mm256_permutevar8x32_ps(parts[1], index), second);
    const __m256 high =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(parts[2], index), _mm256_permutevar8x32_ps(parts[3], index), second);
    _mm256_storeu_ps(reinterpret_cast<float*>(out + i), _mm256_blendv_ps(low, high, upper));
  }
  return i;
}

// For more, loads one by one take less time than the gathers that the compiler makes of them here.
void lookup32_avx2(const Codebook<uint32_t>& codebook, const uint16_t* indices, uint32_t* out, size_t count) {
  const size_t done = codebook.entries <= 32 ? lookup32_vectors(codebook, indices, out, count) : 0;
  kPortableKernels.lookup32(codebook, indices + done, out + done, count - done);
}

}  // namespace

const Kernels kAvx2Kernels = {"avx2",
                              rans_avx2,
                              rans_not_two,
                              huffman_scalar,
                              rows_flags_loop,
                              rows_values_loop,
                              rows_transpose_loop,
                              unpack_avx2,
                              lookup_loop<uint16_t>,
                              lookup32_avx2,
                              lookup_loop<uint64_t>,
                              scale_loop<float>,
                              scale_loop<double>,
                              float16_avx2,
                              bfloat16_loop,
                              count_other_loop,
                              &kAvx2Sparse};

}  // namespace dcc
