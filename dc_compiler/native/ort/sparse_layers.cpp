// sparse_layers.cpp: MatMul, Gemm, Conv and MatMulInteger of the domain "dcc.run", which multiply by what a frame keeps
// (FORMAT.md 9.2). Their inputs and attributes are in run_nodes.h.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>

#include "frame/codec.h"
#include "kernels/sparse_conv.h"
#include "kernels/sparse_int8.h"
#include "kernels/sparse_matmul.h"
#include "ort/mapped_bytes.h"
#include "ort/payload_frame.h"
#include "ort/registration.h"

namespace dcc::ort {
namespace {

// The weight of a node as a dense tensor, for as long as it takes to keep what is not zero.
struct DenseWeight {
  std::vector<size_t> dims;
  MappedBytes bytes;
  const float* values() const { return reinterpret_cast<const float*>(bytes.get()); }
};

// The frame of the weight, of floats along so many axes.
StoredFrame read_weight(const Context& context, const OrtKernelInfo* info, size_t rank, const std::string& what) {
  StoredFrame frame = read_payload(context, info, 1, what);
  if (frame.type.element != kElementFloat || frame.type.dims.size() != rank)
    refuse(what + ": the weight has " + type_text(frame.type) + ", where " + std::to_string(rank) +
           " axes of floats belong");
  context.budget->spend(frame.decoded_bytes, what);
  return frame;
}

DenseWeight decode_weight(const Context& context, const OrtKernelInfo* info, size_t rank) {
  const std::string what = node_text(context.owner.api, info);
  const StoredFrame frame = read_weight(context, info, rank, what);
  DenseWeight weight{{}, map_bytes(frame.decoded_bytes)};
  for (const int64_t extent : frame.type.dims) weight.dims.push_back(static_cast<size_t>(extent));
  const DecodeJob job{frame.bytes.data, frame.bytes.size, weight.bytes.get(), frame.decoded_bytes};
  decode_frame(job, context.settings.threads, what);
  return weight;
}

// An attribute of the node; what is given here where it has none.
int64_t integer_attribute(const Api& api, const OrtKernelInfo* info, const char* name, int64_t otherwise) {
  int64_t value = 0;
  OrtStatus* status = api.KernelInfoGetAttribute_int64(info, name, &value);
  if (!status) return value;
  api.ReleaseStatus(status);
  return otherwise;
}

template <size_t kCount>
void integers_attribute(const Api& api, const OrtKernelInfo* info, const char* name, size_t (&values)[kCount]) {
  size_t count = 0;
  OrtStatus* missing = api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &count);
  if (missing) {
    api.ReleaseStatus(missing);
    return;
  }
  int64_t found[kCount] = {};
  if (count == kCount) check(api, api.KernelInfoGetAttributeArray_int64(info, name, found, &count));
  if (count != kCount || std::any_of(found, found + kCount, [](int64_t v) { return v < 0; }))
    refuse(node_text(api, info) + ": attribute " + name + " is not " + std::to_string(kCount) + " sizes");
  std::copy(found, found + kCount, values);
}

float float_attribute(const Api& api, const OrtKernelInfo* info, const char* name, float otherwise) {
  float value = 0;
  OrtStatus* status = api.KernelInfoGetAttribute_float(info, name, &value);
  if (!status) return value;
  api.ReleaseStatus(status);
  return otherwise;
}

template <typename T>
struct Input {
  std::vector<size_t> dims;
  const T* values = nullptr;  // null where the input is left out
};

// The only element of an input; `otherwise` where it is left out.
template <typename T>
T scalar_input(const Api& api, OrtKernelContext* context, size_t index, size_t count, ElementType type, T otherwise) {
  if (index >= count) return otherwise;
  const OrtValue* value = nullptr;
  check(api, api.KernelContext_GetInput(context, index, &value));
  if (!value) return otherwise;
  const TensorType given = type_of(api, value);
  const bool is_one = std::all_of(given.dims.begin(), given.dims.end(), [](int64_t extent) { return extent == 1; });
  if (given.element != type || !is_one) refuse("input " + std::to_string(index) + " is not one number");
  T number;
  std::memcpy(&number, data_of(api, value), sizeof number);
  return number;
}

template <typename T>
Input<T> tensor_input(const Api& api, OrtKernelContext* context, size_t index, size_t count) {
  if (index >= count) return {};
  const OrtValue* value = nullptr;
  check(api, api.KernelContext_GetInput(context, index, &value));
  if (!value) return {};
  const TensorType type = type_of(api, value);
  constexpr ElementType kElement = std::is_same_v<T, float> ? kElementFloat : kElementUint8;
  if (type.element != kElement) refuse("an input is no " + std::string(element_name(kElement)) + " tensor");
  Input<T> input{{}, reinterpret_cast<const T*>(data_of(api, value))};
  for (const int64_t extent : type.dims) input.dims.push_back(static_cast<size_t>(extent));
  return input;
}

float* float_output(const Api& api, OrtKernelContext* context, const std::vector<size_t>& dims) {
  const std::vector<int64_t> extents(dims.begin(), dims.end());
  OrtValue* output = nullptr;
  check(api, api.KernelContext_GetOutput(context, 0, extents.data(), extents.size(), &output));
  return output ? reinterpret_cast<float*>(data_of(api, output)) : nullptr;
}

size_t product(const std::vector<size_t>& dims, size_t first = 0) {
  size_t size = 1;
  for (size_t i = first; i < dims.size(); ++i)
    if (__builtin_mul_overflow(size, dims[i], &size)) refuse("a tensor has an impossible shape");
  return size;
}

// Refuses a bias that is not one number for each output.
void check_bias(const Input<float>& bias, size_t outputs) {
  if (bias.values && product(bias.dims) != outputs)
    refuse("the bias has " + std::to_string(product(bias.dims)) + " elements, not " + std::to_string(outputs));
}

// Does all tasks on the threads of onnxruntime, where it lends them.
template <class Task>
void run_tasks(const Api& api, const OrtKernelContext* context, size_t count, Task task) {
  const auto body = [](void* data, size_t index) { (*static_cast<Task*>(data))(index); };
  if (!api.KernelContext_ParallelFor || count < 2) {
    for (size_t i = 0; i < count; ++i) task(i);
    return;
  }
  check(api, api.KernelContext_ParallelFor(context, body, count, 0, &task));
}

// What outputs are brought into: given by attributes, and by inputs in the place of these.
class GivenBounds {
 public:
  GivenBounds(const Api& api, const OrtKernelInfo* info, size_t first_input)
      : given_{float_attribute(api, info, "min", Bounds().low), float_attribute(api, info, "max", Bounds().high)},
        first_(first_input) {}

