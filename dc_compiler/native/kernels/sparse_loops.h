// sparse_loops.h: kernels of sparse_kernels.h over vectors of any width, compiled anew with the flags of each
// instruction set.
//
// In an unnamed namespace for the reason given in kernels_common.h. `Vec` is a vector of Vec::kSize floats with zero(),
// broadcast(from), load(from), store(to), add(a, b), clamp(a, low, high), which leaves NaN, fma(a, b, c) = a * b + c,
// rounded once, and load_some(from, at, first, last), whose lanes `first` to `last` - 1 are from[at + lane] (`at` may
// be negative, modulo 2^64) and whose others are 0.
#ifndef DCC_SPARSE_LOOPS_H_
#define DCC_SPARSE_LOOPS_H_

#include "kernels/sparse_kernels.h"

namespace dcc {
namespace {

// Chunks whose sums are held while a panel of inputs is in the first-level cache.
constexpr size_t kChunksAtOnce = 8;

inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// from + at, which may be no pointer into the array, for loads that leave such elements out.
inline const float* moved(const float* from, size_t at) {
  return reinterpret_cast<const float*>(reinterpret_cast<uintptr_t>(from) + at * sizeof(float));
}

inline float bounded(float value, const Ends& ends) {
  const float above = value < ends.low ? ends.low : value;
  return above > ends.high ? ends.high : above;
}

// By the bits: a thread may treat subnormal numbers as zero. No branch: whether a weight is kept is as good as random.
inline size_t keep_loop(const float* weights, size_t count, uint32_t* inputs, float* values) {
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, weights + i, sizeof bits);
    inputs[kept] = static_cast<uint32_t>(i);
    __builtin_memcpy(values + kept, &bits, sizeof bits);
    kept += ((bits << 1) + 0xFFFFFFFFULL) >> 32;  // 1 unless all bits but the sign are 0
  }
  return kept;
}

// One float, for what is left beside vectors.
struct Scalar {
  static constexpr size_t kSize = 1;
  float value;
  static Scalar zero() { return {0.0F}; }
  static Scalar broadcast(const float* from) { return {*from}; }
  static Scalar load(const float* from) { return {*from}; }
  void store(float* to) const { *to = value; }
  static Scalar fma(Scalar a, Scalar b, Scalar c) { return {__builtin_fmaf(a.value, b.value, c.value)}; }
};

// kCount vectors side by side. A list rather than an array, which compilers keep in memory between loops.
template <typename Vec, size_t kCount>
struct Vectors {
  Vec first;
  Vectors<Vec, kCount - 1> rest;

  __attribute__((always_inline)) void broadcast(const float* from) {
    first = Vec::broadcast(from);
    rest.broadcast(from);
  }
  __attribute__((always_inline)) void load(const float* from) {
    first = Vec::load(from);
    rest.load(from + Vec::kSize);
  }
  __attribute__((always_inline)) void add_product(Vec a, const float* b) {
    first = Vec::fma(a, Vec::load(b), first);
    rest.add_product(a, b + Vec::kSize);
  }
  __attribute__((always_inline)) void finish(Vec low, Vec high) {
    first = Vec::clamp(Vec::add(first, Vec::zero()), low, high);
    rest.finish(low, high);
  }
  __attribute__((always_inline)) void store(float* to) const {
    first.store(to);
    rest.store(to + Vec::kSize);
  }
};

template <typename Vec>
struct Vectors<Vec, 0> {
  void broadcast(const float*) {}
  void load(const float*) {}
  void add_product(Vec, const float*) {}
  void finish(Vec, Vec) {}
  void store(float*) const {}
};

// panel[c][i] = x[i][c] for the `width` columns of a block; rows behind `m` are 0.
template <size_t kStrip>
inline void fill_panel(const float* x, size_t stride, size_t m, size_t width, float* panel) {
  if (m < kStrip) __builtin_memset(panel, 0, width * kStrip * sizeof *panel);
  for (size_t i = 0; i < m; ++i) {
#if defined(__clang__)
#pragma clang loop vectorize(disable)  // scattering vectors takes longer
#endif
    for (size_t c = 0; c < width; ++c) panel[c * kStrip + i] = x[i * stride + c];
  }
}

// The weights of a visit, in the order in which they are added.
template <bool kCodes>
struct Visit {
  const uint8_t* positions;
  const uint8_t* codes;
  const float* table;
  const float* values;

  Visit(const RowWeights& weights, size_t at)
      : positions(weights.positions + at),
        codes(weights.codes + (kCodes ? at : 0)),
        table(weights.table),
        values(weights.values + (kCodes ? 0 : at)) {}

