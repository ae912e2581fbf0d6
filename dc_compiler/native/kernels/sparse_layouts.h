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
  void add_groups(const KeptWeights& kept, const Codes& codes, const uint32_t* outputs, size_t count);
  template <typename T>
  void join(const std::vector<LaneLayout>& parts, LargeArray<T> LaneLayout::* array);
  void add_group(const KeptWeights& kept, const Codes& codes, const uint32_t* outputs, size_t used);
  void add_round(const KeptWeights& kept, const Codes& codes, size_t at, size_t* next, const size_t* ends);

  size_t k_ = 0, n_ = 0;
  LargeArray<uint32_t> outputs_, words_;
  LargeArray<size_t> starts_, value_starts_;
  LargeArray<uint16_t> advances_, positions_, masks_;
  LargeArray<float> table_, values_;
};

}  // namespace dcc
#endif  // DCC_SPARSE_LAYOUTS_H_
