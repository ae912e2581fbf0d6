// register.cpp: RegisterCustomOps, and the operator dcc:DecodeWeights (FORMAT.md 9.1).
#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_set>

#include "kernels/isa.h"
#include "ort/support.h"

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
      throw Failure(what + ": its buffer is another weight's too; every buffer needs a fill value of its own");
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

// The graph's declared or inferred type of the output bounds what is decoded (unknown dims are -1).
void check_output_type(const Api& api, const OrtKernelInfo* info, const TensorType& frame, const std::string& what) {
  const Owned<OrtTypeInfo> owner(get<OrtTypeInfo*>(api, api.KernelInfo_GetOutputTypeInfo, info, size_t{0}),
                                 api.ReleaseTypeInfo);
  const OrtTypeInfo* info_of_output = owner.get();
  const TensorType type =
      read_type(api, get<const OrtTensorTypeAndShapeInfo*>(api, api.CastTypeInfoToTensorInfo, info_of_output));
  if (type.element != frame.element)
    throw Failure(what + ": the graph has element type " + std::to_string(type.element) + ", the payload " +
                  std::to_string(frame.element));
  // A shape that nobody declared reads as rank 0.
  bool same = type.dims.size() == frame.dims.size() || type.dims.empty();
  for (size_t i = 0; same && i < type.dims.size(); ++i) same = type.dims[i] < 0 || type.dims[i] == frame.dims[i];
  if (!same)
    throw Failure(what + ": the graph has shape " + dims_text(type.dims) + ", the payload " + dims_text(frame.dims));
}

// The buffer of input 1 when it is a constant; null when there is none or it is made anew in every run.
uint8_t* constant_buffer(const Api& api, const OrtKernelInfo* info, const TensorType& frame, const std::string& what) {
  if (get<size_t>(api, api.KernelInfo_GetInputCount, info) < 2) return nullptr;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &value));
  if (!is_constant) return nullptr;
  const TensorType type = type_of(api, value);
  if (type.element != frame.element || type.dims != frame.dims)
    throw Failure(what + ": the buffer has shape " + dims_text(type.dims) + ", the payload " + dims_text(frame.dims));
  return data_of(api, value);
}

class DecodeWeights {
 public:
  DecodeWeights(const Registration& owner, const OrtKernelInfo* info)
      : DecodeWeights(owner, info, weight_text(owner.api, info)) {}

  void compute(OrtKernelContext* context) const {
    OrtValue* output = nullptr;
    check(api_, api_.KernelContext_GetOutput(context, 0, frame_.type.dims.data(), frame_.type.dims.size(), &output));
    uint8_t* data = data_of(api_, output);
    if (data != memory_.data() && frame_.bytes) std::memcpy(data, memory_.data(), frame_.bytes);
  }

 private:
  DecodeWeights(const Registration& owner, const OrtKernelInfo* info, const std::string& what)
      : api_(owner.api),
        frame_(checked_frame(api_, info, what)),
        memory_(constant_buffer(api_, info, frame_.type, what), frame_.bytes, what) {
    const DecodeJob job{frame_.data, frame_.size, memory_.data(), frame_.bytes};
    std::string error;
    size_t failed = 0;
    if (decode_all(&job, 1, owner.threads, error, &failed) != DCC_OK) throw Failure(what + ": " + error);
  }

  static Frame checked_frame(const Api& api, const OrtKernelInfo* info, const std::string& what) {
    Frame frame = read_frame(api, info, 0, what);
    check_output_type(api, info, frame.type, what);
    return frame;
  }

  const Api& api_;
  Frame frame_;
  WeightMemory memory_;
};

// The output is typed like the buffer; without one the graph's value_info says it. Errors are left to the kernel.
OrtStatus* infer_like_buffer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const Api& api = static_cast<const Operator*>(op)->registration->api;
  const OrtShapeInferContext* node = context;
  OrtStatus* status = guarded(api, [&] {
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

}  // namespace

Operator decode_weights_operator(const Registration& owner) {
  Operator op(owner, [](const OrtCustomOp*) { return "DecodeWeights"; });
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) { return index == 0 ? kUint8 : kUndefined; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kUndefined; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? kCharacteristicRequired : kCharacteristicOptional;
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicRequired; };
  op.InferOutputShapeFn = infer_like_buffer;
  op.GetAliasMap = alias_output_to_buffer;
  op.ReleaseAliasMap = [](int*, int*) {};
  use_kernel<DecodeWeights>(op);
  return op;
}