  // Adds the products of weights `from` to `to` - 1 to `sum`; input i of the block is at inputs[i * kStride].
  template <size_t kStride, typename Vec, size_t kVectors>
  __attribute__((always_inline)) void add(size_t from, size_t to, const float* inputs,
                                          Vectors<Vec, kVectors>& sum) const {
    for (size_t i = from; i < to; ++i) add_one<kStride>(i, inputs, sum);
  }
  template <size_t kStride, typename Vec, size_t kVectors>
  __attribute__((always_inline)) void add_one(size_t i, const float* inputs, Vectors<Vec, kVectors>& sum) const {
    add_at(i, inputs + kStride * positions[i], sum);
  }
  // The product of weight i and what is at `inputs`.
  template <typename Vec, size_t kVectors>
  __attribute__((always_inline)) void add_at(size_t i, const float* inputs, Vectors<Vec, kVectors>& sum) const {
    sum.add_product(Vec::broadcast(kCodes ? table + codes[i] : values + i), inputs);
  }
};

// Four visits in step, so that the sums of one need not wait for each other. Their numbers of weights fall and are
// about the same. Returns where the next visit's weights are.
template <typename Vec, size_t kVectors, bool kCodes>
inline size_t four_visits(const RowWeights& weights, size_t at, const uint8_t* outputs, const uint8_t* counts,
                          const float* inputs, float* sums) {
  constexpr size_t kStrip = Vec::kSize * kVectors;
  const Visit<kCodes> first(weights, at), second(weights, at += counts[0]);
  const Visit<kCodes> third(weights, at += counts[1]), fourth(weights, at += counts[2]);
  Vectors<Vec, kVectors> a, b, c, d;
  a.load(sums + outputs[0] * kStrip);
  b.load(sums + outputs[1] * kStrip);
  c.load(sums + outputs[2] * kStrip);
  d.load(sums + outputs[3] * kStrip);
  const size_t together = counts[3];
  for (size_t i = 0; i < together; ++i) {
    first.template add_one<kStrip>(i, inputs, a);
    second.template add_one<kStrip>(i, inputs, b);
    third.template add_one<kStrip>(i, inputs, c);
    fourth.template add_one<kStrip>(i, inputs, d);
  }
  first.template add<kStrip>(together, counts[0], inputs, a);
  second.template add<kStrip>(together, counts[1], inputs, b);
  third.template add<kStrip>(together, counts[2], inputs, c);
  a.store(sums + outputs[0] * kStrip);
  b.store(sums + outputs[1] * kStrip);
  c.store(sums + outputs[2] * kStrip);
  d.store(sums + outputs[3] * kStrip);
  return at + counts[3];
}

// Some chunks for up to Vec::kSize * kVectors rows: the inputs of a block are turned into a panel, so that a weight
// meets all rows at once.
template <typename Vec, size_t kVectors, bool kCodes>
void rows_strip(const RowWeights& weights, size_t first, size_t last, const float* x, size_t m, const Ends& ends,
                float* y) {
  constexpr size_t kStrip = Vec::kSize * kVectors;
  alignas(64) float panel[kColumnsInBlock * kStrip];
  alignas(64) float sums[kChunksAtOnce * kRowsInChunk * kStrip];
  const size_t blocks = (weights.k + kColumnsInBlock - 1) / kColumnsInBlock;
  const size_t from = first * kRowsInChunk;
  const size_t to = smaller(last * kRowsInChunk, weights.n);
  for (size_t o = from; o < to; ++o) {
    const float start = ends.bias != nullptr ? ends.bias[o] : 0.0F;
    for (size_t i = 0; i < kStrip; ++i) sums[(o - from) * kStrip + i] = start;
  }
  for (size_t block = 0; block < blocks; ++block) {
    const size_t column = block * kColumnsInBlock;
    const float* inputs = x + column;
    if (kStrip > 1) {  // one row is its own panel
      fill_panel<kStrip>(inputs, weights.k, m, smaller(kColumnsInBlock, weights.k - column), panel);
      inputs = panel;
    }
    for (size_t chunk = first; chunk < last; ++chunk) {
      const size_t chunk_from = chunk * kRowsInChunk;
      size_t at = weights.starts[chunk * blocks + block];
      const size_t visits = smaller(kRowsInChunk, to - chunk_from);
      const uint8_t* const outputs = weights.outputs + block * weights.n + chunk_from;
      const uint8_t* const counts = weights.counts + block * weights.n + chunk_from;
      float* const chunk_sums = sums + (chunk_from - from) * kStrip;
      size_t visit = 0;
      for (; visits - visit >= 4; visit += 4) {
        at = four_visits<Vec, kVectors, kCodes>(weights, at, outputs + visit, counts + visit, inputs, chunk_sums);
      }
      for (; visit < visits; at += counts[visit++]) {
        Vectors<Vec, kVectors> sum;
        sum.load(chunk_sums + outputs[visit] * kStrip);
        Visit<kCodes>(weights, at).template add<kStrip>(0, counts[visit], inputs, sum);
        sum.store(chunk_sums + outputs[visit] * kStrip);
      }
    }
  }
  for (size_t i = 0; i < m; ++i) {
    for (size_t o = from; o < to; ++o) y[i * weights.n + o] = bounded(sums[(o - from) * kStrip + i] + 0.0F, ends);
  }
}

