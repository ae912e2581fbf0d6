// kernels.h: the inner loops that exist once per instruction set, and the tables they read.
//
// Every set gives the same results. A kernel may do less than it is asked for and says how much it did: it stops where
// it would read outside its input, and the caller finishes with the careful loops of huffman.cpp and rans.cpp.
#ifndef DCC_KERNELS_H_
#define DCC_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace dcc {

struct RowsBlock;
struct RowsColumns;
struct SparseKernels;

// FORMAT.md 5.2. For a slot: `frequency - 1`, `slot - start` and the symbol, in one word where they fit in 32 bits:
// `packed` = symbol << 2w | (slot - start) << w | frequency - 1 with w = `field_bits`, enough for the largest
// frequency. Otherwise `packed` is null, `steps` holds (slot - start) << 16 | frequency - 1 and `symbols` the symbols,
// with one more entry at the end for wide loads.
struct RansTable {
  unsigned scale_bits = 0;
  unsigned field_bits = 0;
  const uint32_t* packed = nullptr;
  const uint32_t* steps = nullptr;
  const uint16_t* symbols = nullptr;
};

// A stream of `lanes` lanes: their states, its next word, the end of its words, and where its symbols go.
struct RansRun {
  const RansTable& table;
  uint32_t* states;
  unsigned lanes;
  const uint8_t* words;
  const uint8_t* end;
  uint16_t* out;
};

// FORMAT.md 5.1. `entries` is indexed by the next `bits` bits of the stream: symbol << 16 | length. For codes longer
// than `bits` the length is kLongCode; they are found by `end16` (for each length, one past its last code, left-aligned
// in 16 bits) and `sorted` (symbols in the order of their codes), where code c of length L is sorted[c - first[L]].
struct HuffmanTable {
  unsigned bits = 0;
  bool has_long_codes = false;
  const uint32_t* entries = nullptr;
  const uint16_t* sorted = nullptr;
  uint32_t end16[17] = {};
  uint32_t first[17] = {};
};
constexpr uint32_t kLongCode = 0xFF;
constexpr unsigned kLongestCode = 16;

// Tables of at most this many bytes may be read whole, whatever they hold: they fit in registers.
constexpr size_t kTableBytes = 1024;

// Codebook values of the compute type: either `table[index]` with `entries` of them, or `lo + index` when `table` is
// null.
template <typename T>
struct Codebook {
  const T* table = nullptr;
  size_t entries = 0;
  int32_t lo = 0;
};

struct Kernels {
  const char* name;

  // Decodes up to `groups` groups of one symbol per lane. Advances the run's `words`, never reads at or after its
  // `end`. Returns the groups done.
  size_t (*rans)(RansRun& run, size_t groups);

  // The same for two runs side by side, which hides what one waits for; as many groups of both. None where that gains
  // nothing.
  size_t (*rans_two)(RansRun& run, RansRun& other, size_t groups);

  // The same for huffman: lane l continues at bit positions[l] of `bytes`, of which `size` may be read.
  size_t (*huffman)(const HuffmanTable& table, uint64_t* positions, unsigned lanes, const uint8_t* bytes, size_t size,
                    uint16_t* out, size_t groups);

  // What the columns of a block say of its flags (rows_block.h).
  void (*rows_columns)(const RowsColumns& block);

  // Decode the flags, then the values, of a block's columns from `block.column` on (rows_block.h), as far as its words
  // allow.
  void (*rows_flags)(RowsBlock& block);
  void (*rows_values)(RowsBlock& block);

  // Indices that lie lane by lane, kRowsLanes a column, into `rows` rows.
  void (*rows_transpose)(const uint16_t* indices, size_t columns, unsigned rows, uint16_t* out);

  // Numbers of `width` bits (1 to 16) from the first bit of `bytes` on, of which `size` may be read: up to `count`, in
  // multiples of 8. Returns how many.
  size_t (*unpack)(const uint8_t* bytes, size_t size, unsigned width, uint16_t* out, size_t count);

  // out[i] = table[indices[i]], for elements of 2, 4 and 8 bytes.
  void (*lookup16)(const Codebook<uint16_t>& codebook, const uint16_t* indices, uint16_t* out, size_t count);
  void (*lookup32)(const Codebook<uint32_t>& codebook, const uint16_t* indices, uint32_t* out, size_t count);
  void (*lookup64)(const Codebook<uint64_t>& codebook, const uint16_t* indices, uint64_t* out, size_t count);

  // out[i] = codebook(indices[i]) * scales[i * step], step 0 or 1.
  void (*scale32)(const Codebook<float>& codebook, const uint16_t* indices, const float* scales, size_t step,
                  float* out, size_t count);
  void (*scale64)(const Codebook<double>& codebook, const uint16_t* indices, const double* scales, size_t step,
                  double* out, size_t count);

  // Rounds finite or infinite floats to nearest, ties to even.
  void (*to_float16)(const float* values, uint16_t* out, size_t count);
  void (*to_bfloat16)(const float* values, uint16_t* out, size_t count);

  // Number of indices that are not `value`.
  size_t (*count_other)(const uint16_t* indices, size_t count, uint16_t value);

  // Layers that run from their kept weights (sparse_kernels.h).
  const SparseKernels* sparse;
};

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#elif defined(__aarch64__) || defined(__wasm_simd128__)
extern const Kernels kSimd128Kernels;
#endif

}  // namespace dcc
#endif  // DCC_KERNELS_H_
