// column_layouts.h: which columns lie near each other, as far as the dims tell.
#ifndef DCC_COLUMN_LAYOUTS_H_
#define DCC_COLUMN_LAYOUTS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dcc {

// Columns come in groups, and columns `stride` apart in a group are neighbours as well; 0 for none.
struct ColumnLayout {
  uint64_t group, stride;
};

// The kernel of a convolution; images of any square size that a fully-connected layer may have for inputs.
inline std::vector<ColumnLayout> column_layouts(unsigned rank, const uint64_t* dims, uint64_t columns) {
  constexpr uint64_t kMostSide = 64;  // of an image, in pixels
  std::vector<ColumnLayout> layouts;
  const auto add = [&](uint64_t group, uint64_t stride) {
    layouts.push_back({std::min(group, columns), stride < 2 || stride > columns ? 0 : stride});
  };
  uint64_t kernel = 1;
  for (unsigned i = 2; i < rank; ++i) kernel *= dims[i];
  if (kernel > 1) {
    add(kernel, dims[rank - 1]);
    return layouts;
  }
  add(columns, 0);
  for (uint64_t side = 2; side <= kMostSide && side * side <= columns; ++side) {
    if (columns % (side * side) == 0) add(side * side, side);
  }
  return layouts;
}

}  // namespace dcc
#endif  // DCC_COLUMN_LAYOUTS_H_
