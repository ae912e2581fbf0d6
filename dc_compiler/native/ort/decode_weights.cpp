// decode_weights.cpp: the operators dcc:DecodeWeights and dcc:DecodeInt8, a packed weight in the model's own graph
// (FORMAT.md 9.1).
#include <cstring>
#include <mutex>
#include <unordered_set>

#include "ort/payload_frame.h"

namespace dcc::ort {
namespace {

// Buffers that weights are decoded into. Graph optimization merges equal nodes, so two weights can be given one buffer,
// and their outputs would be the same memory. Never destroyed: kernels may outlive static objects.
class ClaimedBuffers {
 public:
  bool claim(const void* buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return buffers_.insert(buffer).second;
  }
  void release(const void* buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    buffers_.erase(buffer);
  }
  static ClaimedBuffers& instance() {
    static auto& claimed = *new ClaimedBuffers;
    return claimed;
  }

 private:
  std::mutex mutex_;
  std::unordered_set<const void*> buffers_;
};

// Where the decoded weight lives: in the graph's own constant buffer, which the output aliases (nothing to do in a
// run), or, when there is no such buffer, in memory of its own that every run copies from.
class WeightMemory {
 public:
  WeightMemory(uint8_t* buffer, size_t bytes, const std::string& what) : data_(buffer) {
    if (!buffer) {
      own_.reset(new uint8_t[bytes]);
      data_ = own_.get();
    } else if (!ClaimedBuffers::instance().claim(buffer)) {
      refuse(what + ": its buffer is another weight's too; every buffer needs a fill value of its own");
    }
  }
  ~WeightMemory() {
    if (!own_) ClaimedBuffers::instance().release(data_);
  }
  WeightMemory(const WeightMemory&) = delete;
  WeightMemory& operator=(const WeightMemory&) = delete;
  uint8_t* data() const { return data_; }

 private:
  std::unique_ptr<uint8_t[]> own_;
  uint8_t* data_;
};

std::string weight_text(const Api& api, const OrtKernelInfo* info) {
  return node_text(api, info) + ", weight '" + get_string(api, api.KernelInfo_GetOutputName, info, size_t{0}) + "'";
}

// Refuses a payload whose weight is not what the graph declares or infers for an output.
void check_declared(const Context& context, const OrtKernelInfo* info, size_t output, const TensorType& weight,
                    const std::string& what) {
  const Api& api = context.owner.api;
  const TensorType declared =
      declared_type(api, get<OrtTypeInfo*>(api, api.KernelInfo_GetOutputTypeInfo, info, output), what);
  if (!compatible(declared, weight))
    refuse(what + ": the graph has " + type_text(declared) + ", the payload " + type_text(weight));
}

// The frame of a weight, of the type that the graph has for it.
StoredFrame checked_payload(const Context& context, const OrtKernelInfo* info, const std::string& what) {
  StoredFrame frame = read_payload(context, info, 0, what);
  if (!element_size(frame.type.element)) refuse(what + ": the payload holds " + element_name(frame.type.element));
  check_declared(context, info, 0, frame.type, what);
  context.budget->spend(frame.decoded_bytes, what);
  return frame;
}

// The same for the points of a grid, which are int8, and as many scales as the frame has channels.
StoredFrame checked_points(const Context& context, const OrtKernelInfo* info, const std::string& what) {
  StoredFrame frame = read_payload(context, info, 0, what);
  if (frame.type.element != kElementFloat) refuse(what + ": the payload holds " + element_name(frame.type.element));
  check_declared(context, info, 0, {kElementInt8, frame.type.dims}, what);
  check_declared(context, info, 1, {kElementFloat, {static_cast<int64_t>(frame.channels)}}, what);
  context.budget->spend(frame.decoded_bytes, what);
  return frame;
}

// Gives an output the bytes of a weight, where they are not there already.
void write_output(const Api& api, OrtKernelContext* context, size_t index, const TensorType& type, const uint8_t* from,
                  size_t bytes) {
  OrtValue* output = nullptr;
  check(api, api.KernelContext_GetOutput(context, index, type.dims.data(), type.dims.size(), &output));
  if (!output) return;
  uint8_t* data = data_of(api, output);
  if (data == from || !bytes) return;
  const TensorType room = type_of(api, output);
  if (room.element != type.element || room.dims != type.dims)
    refuse("the weight is " + type_text(type) + ", its output " + type_text(room));
  std::memcpy(data, from, bytes);
}

// The buffer of input 1 when it is a constant; null when there is none or it is made anew in every run.
// Refuses the payload itself, which is to be read.
uint8_t* constant_buffer(const Context& context, const OrtKernelInfo* info, const StoredFrame& payload,
                         const TensorType& weight, const std::string& what) {
  const Api& api = context.owner.api;
  if (get<size_t>(api, api.KernelInfo_GetInputCount, info) < 2) return nullptr;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &value));
  if (!is_constant) return nullptr;
  const TensorType type = type_of(api, value);
  if (type.element != weight.element || type.dims != weight.dims)
    refuse(what + ": the buffer has " + type_text(type) + ", the payload " + type_text(weight));
  uint8_t* const data = data_of(api, value);
  if (data == payload.bytes.data) refuse(what + ": the buffer is the payload");
  return data;
}

