// sparse_conv.cpp: sparse_conv.h.
#include "kernels/sparse_conv.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/failure.h"
#include "kernels/isa.h"
#include "kernels/kernels.h"

namespace dcc {
namespace {

// Sizes are far below 2^64 one by one; their products need not be.
size_t product(size_t a, size_t b) {
  size_t c = 0;
  require_argument(!__builtin_mul_overflow(a, b, &c), "the convolution's sizes are those of no array");
  return c;
}

size_t sum(size_t a, size_t b) {
  size_t c = 0;
  require_argument(!__builtin_add_overflow(a, b, &c), "the convolution's sizes are those of no array");
  return c;
}

size_t divided_up(size_t a, size_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// Number of positions of a kernel of `size` along an axis.
size_t positions(size_t length, size_t before, size_t after, size_t size, size_t dilation, size_t stride) {
  const size_t padded = sum(sum(length, before), after);
  const size_t extent = sum(product(size - 1, dilation), 1);
  require_argument(extent <= padded, "the convolution's kernel is larger than the padded image");
  return (padded - extent) / stride + 1;
}

// Copies `count` sums from pixel `first` on, in rows of the pitch, to rows of the output's width.
void copy_pixels(const ConvPlan& plan, size_t first, const float* sums, size_t count, float* out) {
  size_t row = first / plan.pitch;
  size_t column = first % plan.pitch;
  for (size_t p = 0; p < count && row < plan.out_height; ++row, column = 0) {
    const size_t here = std::min(plan.pitch - column, count - p);
    const size_t used = column < plan.out_width ? std::min(here, plan.out_width - column) : 0;
    for (size_t i = 0; i < used; ++i) out[row * plan.out_width + column + i] = sums[p + i];
    p += here;
  }
}

struct Range {
  size_t from, to;
};

// Which of `count` outputs meet pixels of an axis: p * stride + shift - before is in 0 to length - 1.
Range meeting(size_t count, size_t stride, size_t shift, size_t before, size_t length) {
  const size_t from = before > shift ? divided_up(before - shift, stride) : 0;
  const size_t to = length + before > shift ? divided_up(length + before - shift, stride) : 0;
  return {std::min(from, count), std::max(std::min(from, count), std::min(to, count))};
}

// Rows stand at powers of two up to a cache line, and at whole lines from there on.
size_t pitch_for(size_t width) {
  size_t pitch = 1;
  while (pitch < width && pitch < kLine) pitch *= 2;
  return width <= kLine ? pitch : product(divided_up(width, kLine), kLine);
}

// Makes inputs of a group inputs of the whole: the matrix of a grouped convolution is zero but for a block each.
void spread_groups(KeptWeights& kept, size_t groups) {
  const size_t outputs = kept.n / groups;
  for (size_t o = outputs; o < kept.n; ++o) {  // those of the first group stay
    const auto from = static_cast<uint32_t>(o / outputs * kept.k);
    for (size_t i = kept.starts[o]; i < kept.starts[o + 1]; ++i) kept.inputs[i] += from;
  }
  kept.k *= groups;
}

}  // namespace

SparseConv::SparseConv(const float* dense, const ConvAttributes& attributes, int threads)
    : kernels_(kernels().sparse), attributes_(attributes) {
  const ConvAttributes& a = attributes_;
  require_argument(a.channels > 0, "the convolution has no input channels");
  require_argument(a.groups > 0 && a.channels % a.groups == 0 && a.outputs % a.groups == 0,
                   "the convolution's channels or outputs are no multiple of its groups");
  require_argument(a.kernel[0] > 0 && a.kernel[1] > 0 && a.strides[0] > 0 && a.strides[1] > 0 && a.dilations[0] > 0 &&
                       a.dilations[1] > 0,
                   "the convolution has a kernel, stride or dilation of 0");
  const size_t inputs = product(a.channels, product(a.kernel[0], a.kernel[1]));
  require_argument(inputs <= std::numeric_limits<uint32_t>::max(), "the convolution has more than 2^32 inputs");
  KeptWeights kept = kept_weights(dense, inputs / a.groups, a.outputs, true, threads);
  if (a.groups > 1) spread_groups(kept, a.groups);
  kept_ = kept.values.size();
  weights_ = RowLayout(kept, threads);
}

void SparseConv::out_shape(size_t height, size_t width, size_t shape[2]) const {
  const ConvAttributes& a = attributes_;
  shape[0] = positions(height, a.pads[0], a.pads[2], a.kernel[0], a.dilations[0], a.strides[0]);
  shape[1] = positions(width, a.pads[1], a.pads[3], a.kernel[1], a.dilations[1], a.strides[1]);
}

ConvPlan SparseConv::plan(size_t height, size_t width) const {
  const ConvAttributes& a = attributes_;
  size_t shape[2];
  out_shape(height, width, shape);
  ConvPlan plan;
  plan.height = height;
  plan.width = width;
  plan.out_height = shape[0];
  plan.out_width = shape[1];
  const bool is_whole = a.kernel[0] == 1 && a.kernel[1] == 1 && plan.out_height == height && plan.out_width == width;
  if (is_whole) {  // 1x1, stride 1, no padding: rows need not be apart
    plan.width = plan.out_width = product(height, width);
    plan.height = plan.out_height = 1;
  }
  plan.pitch = pitch_for(plan.out_width);
  plan.lines = divided_up(product(plan.out_height, plan.pitch), kLine);
  const size_t furthest = product(a.kernel[0] - 1, a.dilations[0]);
  plan.phases = std::min(a.strides[0] / std::gcd(a.strides[0], a.dilations[0]), a.kernel[0]);
  plan.plane_rows = plan.out_height + furthest / a.strides[0];
  // An odd number of lines, so that planes fall into different sets of the caches
  plan.plane = product(
      divided_up(sum(product(plan.lines, kLine), product(furthest / a.strides[0], plan.pitch)), kLine) | 1, kLine);
  const size_t planes = product(product(a.channels, plan.phases), a.kernel[1]);
  const size_t floats = product(planes, plan.plane);
  require_argument(floats <= std::numeric_limits<uint32_t>::max(), "the convolution's image has more than 2^32 pixels");
  const size_t inputs = a.channels * a.kernel[0] * a.kernel[1];
  plan.scratch_bytes = sum(product(floats, sizeof(float)), product(inputs, sizeof(uint32_t)));
  const size_t tiles = divided_up(plan.lines, kernels_->tile_lines);
  plan.tile_lines = divided_up(plan.lines, tiles);
  plan.prepare_tasks = a.channels;
  plan.tasks = product(divided_up(plan.lines, plan.tile_lines), divided_up(a.outputs, kRowsInChunk));
  return plan;
}

// plane[r, p] = the pixel that column `column` of kernel row `phase` meets for column p of output row r. Further kernel
// rows of the phase meet the same some rows later.
void SparseConv::fill_plane(const ConvPlan& plan, const float* image, size_t phase, size_t column, float* plane) const {
  const ConvAttributes& a = attributes_;
  const size_t right = column * a.dilations[1];
  const size_t down = phase * a.dilations[0] % a.strides[0];
  // Plane rows and columns that meet pixels; those before and behind meet padding.
  const Range rows = meeting(plan.plane_rows, a.strides[0], down, a.pads[0], plan.height);
  const Range columns = meeting(plan.out_width, a.strides[1], right, a.pads[1], plan.width);
  PlaneRows copied;
  copied.rows = columns.from < columns.to ? rows.to - rows.from : 0;
  const size_t first = copied.rows > 0 ? rows.from : 0;
  const size_t last = first + copied.rows;
  std::fill_n(plane, first * plan.pitch, 0.0F);
  if (copied.rows > 0) {
    const size_t top = first * a.strides[0] + down - a.pads[0];
    copied.pixels = image + top * plan.width + (columns.from * a.strides[1] + right - a.pads[1]);
    copied.width = a.strides[0] * plan.width;
    copied.step = a.strides[1];
    copied.pitch = plan.pitch;
    copied.from = columns.from;
    copied.to = columns.to;
    copied.room = plan.plane - first * plan.pitch;
    kernels_->plane(copied, plane + first * plan.pitch);
  }
  std::fill(plane + last * plan.pitch, plane + plan.plane, 0.0F);
}

void SparseConv::prepare(const ConvPlan& plan, size_t task, const float* x, void* scratch) const {
  const ConvAttributes& a = attributes_;
  const size_t channel = task;
  float* const planes = static_cast<float*>(scratch);
  const size_t in_channel = plan.phases * a.kernel[1];
  auto* const offsets = reinterpret_cast<uint32_t*>(planes + a.channels * in_channel * plan.plane);
  const auto plane_of = [&](size_t phase, size_t column) {
    return (channel * in_channel + phase * a.kernel[1] + column) * plan.plane;
  };
  uint32_t* offset = offsets + channel * a.kernel[0] * a.kernel[1];
  for (size_t row = 0; row < a.kernel[0]; ++row) {
    const size_t down = row * a.dilations[0] / a.strides[0];
    for (size_t column = 0; column < a.kernel[1]; ++column) {
      *offset++ = static_cast<uint32_t>(plane_of(row % plan.phases, column) + down * plan.pitch);
    }
  }
  for (size_t phase = 0; phase < plan.phases; ++phase) {
    for (size_t column = 0; column < a.kernel[1]; ++column) {
      fill_plane(plan, x + channel * plan.height * plan.width, phase, column, planes + plane_of(phase, column));
    }
  }
}

void SparseConv::run(const ConvPlan& plan, size_t task, const void* scratch, const float* bias, float* y,
                     const Bounds& bounds) const {
  const Ends ends{bias, bounds.low, bounds.high};
  const ConvAttributes& a = attributes_;
  const size_t tiles = divided_up(plan.lines, plan.tile_lines);
  const size_t chunk = task / tiles;
  const size_t line = task % tiles * plan.tile_lines;
  const float* const planes = static_cast<const float*>(scratch);
  ConvTile tile;
  tile.planes = planes + line * kLine;
  tile.offsets = reinterpret_cast<const uint32_t*>(planes + a.channels * plan.phases * a.kernel[1] * plan.plane);
  tile.lines = std::min(plan.tile_lines, plan.lines - line);
  const size_t image = plan.out_height * plan.out_width;
  const size_t pixels = tile.lines * kLine;
  float* const out = y + chunk * kRowsInChunk * image;
  const bool is_packed = plan.pitch == plan.out_width || plan.out_height == 1;
  if (is_packed && (line * kLine + pixels) <= image)
    return kernels_->conv(weights_.view(), chunk, tile, ends, out + line * kLine, image);

  alignas(64) float sums[kRowsInChunk * kMostTileLines * kLine];
  kernels_->conv(weights_.view(), chunk, tile, ends, sums, pixels);
  const size_t outputs = std::min(kRowsInChunk, a.outputs - chunk * kRowsInChunk);
  for (size_t o = 0; o < outputs; ++o) copy_pixels(plan, line * kLine, sums + o * pixels, pixels, out + o * image);
}

}  // namespace dcc