  Bounds of_run(const Api& api, OrtKernelContext* context, size_t inputs) const {
    return {scalar_input(api, context, first_, inputs, kElementFloat, given_.low),
            scalar_input(api, context, first_ + 1, inputs, kElementFloat, given_.high)};
  }

 private:
  Bounds given_;
  size_t first_;
};

constexpr size_t kFloatInputs = 3, kInt8Inputs = 5;  // before the bounds

SparseMatMul matrix_of(const Context& context, const OrtKernelInfo* info, bool transposed) {
  const DenseWeight weight = decode_weight(context, info, 2);
  const size_t k = weight.dims[transposed ? 1 : 0], n = weight.dims[transposed ? 0 : 1];
  const int threads = context.settings.threads;
  return SparseMatMul(kept_weights(weight.values(), k, n, transposed, threads), 0, threads);
}

// Where the product of x [..., k] and a weight [k, n] goes, and of how many rows it is.
struct Product {
  float* y;  // null where nothing is to be written
  size_t m;
};

template <class T>
Product product_of(const Api& api, OrtKernelContext* context, const Input<T>& x, const Input<float>& bias, size_t k,
                   size_t n) {
  if (x.dims.empty() || x.dims.back() != k) refuse("an input does not fit a weight of " + std::to_string(k) + " rows");
  check_bias(bias, n);
  std::vector<size_t> dims = x.dims;
  dims.back() = n;
  float* y = float_output(api, context, dims);
  dims.pop_back();
  const size_t m = product(dims);
  return {m && n ? y : nullptr, m};
}

class SparseProduct {
 public:
  SparseProduct(const Context& context, const OrtKernelInfo* info, bool transposed)
      : api_(context.owner.api),
        budget_(context.budget),
        inputs_(get<size_t>(api_, api_.KernelInfo_GetInputCount, info)),
        bounds_(api_, info, kFloatInputs),
        matrix_(matrix_of(context, info, transposed)) {}