template <typename Vec, size_t kVectors, bool kCodes>
void rows_of(const RowWeights& weights, size_t first, size_t last, const float* x, size_t m, const Ends& ends,
             float* y) {
  constexpr size_t kStrip = Vec::kSize * kVectors;
  for (; first < last; first += kChunksAtOnce) {
    const size_t end = smaller(last, first + kChunksAtOnce);
    size_t i = 0;
    for (; m - i >= kStrip; i += kStrip) {
      rows_strip<Vec, kVectors, kCodes>(weights, first, end, x + i * weights.k, kStrip, ends, y + i * weights.n);
    }
    if (m - i >= 2) {
      const auto strip = m - i > Vec::kSize ? rows_strip<Vec, kVectors, kCodes> : rows_strip<Vec, 1, kCodes>;
      strip(weights, first, end, x + i * weights.k, m - i, ends, y + i * weights.n);
    } else if (m - i == 1) {
      rows_strip<Scalar, 1, kCodes>(weights, first, end, x + i * weights.k, 1, ends, y + i * weights.n);
    }
  }
}

template <typename Vec, size_t kVectors>
void rows_loop(const RowWeights& weights, size_t first, size_t last, const float* x, size_t m, const Ends& ends,
               float* y) {
  const auto loop = weights.codes != nullptr ? rows_of<Vec, kVectors, true> : rows_of<Vec, kVectors, false>;
  loop(weights, first, last, x, m, ends, y);
}

// Inputs of a row, of which a window may be read from any `at` that a layout has: rows shorter than one are copied.
template <typename T, size_t kSize, size_t kRows>
struct WideRows {
  T copies[kRows][kSize] = {};
  const T* row[kRows];

  WideRows(const T* x, size_t k) {
    for (size_t r = 0; r < kRows; ++r) {
      row[r] = x + r * k;
      if (k < kSize) {
        __builtin_memcpy(copies[r], row[r], k * sizeof *x);
        row[r] = copies[r];
      }
    }
  }
};

// Makes floats of a group's sums.
inline void finish_bytes(const ByteWeights& weights, size_t group, const int32_t* sums, const ByteRows& rows,
                         const Ends& ends, float* y) {
  const size_t at = group * kLanes;
  const size_t used = smaller(kLanes, weights.n - at);
  float lane[kLanes];
  for (size_t l = 0; l < kLanes; ++l) {
    const uint32_t shift = static_cast<uint32_t>(rows.zero) * static_cast<uint32_t>(weights.sums[at + l]);
    const auto sum = static_cast<int32_t>(static_cast<uint32_t>(sums[l]) - shift);
    lane[l] = static_cast<float>(sum) * (rows.step * weights.scales[at + l]);
  }
  for (size_t l = 0; l < used; ++l) {
    const uint32_t o = weights.outputs[at + l];
    y[o] = bounded(ends.bias != nullptr ? lane[l] + ends.bias[o] : lane[l], ends);
  }
}

// A weight after the other.
inline void bytes_loop(const ByteWeights& weights, size_t first, size_t last, const ByteRows& rows, const Ends& ends,
                       float* y) {
  const bool is_coded = weights.table != nullptr;
  for (size_t i = 0; i < rows.m; ++i) {
    const WideRows<uint8_t, kByteWindow, 1> wide(rows.x + i * weights.k, weights.k);
    for (size_t group = first; group < last; ++group) {
      uint32_t sums[kLanes] = {};
      const uint8_t* x = wide.row[0];
      const size_t round_bytes = kBytesOfSlots + (is_coded ? kBytesOfSlots / 2 : kBytesOfSlots);
      const uint8_t* numbers = weights.rounds + weights.starts[group] * round_bytes;
      for (size_t round = weights.starts[group]; round < weights.starts[group + 1]; ++round, numbers += round_bytes) {
        x += weights.advances[round];
        const uint8_t* const behind = numbers + kBytesOfSlots;
        for (size_t slot = 0; slot < kBytesOfSlots; ++slot) {
          const unsigned position = numbers[slot];
          const unsigned low = is_coded ? behind[slot / 2] >> (slot % 2 * 4) & 15U : behind[slot];
          const int8_t weight = is_coded ? weights.table[low | position >> 7U << 4U] : static_cast<int8_t>(low);
          sums[slot / kByteSlots] += static_cast<uint32_t>(weight * x[position & 127U]);
        }
      }
      int32_t finished[kLanes];
      __builtin_memcpy(finished, sums, sizeof sums);
      finish_bytes(weights, group, finished, rows, ends, y + i * weights.n);
    }
  }
}

