// sparse_layouts.h: owners of the layouts that sparse kernels read (sparse_kernels.h).
#ifndef DCC_SPARSE_LAYOUTS_H_
#define DCC_SPARSE_LAYOUTS_H_

#include <limits>
#include <vector>

#include "base/large_array.h"
#include "kernels/kept_weights.h"
#include "kernels/sparse_kernels.h"

namespace dcc {

// What outputs are brought into at last, NaN excepted: Relu and Clip of ONNX.
struct Bounds {
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
};

// 2 bytes a weight if there are at most 256 different ones, otherwise 5; and 2 for every visit.
class RowLayout {
 public:
  RowLayout() = default;
  explicit RowLayout(const KeptWeights& kept, int threads = 1);
  RowWeights view() const;
  size_t bytes() const;

 private:
  void add_chunk(const KeptWeights& kept, const Codes& codes, size_t chunk);

  size_t k_ = 0, n_ = 0;
  LargeArray<size_t> starts_;
  LargeArray<uint8_t> counts_, outputs_, positions_, codes_;
  LargeArray<float> table_, values_;
};

// 4/3 byte for every slot of a lane if there are at most 31 different weights, otherwise 4/5 and 4 a weight. There are
// 1.2 (30 % kept) to 2.3 (5 %) slots a weight.
class LaneLayout {
 public:
  LaneLayout() = default;
  explicit LaneLayout(const KeptWeights& kept, int threads = 1);
  LaneWeights view() const;
  size_t bytes() const;
  bool is_coded() const { return !table_.empty(); }

 private:
  void add_group(const KeptWeights& kept, const Codes& codes, const uint32_t* outputs, size_t used);

  size_t k_ = 0, n_ = 0;
  LargeArray<uint32_t> outputs_, words_;
  LargeArray<size_t> starts_, value_starts_;
  LargeArray<uint16_t> advances_, positions_, masks_;
  LargeArray<float> table_, values_;
};

// 3/2 byte for every slot of a lane if there are at most 31 different weights, otherwise 2. There are 1.03 (30 % kept)
// to 1.3 (5 %) slots a weight.
class ByteLayout {
 public:
  ByteLayout() = default;
  // Values of `kept` are whole numbers from -128 to 127; `scales` [n] is what they are multiples of.
  ByteLayout(const KeptWeights& kept, const float* scales, int threads = 1);
  ByteWeights view() const;
  size_t bytes() const;

 private:
  void add_group(const KeptWeights& kept, const Codes& codes, const uint32_t* outputs, size_t used);

  size_t k_ = 0, n_ = 0;
  LargeArray<uint32_t> outputs_;
  LargeArray<size_t> starts_;
  LargeArray<uint16_t> advances_;
  LargeArray<uint8_t> rounds_;
  LargeArray<int8_t> table_;
  LargeArray<int32_t> sums_;
  LargeArray<float> scales_;
};

}  // namespace dcc
#endif  // DCC_SPARSE_LAYOUTS_H_