  void compute(OrtKernelContext* context) const {
    const Input<float> x = tensor_input<float>(api_, context, 0, inputs_);
    const Input<float> bias = tensor_input<float>(api_, context, 2, inputs_);
    const Product out = product_of(api_, context, x, bias, matrix_.k(), matrix_.n());
    const Bounds bounds = bounds_.of_run(api_, context, inputs_);
    if (out.y)
      run_tasks(api_, context, matrix_.tasks(out.m),
                [&](size_t task) { matrix_.run(task, x.values, out.m, bias.values, out.y, bounds); });
  }

 private:
  const Api& api_;
  std::shared_ptr<Budget> budget_;  // kept while the session lives
  size_t inputs_;
  GivenBounds bounds_;
  SparseMatMul matrix_;
};

struct MatMulKernel : SparseProduct {
  MatMulKernel(const Context& context, const OrtKernelInfo* info) : SparseProduct(context, info, false) {}
};

struct GemmKernel : SparseProduct {
  GemmKernel(const Context& context, const OrtKernelInfo* info)
      : SparseProduct(context, info, integer_attribute(context.owner.api, info, "transB", 0) != 0) {}
};

SparseInt8MatMul points_of(const Context& context, const OrtKernelInfo* info) {
  const std::string what = node_text(context.owner.api, info);
  const StoredFrame frame = read_weight(context, info, 2, what);
  const bool transposed = integer_attribute(context.owner.api, info, "transB", 0) != 0;
  const auto k = static_cast<size_t>(frame.type.dims[transposed ? 1 : 0]);
  const auto n = static_cast<size_t>(frame.type.dims[transposed ? 0 : 1]);
  const MappedBytes points = map_bytes(k * n);
  std::vector<float> scales(n);
  const DecodeJob job{frame.bytes.data, frame.bytes.size, points.get(), k * n, scales.data(), n};
  decode_frame(job, context.settings.threads, what);
  const int threads = context.settings.threads;
  const auto* dense = reinterpret_cast<const int8_t*>(points.get());
  return SparseInt8MatMul(kept_points(dense, k, n, transposed, threads), scales.data(), threads);
}

class Int8Kernel {
 public:
  Int8Kernel(const Context& context, const OrtKernelInfo* info)
      : api_(context.owner.api),
        budget_(context.budget),
        inputs_(get<size_t>(api_, api_.KernelInfo_GetInputCount, info)),
        bounds_(api_, info, kInt8Inputs),
        matrix_(points_of(context, info)) {}

  void compute(OrtKernelContext* context) const {
    const Input<uint8_t> x = tensor_input<uint8_t>(api_, context, 0, inputs_);
    const Input<float> bias = tensor_input<float>(api_, context, 4, inputs_);
    const Product out = product_of(api_, context, x, bias, matrix_.k(), matrix_.n());
    const uint8_t zero = scalar_input<uint8_t>(api_, context, 2, inputs_, kElementUint8, 0);
    const float step = scalar_input<float>(api_, context, 3, inputs_, kElementFloat, 1);
    const ByteRows rows{x.values, out.m, zero, step};
    const Bounds bounds = bounds_.of_run(api_, context, inputs_);
    if (out.y)
      run_tasks(api_, context, matrix_.tasks(rows.m),
                [&](size_t task) { matrix_.run(task, rows, bias.values, out.y, bounds); });
  }