class DecodeWeights {
 public:
  DecodeWeights(const Context& context, const OrtKernelInfo* info)
      : DecodeWeights(context, info, weight_text(context.owner.api, info)) {}

  void compute(OrtKernelContext* context) const {
    write_output(api_, context, 0, frame_.type, memory_.data(), frame_.decoded_bytes);
  }

 private:
  DecodeWeights(const Context& context, const OrtKernelInfo* info, const std::string& what)
      : api_(context.owner.api),
        budget_(context.budget),
        frame_(checked_payload(context, info, what)),
        memory_(constant_buffer(context, info, frame_, frame_.type, what), frame_.decoded_bytes, what) {
    const Span bytes = frame_.bytes;
    decode_frame({bytes.data, bytes.size, memory_.data(), frame_.decoded_bytes}, context.settings.threads, what);
  }

  const Api& api_;
  std::shared_ptr<Budget> budget_;  // kept while the session lives
  StoredFrame frame_;
  WeightMemory memory_;
};

// The points of a scaled grid, in the graph's buffer as above, and the scales, which every run copies.
class DecodeInt8 {
 public:
  DecodeInt8(const Context& context, const OrtKernelInfo* info)
      : DecodeInt8(context, info, weight_text(context.owner.api, info)) {}

  void compute(OrtKernelContext* context) const {
    write_output(api_, context, 0, points_, memory_.data(), points());
    const TensorType scales{kElementFloat, {static_cast<int64_t>(scales_.size())}};
    const auto* bytes = reinterpret_cast<const uint8_t*>(scales_.data());
    write_output(api_, context, 1, scales, bytes, scales_.size() * sizeof(float));
  }

 private:
  DecodeInt8(const Context& context, const OrtKernelInfo* info, const std::string& what)
      : api_(context.owner.api),
        budget_(context.budget),
        frame_(checked_points(context, info, what)),
        points_{kElementInt8, frame_.type.dims},
        memory_(constant_buffer(context, info, frame_, points_, what), points(), what),
        scales_(frame_.channels) {
    const Span bytes = frame_.bytes;
    const DecodeJob job{bytes.data, bytes.size, memory_.data(), points(), scales_.data(), scales_.size()};
    decode_frame(job, context.settings.threads, what);
  }
  size_t points() const { return frame_.decoded_bytes / sizeof(float); }

  const Api& api_;
  std::shared_ptr<Budget> budget_;  // kept while the session lives
  StoredFrame frame_;
  TensorType points_;
  WeightMemory memory_;
  std::vector<float> scales_;
};

// The output is typed like the buffer; without one the graph's value_info says it. Errors are left to the kernel.
OrtStatus* infer_like_buffer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const Api& api = static_cast<const Operator*>(op)->registration->api;
  const OrtShapeInferContext* node = context;
  OrtStatus* status = as_status(api, [&] {
    if (get<size_t>(api, api.ShapeInferContext_GetInputCount, node) < 2) return;
    // The context owns the type it hands out.
    auto* buffer = get<OrtTensorTypeAndShapeInfo*>(api, api.ShapeInferContext_GetInputTypeShape, node, size_t{1});
    check(api, api.ShapeInferContext_SetOutputTypeShape(node, 0, buffer));
  });
  if (status) api.ReleaseStatus(status);
  return nullptr;
}

size_t alias_output_to_buffer(int** inputs, int** outputs) {
  static int input = 1;
  static int output = 0;
  *inputs = &input;
  *outputs = &output;
  return 1;
}

template <class Kernel>
Operator decoding_operator(const Registration& owner, const char* (*name)(const OrtCustomOp*)) {
  Operator op(owner, name);
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) { return index == 0 ? kElementUint8 : kElementUndefined; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kElementUndefined; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? kCharacteristicRequired : kCharacteristicOptional;
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicRequired; };
  op.InferOutputShapeFn = infer_like_buffer;
  op.GetAliasMap = alias_output_to_buffer;
  op.ReleaseAliasMap = [](int*, int*) {};
  use_kernel<Kernel>(op);
  return op;
}

}  // namespace

Operator decode_weights_operator(const Registration& owner) {
  return decoding_operator<DecodeWeights>(owner, [](const OrtCustomOp*) { return "DecodeWeights"; });
}

Operator decode_int8_operator(const Registration& owner) {
  Operator op = decoding_operator<DecodeInt8>(owner, [](const OrtCustomOp*) { return "DecodeInt8"; });
  op.GetInputType = [](const OrtCustomOp*, size_t index) { return index == 0 ? kElementUint8 : kElementInt8; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetOutputType = [](const OrtCustomOp*, size_t index) { return index == 0 ? kElementInt8 : kElementFloat; };
  return op;
}

}  // namespace dcc::ort
