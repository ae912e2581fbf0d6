// compiled_model.cpp: the operator dcc:CompiledModel, a whole model run by an inner session (FORMAT.md 9.2).
#include <cstring>

#include "ort/inner_model.h"
#include "ort/support.h"

namespace dcc::ort {
namespace {

void decode(const std::vector<DecodeJob>& jobs, int threads, const std::vector<Payload>* payloads) {
  std::string error;
  size_t failed = 0;
  if (decode_all(jobs.data(), jobs.size(), threads, error, &failed) == DCC_OK) return;
  throw Failure(payloads && failed < payloads->size() ? (*payloads)[failed].label() + ": " + error : error);
}

Bytes read_topology(const Registration& owner, const OrtKernelInfo* info, size_t index, size_t& size) {
  const Frame frame = read_frame(owner.api, info, index, "topology");
  if (frame.type.element != kUint8 || frame.type.dims.size() != 1)
    throw Failure("topology: the frame is not a uint8 vector");
  Bytes bytes = allocate(frame.bytes);
  decode({{frame.data, frame.size, bytes.get(), frame.bytes}}, owner.threads, nullptr);
  size = frame.bytes;
  return bytes;
}

// The frames of all payloads, each of the type that the manifest declares.
std::vector<Frame> read_frames(const Api& api, const OrtKernelInfo* info, size_t first_payload,
                               const std::vector<Payload>& payloads) {
  std::vector<Frame> frames;
  for (size_t i = 0; i < payloads.size(); ++i) {
    const TensorType declared = payloads[i].type();
    frames.push_back(read_frame(api, info, first_payload + i, payloads[i].label()));
    const TensorType& stored = frames.back().type;
    if (stored.element != declared.element || stored.dims != declared.dims)
      throw Failure(payloads[i].label() + ": the model has element type " + std::to_string(declared.element) +
                    " and shape " + dims_text(declared.dims) + ", the payload " + std::to_string(stored.element) +
                    " and " + dims_text(stored.dims));
  }
  return frames;
}

// Decodes every payload to where its weights lie; payloads of several weights go through a buffer.
void decode_weights(const std::vector<Frame>& frames, const std::vector<Payload>& payloads, int threads) {
  std::vector<Bytes> buffers;
  std::vector<DecodeJob> jobs;
  for (size_t i = 0; i < frames.size(); ++i) {
    uint8_t* out = payloads[i].weights.front().data;
    if (payloads[i].weights.size() > 1) {
      buffers.push_back(allocate(frames[i].bytes));
      out = buffers.back().get();
    }
    jobs.push_back({frames[i].data, frames[i].size, out, frames[i].bytes});
  }
  decode(jobs, threads, &payloads);
  for (size_t i = 0; i < frames.size(); ++i) {
    if (payloads[i].weights.size() == 1) continue;
    const auto* next = static_cast<const uint8_t*>(jobs[i].out);
    for (const Weight& weight : payloads[i].weights) {
      std::memcpy(weight.data, next, weight.bytes);
      next += weight.bytes;
    }
  }
}

// Gives the external weights to a session about to be made. onnxruntime copies them out of memory that stays ours.
void add_weights(const Api& api, OrtSessionOptions* options, const std::vector<Payload>& payloads) {
  const Owned<OrtMemoryInfo> memory(get<OrtMemoryInfo*>(api, api.CreateCpuMemoryInfo, kDeviceAllocator, kDefaultMemory),
                                    api.ReleaseMemoryInfo);
  std::vector<const char*> names;
  std::vector<Owned<OrtValue>> owned;
  std::vector<const OrtValue*> values;
  for (const Payload& payload : payloads) {
    for (const Weight& weight : payload.weights) {
      if (!weight.external) continue;
      const TensorType& type = weight.type;
      names.push_back(weight.name.c_str());
      owned.emplace_back(get<OrtValue*>(api, api.CreateTensorWithDataAsOrtValue, memory.get(), weight.data,
                                        weight.bytes, type.dims.data(), type.dims.size(), type.element),
                         api.ReleaseValue);
      values.push_back(owned.back().get());
    }
  }
  if (!names.empty())
    check(api, api.AddExternalInitializers(options, names.data(), values.data(), names.size()));
}

// The registered options, but without what would make inner and outer session write the same files.
Owned<OrtSessionOptions> inner_options(const Registration& owner) {
  const Api& api = owner.api;
  const OrtSessionOptions* registered = owner.options;
  Owned<OrtSessionOptions> options(get<OrtSessionOptions*>(api, api.CloneSessionOptions, registered),
                                   api.ReleaseSessionOptions);
  check(api, api.DisableProfiling(options.get()));
  check(api, api.SetOptimizedModelFilePath(options.get(), ""));
  return options;
}

Owned<OrtEnv> open_env(const Registration& owner) {
  try {
    return {get<OrtEnv*>(owner.api, owner.api.CreateEnv, kLogWarning, "dcc"), owner.api.ReleaseEnv};
  } catch (const Failure& failure) {
    throw Failure("onnxruntime " + owner.runtime +
                  " cannot open a session inside a session (in Python that takes 1.23); use a newer onnxruntime, "
                  "or compile with --emit graph (" +
                  failure.message + ")");
  }
}

// The memory that only the opening of a session needs, freed as early as onnxruntime allows; its memory use peaks later,
// when it packs weights for its kernels. The node ReleaseModel, appended to the model, tells how far it has come: its
// first shape inference follows parsing, which copies the message; its kernel is made when all weights were copied.
class OpeningModel {
 public:
  explicit OpeningModel(InnerModel::Serialized memory) : memory_(std::move(memory)), outer_(current_) {
    current_ = this;
  }
  ~OpeningModel() { current_ = outer_; }
  OpeningModel(const OpeningModel&) = delete;
  OpeningModel& operator=(const OpeningModel&) = delete;
  const uint8_t* message() const { return memory_.message.get(); }
  static void parsed() {
    if (current_) current_->memory_.message.reset();
  }
  static void copied() {
    if (current_) current_->memory_.external.reset();
  }