 private:
  const Api& api_;
  std::shared_ptr<Budget> budget_;  // kept while the session lives
  size_t inputs_;
  GivenBounds bounds_;
  SparseInt8MatMul matrix_;
};

SparseConv convolution_of(const Context& context, const OrtKernelInfo* info) {
  const Api& api = context.owner.api;
  const DenseWeight weight = decode_weight(context, info, 4);
  ConvAttributes attributes;
  attributes.outputs = weight.dims[0];
  const int64_t groups = integer_attribute(api, info, "group", 1);
  if (groups < 1 || __builtin_mul_overflow(weight.dims[1], groups, &attributes.channels))
    refuse(node_text(api, info) + ": attribute group is no number of groups");
  attributes.groups = static_cast<size_t>(groups);
  attributes.kernel[0] = weight.dims[2];
  attributes.kernel[1] = weight.dims[3];
  integers_attribute(api, info, "strides", attributes.strides);
  integers_attribute(api, info, "dilations", attributes.dilations);
  integers_attribute(api, info, "pads", attributes.pads);
  return SparseConv(weight.values(), attributes, context.settings.threads);
}

// Memory for the copies of an image, kept from run to run: as many as there are runs at a time.
class ScratchPool {
 public:
  struct Scratch {
    MappedBytes bytes;
    size_t size = 0;
  };
  Scratch take(size_t size) {
    Scratch scratch;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        scratch = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (scratch.size < size) scratch = {map_bytes(size), size};
    return scratch;
  }
  void give_back(Scratch scratch) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<Scratch> free_;
};

class ConvKernel {
 public:
  ConvKernel(const Context& context, const OrtKernelInfo* info)
      : api_(context.owner.api),
        budget_(context.budget),
        inputs_(get<size_t>(api_, api_.KernelInfo_GetInputCount, info)),
        bounds_(api_, info, kFloatInputs),
        convolution_(convolution_of(context, info)) {}

  void compute(OrtKernelContext* context) {
    const Input<float> x = tensor_input<float>(api_, context, 0, inputs_);
    const Input<float> bias = tensor_input<float>(api_, context, 2, inputs_);
    const ConvAttributes& attributes = convolution_.attributes();
    if (x.dims.size() != 4 || x.dims[1] != attributes.channels)
      refuse("an input does not fit a kernel of " + std::to_string(attributes.channels) + " channels");
    check_bias(bias, attributes.outputs);
    const ConvPlan plan = convolution_.plan(x.dims[2], x.dims[3]);
    size_t shape[2];
    convolution_.out_shape(x.dims[2], x.dims[3], shape);
    float* y = float_output(api_, context, {x.dims[0], attributes.outputs, shape[0], shape[1]});
    if (!y) return;
    const Bounds bounds = bounds_.of_run(api_, context, inputs_);
    const size_t image = product(x.dims, 1);
    const size_t result = product({attributes.outputs, shape[0], shape[1]});
    ScratchPool::Scratch scratch = scratches_.take(plan.scratch_bytes);
    uint8_t* const memory = scratch.bytes.get();
    for (size_t i = 0; i < x.dims[0]; ++i) {
      const float* from = x.values + i * image;
      run_tasks(api_, context, plan.prepare_tasks,
                [&](size_t task) { convolution_.prepare(plan, task, from, memory); });
      run_tasks(api_, context, plan.tasks,
                [&](size_t task) { convolution_.run(plan, task, memory, bias.values, y + i * result, bounds); });
    }
    scratches_.give_back(std::move(scratch));
  }

 private:
  const Api& api_;
  std::shared_ptr<Budget> budget_;  // kept while the session lives
  size_t inputs_;
  GivenBounds bounds_;
  SparseConv convolution_;
  ScratchPool scratches_;
};

template <class Kernel>
Operator layer_operator(const Registration& owner, const char* (*name)(const OrtCustomOp*)) {
  Operator op(owner, name);
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kFloatInputs + 2; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) { return index == 1 ? kElementUint8 : kElementFloat; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kElementFloat; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index < 2 ? kCharacteristicRequired : kCharacteristicOptional;
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicRequired; };
  use_kernel<Kernel>(op);
  return op;
}

}  // namespace

Operator sparse_matmul_operator(const Registration& owner) {
  return layer_operator<MatMulKernel>(owner, [](const OrtCustomOp*) { return "MatMul"; });
}

Operator sparse_gemm_operator(const Registration& owner) {
  return layer_operator<GemmKernel>(owner, [](const OrtCustomOp*) { return "Gemm"; });
}

Operator sparse_int8_operator(const Registration& owner) {
  Operator op = layer_operator<Int8Kernel>(owner, [](const OrtCustomOp*) { return "MatMulInteger"; });
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInt8Inputs + 2; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) { return index < 3 ? kElementUint8 : kElementFloat; };
  return op;
}

Operator sparse_conv_operator(const Registration& owner) {
  return layer_operator<ConvKernel>(owner, [](const OrtCustomOp*) { return "Conv"; });
}

}  // namespace dcc::ort
