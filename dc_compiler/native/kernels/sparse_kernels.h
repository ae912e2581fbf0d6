// sparse_kernels.h: the inner loops of layers that run from their kept weights, once per instruction set.
//
// Every set gives the same bits. Of floats: an output starts from +0.0 or its bias and adds its kept products in
// ascending order of the input index, with one fused multiply-add each, and at last +0.0, so that no output is -0.0:
// whether a kernel also adds zeros in between makes no difference. Which NaN comes out of several is not defined.
#ifndef DCC_SPARSE_KERNELS_H_
#define DCC_SPARSE_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace dcc {

// Layout `rows` of a matrix of k inputs and n outputs. Outputs are cut into chunks of kRowsInChunk, inputs into blocks
// of kColumnsInBlock. A visit is an output of a chunk in a block. Weights are ordered by chunk, block, visit, input;
// the visits of a chunk in a block by their number of weights, so that processors foresee where their loops end.
constexpr size_t kRowsInChunk = 64;
constexpr size_t kColumnsInBlock = 128;
struct RowWeights {
  size_t k = 0, n = 0;
  const size_t* starts = nullptr;      // [chunk][block]: its first weight
  const uint8_t* counts = nullptr;     // [block][visit]: number of weights
  const uint8_t* outputs = nullptr;    // [block][visit]: which output of the chunk
  const uint8_t* positions = nullptr;  // of a weight: its input within the block
  const uint8_t* codes = nullptr;      // of a weight: where `table` has its value; null: `values` holds it
  const float* table = nullptr;
  const float* values = nullptr;
};

// Layout `lanes` of the same matrix. Outputs stand in groups of kLanes, those of about equally many weights together,
// and a group is a list of rounds. A round looks at the kWindow inputs from `at` (the sum of `advances` so far) and has
// kSteps steps, each of at most one weight for every lane.
constexpr size_t kLanes = 16;
constexpr size_t kWindow = 32;
constexpr size_t kSteps = 3;
struct LaneWeights {
  size_t k = 0, n = 0;
  const uint32_t* outputs = nullptr;   // [group][lane]: which output it is; behind the last group's outputs, anything
  const size_t* starts = nullptr;      // [group + 1]: its first round
  const uint16_t* advances = nullptr;  // [round]
  // Up to 31 different values: [round][lane], for each step 5 bits for the input within the window, then 5 bits for
  // where `table` (of 32) has the value. table[0] is 0: there is no weight.
  const uint32_t* words = nullptr;
  const float* table = nullptr;
  // More: [round][lane], for each step 5 bits for the input; [round][step], the lanes with a weight; and the weights in
  // the order of round, step, lane, those of a group from value_starts[group].
  const uint16_t* positions = nullptr;
  const uint16_t* masks = nullptr;
  const size_t* value_starts = nullptr;
  const float* values = nullptr;
};

// Layout `bytes` of a matrix of int8, for inputs of uint8. As `lanes`, but a round looks at kByteWindow inputs and has
// at most kByteSlots weights for every lane; those left over are 0.
constexpr size_t kByteWindow = 128;
constexpr size_t kByteSlots = 4;
constexpr size_t kBytesOfSlots = kLanes * kByteSlots;  // of a round, one each
struct ByteWeights {
  size_t k = 0, n = 0;
  const uint32_t* outputs = nullptr;   // [group][lane]
  const size_t* starts = nullptr;      // [group + 1]: its first round
  const uint16_t* advances = nullptr;  // [round]
  // Of each round: [lane][slot] the input within the window, 7 bits in a byte; behind these [lane][slot] the weight.
  // With up to 31 different ones where `table` (of 32, and once more) has it: bit 4 stands above the input's bits, bits
  // 0 to 3 behind, two slots a byte, the first below. table[0] is 0: there is no weight.
  const uint8_t* rounds = nullptr;
  const int8_t* table = nullptr;  // null: the weights themselves
  const int32_t* sums = nullptr;  // [group][lane]: of an output's weights
  const float* scales = nullptr;  // [group][lane]: what they are multiples of
};

// Rows of uint8: x[i] stands for (x[i] - zero) * step.
struct ByteRows {
  const uint8_t* x = nullptr;  // [m, k]
  size_t m = 0;
  int32_t zero = 0;
  float step = 1;
};

// Part of the planes that a convolution's input is copied to (sparse_conv.h): the pixels that input i (channel, kernel
// row, kernel column) meets are planes[offsets[i]] and those that follow.
constexpr size_t kLine = 16;  // floats of a cache line
constexpr size_t kMostTileLines = 14;
struct ConvTile {
  const float* planes = nullptr;
  const uint32_t* offsets = nullptr;
  size_t lines = 0;  // of pixels, 1 to SparseKernels::tile_lines
};

// Rows of a plane: row r is `pitch` floats, of which those from `from` to `to` - 1 are pixels[r * width], and so on at
// `step` floats from each other, and the others 0. Floats behind the last row up to `room` are anything.
struct PlaneRows {
  const float* pixels = nullptr;
  size_t rows = 0, width = 0, step = 1;
  size_t pitch = 0, from = 0, to = 0, room = 0;
};

// What is done to outputs beside their sums: where they start, and the bounds that they are brought into at last, NaN
// excepted (ONNX Relu: 0 and infinity).
struct Ends {
  const float* bias = nullptr;  // null: 0
  float low = -__builtin_inff();
  float high = __builtin_inff();
};

struct SparseKernels {
  // Writes those of `count` weights that are not zero, and their indices; returns how many. There is room for `count`
  // and kLine more.
  size_t (*keep)(const float* weights, size_t count, uint32_t* inputs, float* values);

  // y[i, o] = sum over c of x[i, c] * W[c, o] for `m` rows i and the outputs o of chunks `first` to `last` - 1. x is
  // [m, k], y is [m, n].
  void (*rows)(const RowWeights& weights, size_t first, size_t last, const float* x, size_t m, const Ends& ends,
               float* y);
  // The same for groups; null where the set has no instructions that make it worth while.
  void (*lanes)(const LaneWeights& weights, size_t first, size_t last, const float* x, size_t m, const Ends& ends,
                float* y);

  // For groups of int8 weights y[i, o] = float(sum over c of (x[i, c] - zero) * W[c, o]) * (step * scale of o) + bias,
  // each rounded; sums are exact, modulo 2^32. The same bits on every instruction set.
  void (*bytes)(const ByteWeights& weights, size_t first, size_t last, const ByteRows& rows, const Ends& ends,
                float* y);

  // sums[o, p] = sum over inputs i of W[i, o] * (pixel p that i meets) for the outputs o of a chunk, `stride` floats
  // apart from each other, and the tile's pixels.
  void (*conv)(const RowWeights& weights, size_t chunk, const ConvTile& tile, const Ends& ends, float* sums,
               size_t stride);
  void (*plane)(const PlaneRows& rows, float* plane);
  size_t tile_lines;  // at most kMostTileLines
};

extern const SparseKernels kPortableSparse;
#if defined(__x86_64__)
extern const SparseKernels kAvx2Sparse;
extern const SparseKernels kAvx512Sparse;
#endif

}  // namespace dcc
#endif  // DCC_SPARSE_KERNELS_H_