 private:
  InnerModel::Serialized memory_;
  OpeningModel* outer_;
  static thread_local OpeningModel* current_;
};
thread_local OpeningModel* OpeningModel::current_ = nullptr;

class ReleaseModel {
 public:
  ReleaseModel(const Registration&, const OrtKernelInfo*) { OpeningModel::copied(); }
  void compute(OrtKernelContext*) const {}  // nothing uses the output
};

Owned<OrtSession> open_session(const Registration& owner, const OrtKernelInfo* info, const OrtEnv* env,
                               size_t model_inputs) {
  const Api& api = owner.api;
  const size_t inputs = get<size_t>(api, api.KernelInfo_GetInputCount, info);
  if (model_inputs >= inputs) throw Failure("the topology input is missing");
  size_t topology_size = 0;
  const Bytes topology = read_topology(owner, info, model_inputs, topology_size);
  InnerModel model(topology.get(), topology_size);
  if (model.payloads().size() != inputs - model_inputs - 1)
    throw Failure("the model has " + std::to_string(model.payloads().size()) + " packed weights, but " +
                  std::to_string(inputs - model_inputs - 1) + " payloads are given");
  const std::vector<Frame> frames = read_frames(api, info, model_inputs + 1, model.payloads());
  const OpeningModel memory(model.serialize());
  decode_weights(frames, model.payloads(), owner.threads);
  const Owned<OrtSessionOptions> options = inner_options(owner);
  add_weights(api, options.get(), model.payloads());
  const OrtSessionOptions* final_options = options.get();
  const void* message = memory.message();
  return {get<OrtSession*>(api, api.CreateSessionFromArray, env, message, model.serialized_size(), final_options),
          api.ReleaseSession};
}

using NameGetter = OrtStatus* (*)(const OrtSession*, size_t, OrtAllocator*, char**);

std::vector<std::string> read_names(const Api& api, const OrtSession* session, NameGetter get_name,
                                    OrtStatus* (*get_count)(const OrtSession*, size_t*)) {
  auto* allocator = get<OrtAllocator*>(api, api.GetAllocatorWithDefaultOptions);
  std::vector<std::string> names(get<size_t>(api, get_count, session));
  for (size_t i = 0; i < names.size(); ++i) {
    char* name = get<char*>(api, get_name, session, i, allocator);
    names[i] = name;
    check(api, api.AllocatorFree(allocator, name));
  }
  return names;
}

std::vector<const char*> pointers(const std::vector<std::string>& names) {
  std::vector<const char*> result;
  for (const std::string& name : names) result.push_back(name.c_str());
  return result;
}

class CompiledModel {
 public:
  CompiledModel(const Registration& owner, const OrtKernelInfo* info) try
      : api_(owner.api),
        env_(open_env(owner)),
        session_(open_session(owner, info, env_.get(), model_inputs(api_, info))),
        inputs_(read_names(api_, session_.get(), api_.SessionGetInputName, api_.SessionGetInputCount)),
        outputs_(read_names(api_, session_.get(), api_.SessionGetOutputName, api_.SessionGetOutputCount)),
        input_names_(pointers(inputs_)),
        output_names_(pointers(outputs_)) {
    if (inputs_.size() != model_inputs(api_, info)) throw Failure("the inner model has another number of inputs");
    if (outputs_.size() != get<size_t>(api_, api_.KernelInfo_GetOutputCount, info))
      throw Failure("the inner model has another number of outputs");
  } catch (const std::exception& error) {
    throw Failure(node_text(owner.api, info) + ": " + error.what());
  }