// A tile of kVectors vectors. Blocks are the outer loop, so that the pixels of one stay in the first-level cache for
// all outputs of the chunk.
template <typename Vec, size_t kVectors, bool kCodes>
void conv_tile(const RowWeights& weights, size_t chunk, const ConvTile& tile, const Ends& ends, float* sums,
               size_t stride) {
  const float zero = 0.0F;
  const size_t blocks = (weights.k + kColumnsInBlock - 1) / kColumnsInBlock;
  const size_t from = chunk * kRowsInChunk;
  const size_t to = smaller(from + kRowsInChunk, weights.n);
  for (size_t block = 0; block < blocks; ++block) {
    const uint32_t* const offsets = tile.offsets + block * kColumnsInBlock;
    size_t at = weights.starts[chunk * blocks + block];
    for (size_t visit = from; visit < to; ++visit) {
      const size_t o = weights.outputs[block * weights.n + visit];
      const size_t count = weights.counts[block * weights.n + visit];
      if (count == 0 && block > 0 && block + 1 < blocks) continue;  // in grouped convolutions most are
      const Visit<kCodes> visited(weights, at);
      Vectors<Vec, kVectors> sum;
      if (block > 0) {
        sum.load(sums + o * stride);
      } else {
        sum.broadcast(ends.bias != nullptr ? ends.bias + from + o : &zero);
      }
      for (size_t w = 0; w < count; ++w) visited.add_at(w, tile.planes + offsets[visited.positions[w]], sum);
      if (block + 1 == blocks) sum.finish(Vec::broadcast(&ends.low), Vec::broadcast(&ends.high));
      sum.store(sums + o * stride);
      at += count;
    }
  }
}

// Calls the kernel for the tile's size, of at most kLines lines.
template <typename Vec, size_t kLines>
void conv_of(const RowWeights& weights, size_t chunk, const ConvTile& tile, const Ends& ends, float* sums,
             size_t stride) {
  if constexpr (kLines > 1) {
    if (tile.lines < kLines) return conv_of<Vec, kLines - 1>(weights, chunk, tile, ends, sums, stride);
  }
  constexpr size_t kVectors = kLines * (kLine / Vec::kSize);
  const auto run = weights.codes != nullptr ? conv_tile<Vec, kVectors, true> : conv_tile<Vec, kVectors, false>;
  run(weights, chunk, tile, ends, sums, stride);
}

template <size_t kStep>
inline void copy_every(const float* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) to[i] = from[i * kStep];
}

template <typename Vec>
void plane_rows(const PlaneRows& rows, float* plane) {
  for (size_t r = 0; r < rows.rows; ++r) {
    const float* const pixels = rows.pixels + r * rows.width;
    const size_t at = r * rows.pitch;
    const bool is_roomy = at + (rows.pitch + Vec::kSize - 1) / Vec::kSize * Vec::kSize <= rows.room;
    if (rows.step == 1 && is_roomy) {  // a vector reaches into the next row, which is written afterwards
      for (size_t p = 0; p < rows.pitch; p += Vec::kSize) {
        const size_t first = smaller(rows.from > p ? rows.from - p : 0, Vec::kSize);
        const size_t last = smaller(rows.to > p ? rows.to - p : 0, Vec::kSize);
        Vec::load_some(pixels, p - rows.from, first, last).store(plane + at + p);
      }
    } else {
      for (size_t p = 0; p < rows.from; ++p) plane[at + p] = 0.0F;
      const size_t count = rows.to - rows.from;
      if (rows.step == 2) {  // known to the compiler, which makes shuffles of it
        copy_every<2>(pixels, count, plane + at + rows.from);
      } else {
        for (size_t p = 0; p < count; ++p) plane[at + rows.from + p] = pixels[p * rows.step];
      }
      for (size_t p = rows.to; p < rows.pitch; ++p) plane[at + p] = 0.0F;
    }
  }
}

}  // namespace
}  // namespace dcc
#endif  // DCC_SPARSE_LOOPS_H_