namespace {

constexpr uint32_t kOldestVersion = 16;  // operators that return errors
constexpr uint32_t kNewestVersion = 18;  // alias maps
constexpr char kRegisteredKey[] = "dcc.registered";
constexpr char kThreadsKey[] = "dcc.decode_threads";

struct Operators {
  explicit Operators(const Registration& source)
      : registration(source),
        all{decode_weights_operator(registration), compiled_model_operator(registration),
            release_model_operator(registration)} {}
  Registration registration;
  std::array<Operator, 3> all;
};

// The highest API version both sides know. Asking a runtime for a newer one than it has makes it print a complaint.
uint32_t common_version(const char* runtime) {
  char* end = nullptr;
  const unsigned long major = std::strtoul(runtime, &end, 10);
  const unsigned long minor = *end == '.' ? std::strtoul(end + 1, nullptr, 10) : 0;
  return major > 1 || minor > kNewestVersion ? kNewestVersion : static_cast<uint32_t>(minor);
}

bool has_entry(const Api& api, const OrtSessionOptions* options, const char* key) {
  return get<int>(api, api.HasSessionConfigEntry, options, key) != 0;
}

int decode_threads(const Api& api, const OrtSessionOptions* options) {
  if (!has_entry(api, options, kThreadsKey)) return 0;
  const std::string text = get_string(api, api.GetSessionConfigEntry, options, kThreadsKey);
  char* end = nullptr;
  const long threads = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || threads < 0 || threads > 4096)
    throw Failure(std::string(kThreadsKey) + " must be a number from 0 (all processors) to 4096, not '" + text + "'");
  return static_cast<int>(threads);
}

// Keeps operators for good: they must outlive every session made with the options they are registered on, and nothing
// tells when the last one ends.
Operators& keep(std::unique_ptr<Operators> operators) {
  static auto& kept = *new std::vector<std::unique_ptr<Operators>>;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  kept.push_back(std::move(operators));
  return *kept.back();
}

void register_operators(OrtSessionOptions* options, const Registration& source) {
  const Api& api = source.api;
  if (!isa_problem().empty()) throw Failure(isa_problem());
  if (has_entry(api, options, kRegisteredKey)) return;  // a second domain of the same name would be refused
  const int threads = decode_threads(api, options);
  Operators& operators = keep(std::make_unique<Operators>(source));
  operators.registration.threads = threads;
  auto* domain = get<OrtCustomOpDomain*>(api, api.CreateCustomOpDomain, "dcc");
  for (const Operator& op : operators.all) check(api, api.CustomOpDomain_Add(domain, &op));
  check(api, api.AddCustomOpDomain(options, domain));
  check(api, api.AddSessionConfigEntry(options, kRegisteredKey, "1"));
  const OrtSessionOptions* registered = options;
  operators.registration.options = get<OrtSessionOptions*>(api, api.CloneSessionOptions, registered);
}

}  // namespace
}  // namespace dcc::ort

// The entry point that onnxruntime looks up in a custom-operator library.
extern "C" DCC_EXPORT dcc::ort::OrtStatus* RegisterCustomOps(dcc::ort::OrtSessionOptions* options,
                                                             const dcc::ort::OrtApiBase* base) {
  using namespace dcc::ort;
  const char* runtime = base->GetVersionString();
  const uint32_t version = common_version(runtime);
  if (version < kOldestVersion) {
    const std::string message = "the dcc library needs onnxruntime 1.16 or newer, this is " + std::string(runtime);
    // CreateStatus has been the first slot since version 1; the rest of the table may be too short to read.
    const auto create = *reinterpret_cast<OrtStatus* (*const*)(int, const char*)>(base->GetApi(1));
    return create(kFail, message.c_str());
  }
  const Api api(base->GetApi(version));
  return guarded(api, [&] { register_operators(options, Registration{api, version, runtime, nullptr, 0}); });
}