  // Inputs go to the inner session as they are. Its outputs are copied: their shapes may be known only after the run,
  // and a declared shape, even a static one, binds nobody.
  void compute(OrtKernelContext* context) const {
    std::vector<const OrtValue*> inputs(inputs_.size());
    for (size_t i = 0; i < inputs.size(); ++i) check(api_, api_.KernelContext_GetInput(context, i, &inputs[i]));
    std::vector<OrtValue*> results(outputs_.size());
    check(api_, api_.Run(session_.get(), nullptr, input_names_.data(), inputs.data(), inputs.size(),
                         output_names_.data(), results.size(), results.data()));
    std::vector<Owned<OrtValue>> owned;
    for (OrtValue* result : results) owned.emplace_back(result, api_.ReleaseValue);
    for (size_t i = 0; i < owned.size(); ++i) copy_output(context, i, owned[i].get());
  }

 private:
  static size_t model_inputs(const Api& api, const OrtKernelInfo* info) {
    const auto count = get<int64_t>(api, api.KernelInfoGetAttribute_int64, info, "model_inputs");
    if (count < 0) throw Failure("attribute model_inputs is negative");
    return static_cast<size_t>(count);
  }

  void copy_output(OrtKernelContext* context, size_t index, const OrtValue* result) const {
    const TensorType type = type_of(api_, result);
    size_t bytes = element_size(type.element);
    if (!bytes) throw Failure("output '" + outputs_[index] + "' is not a numeric tensor");
    for (const int64_t extent : type.dims) bytes *= static_cast<size_t>(extent);
    OrtValue* output = nullptr;
    check(api_, api_.KernelContext_GetOutput(context, index, type.dims.data(), type.dims.size(), &output));
    if (output && bytes) std::memcpy(data_of(api_, output), data_of(api_, result), bytes);
  }

  const Api& api_;
  Owned<OrtEnv> env_;
  Owned<OrtSession> session_;
  std::vector<std::string> inputs_, outputs_;
  std::vector<const char*> input_names_, output_names_;
};

}  // namespace

Operator compiled_model_operator(const Registration& owner) {
  Operator op(owner, [](const OrtCustomOp*) { return "CompiledModel"; });
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputType = [](const OrtCustomOp*, size_t) { return kUndefined; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kUndefined; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicVariadic; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicVariadic; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  use_kernel<CompiledModel>(op);
  return op;
}

Operator release_model_operator(const Registration& owner) {
  Operator op(owner, [](const OrtCustomOp*) { return "ReleaseModel"; });
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 0; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };  // a node without any would be dropped
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kUint8; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicRequired; };
  op.InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext*) -> OrtStatus* {
    OpeningModel::parsed();
    return nullptr;
  };
  use_kernel<ReleaseModel>(op);
  return op;
}

}  // namespace dcc::ort
