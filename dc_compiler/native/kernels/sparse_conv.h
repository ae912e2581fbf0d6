// sparse_conv.h: a 2-D convolution whose kernel is kept as its weights that are not zero.
#ifndef DCC_SPARSE_CONV_H_
#define DCC_SPARSE_CONV_H_

#include "kernels/sparse_layouts.h"

namespace dcc {

// ONNX Conv over [N, C, H, W], kernel [M, C / groups, kh, kw].
struct ConvAttributes {
  size_t outputs = 0, channels = 0;  // M, C
  size_t groups = 1;
  size_t kernel[2] = {1, 1};  // rows, columns
  size_t strides[2] = {1, 1}, dilations[2] = {1, 1};
  size_t pads[4] = {};  // top, left, bottom, right
};

// Where the pixels of one image go for one size of it. The image is copied to planes, one for each channel, kernel
// column and phase, in which the pixels that a kernel column meets for an output row stand side by side, in rows of
// `pitch` floats: so all pixels that a weight meets follow each other. Kernel rows whose distance is a multiple of the
// stride meet the same rows of pixels and share a phase.
struct ConvPlan {
  size_t height = 0, width = 0;  // of the image
  size_t out_height = 0, out_width = 0;
  size_t pitch = 0;
  size_t lines = 0;                  // of pixels of the output, in rows of `pitch`
  size_t plane_rows = 0, plane = 0;  // rows, and floats from plane to plane
  size_t phases = 0;
  size_t tile_lines = 0;  // of a task
  size_t scratch_bytes = 0;
  size_t prepare_tasks = 0, tasks = 0;
};

// Every output starts from its bias, or +0.0, adds its kept products by ascending channel, kernel row, kernel column
// with one fused multiply-add each, and at last +0.0: the same bits on every instruction set (but for which NaN it is),
// in the default floating-point environment. The padding is zeros, which kept weights do multiply.
class SparseConv {
 public:
  // `dense` is [M, C / groups, kh, kw]. Throws Failure for attributes that are 0 or too large, and for groups that
  // channels or outputs cannot be shared out among.
  SparseConv(const float* dense, const ConvAttributes& attributes, int threads = 1);

  const ConvAttributes& attributes() const { return attributes_; }
  size_t kept() const { return kept_; }
  size_t bytes() const { return weights_.bytes(); }

  // Rows and columns of the output. Throws Failure when the kernel does not fit in the padded image.
  void out_shape(size_t height, size_t width, size_t shape[2]) const;

  // Throws Failure also when sizes are those of no array.
  ConvPlan plan(size_t height, size_t width) const;

  // For each image: all prepare() of the plan, which copy x [C, H, W] to `scratch`, of scratch_bytes and aligned to 64;
  // then all run(), which write y [M, OH, OW]. Within each the tasks may run in any order and at the same time. `bias`
  // is [M] or null.
  void prepare(const ConvPlan& plan, size_t task, const float* x, void* scratch) const;
  void run(const ConvPlan& plan, size_t task, const void* scratch, const float* bias, float* y,
           const Bounds& bounds = {}) const;

 private:
  void fill_plane(const ConvPlan& plan, const float* image, size_t phase, size_t column, float* plane) const;

  const SparseKernels* kernels_;
  ConvAttributes attributes_;
  size_t kept_ = 0;
  RowLayout weights_;
};

}  // namespace dcc
#endif  // DCC_SPARSE_CONV_H_
