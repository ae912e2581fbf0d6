// ort_session.cpp: the operator dcc:CompiledModel, a whole model run by an inner session (FORMAT.md 9.2).
#include <cstring>
#include <new>

#include "ort_support.h"

namespace dcc::ort {
namespace {

// A weight as the topology declares it.
struct Weight {
  std::string name;
  TensorType type;
};

struct Topology {
  std::unique_ptr<uint8_t[]> bytes;
  std::vector<Weight> weights;
  const void* model;  // ModelProto with kReleaseNode, inside bytes
  size_t model_size;
};

// Appended to a ModelProto, this adds a node `dcc.released = dcc:ReleaseWeights()` to its graph, as protobuf merges
// messages that are concatenated.
// clang-format off
constexpr char kReleaseNode[] =
    "\x3a\x25\x0a\x23"                     // ModelProto.graph, GraphProto.node
    "\x12\x0c" "dcc.released"              // NodeProto.output
    "\x22\x0e" "ReleaseWeights"            // NodeProto.op_type
    "\x3a\x03" "dcc"                       // NodeProto.domain
    "\x42\x07\x0a\x03" "dcc" "\x10\x01";  // ModelProto.opset_import: domain, version
// clang-format on
constexpr size_t kReleaseNodeSize = sizeof kReleaseNode - 1;

// Reads the manifest in front of the ModelProto; every read is checked against the end.
class ManifestReader {
 public:
  ManifestReader(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

  const uint8_t* take(uint64_t count) {
    if (count > left()) throw Failure("the manifest ends early");
    const uint8_t* start = next_;
    next_ += count;
    return start;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const uint8_t byte = *take(1);
      if ((shift == 63 && byte > 1) || (shift && byte == 0)) break;  // over 64 bits, or not the shortest form
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw Failure("the manifest has a bad number");
  }
  Weight weight() {
    Weight weight;
    const uint64_t length = varint();
    const uint8_t* name = take(length);
    weight.name.assign(reinterpret_cast<const char*>(name), static_cast<size_t>(length));
    weight.type.element = *take(1);
    for (unsigned rank = *take(1); rank; --rank) {
      const uint64_t extent = varint();
      if (extent > INT64_MAX) throw Failure("weight '" + weight.name + "' has too large a dimension");
      weight.type.dims.push_back(static_cast<int64_t>(extent));
    }
    return weight;
  }
  size_t left() const { return static_cast<size_t>(end_ - next_); }

 private:
  const uint8_t* next_;
  const uint8_t* end_;
};

void decode(const std::vector<DecodeJob>& jobs, int threads, const std::vector<Weight>* weights) {
  std::string error;
  size_t failed = 0;
  if (decode_all(jobs.data(), jobs.size(), threads, error, &failed) == DCC_OK) return;
  throw Failure(weights && failed < weights->size() ? "weight '" + (*weights)[failed].name + "': " + error : error);
}

Topology read_topology(const Registration& owner, const OrtKernelInfo* info, size_t index) {
  const Frame frame = read_frame(owner.api, info, index, "topology");
  if (frame.type.element != kUint8 || frame.type.dims.size() != 1)
    throw Failure("topology: the frame is not a uint8 vector");
  Topology topology{std::unique_ptr<uint8_t[]>(new uint8_t[frame.bytes + kReleaseNodeSize]), {}, nullptr, 0};
  decode({{frame.data, frame.size, topology.bytes.get(), frame.bytes}}, owner.threads, nullptr);

  ManifestReader reader(topology.bytes.get(), frame.bytes);
  const uint64_t version = reader.varint();
  if (version != 1) throw Failure("this library reads manifest version 1, not " + std::to_string(version));
  for (uint64_t count = reader.varint(); count; --count) topology.weights.push_back(reader.weight());
  topology.model_size = reader.left() + kReleaseNodeSize;
  topology.model = reader.take(reader.left());
  std::memcpy(topology.bytes.get() + frame.bytes, kReleaseNode, kReleaseNodeSize);
  return topology;
}

// The frames of all weights, each of the type that the manifest declares.
std::vector<Frame> read_frames(const Api& api, const OrtKernelInfo* info, size_t first_payload,
                               const std::vector<Weight>& weights) {
  std::vector<Frame> frames;
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::string what = "weight '" + weights[i].name + "'";
    const TensorType& declared = weights[i].type;
    frames.push_back(read_frame(api, info, first_payload + i, what));
    const TensorType& stored = frames.back().type;
    if (stored.element != declared.element || stored.dims != declared.dims)
      throw Failure(what + ": the model has element type " + std::to_string(declared.element) + " and shape " +
                    dims_text(declared.dims) + ", the payload " + std::to_string(stored.element) + " and " +
                    dims_text(stored.dims));
  }
  return frames;
}

// Memory of decoded weights, aligned for any vector instruction.
struct BufferDelete {
  void operator()(uint8_t* buffer) const { ::operator delete[](buffer, kAlignment); }
  static constexpr std::align_val_t kAlignment{64};
};
using Buffer = std::unique_ptr<uint8_t[], BufferDelete>;

std::vector<Buffer> decode_weights(const std::vector<Frame>& frames, const std::vector<Weight>& weights, int threads) {
  std::vector<Buffer> buffers;
  std::vector<DecodeJob> jobs;
  for (const Frame& frame : frames) {
    buffers.emplace_back(new (BufferDelete::kAlignment) uint8_t[frame.bytes]);
    jobs.push_back({frame.data, frame.size, buffers.back().get(), frame.bytes});
  }
  decode(jobs, threads, &weights);
  return buffers;
}

// Gives the decoded weights to a session about to be made. onnxruntime takes only memory that stays the caller's.
void add_weights(const Api& api, OrtSessionOptions* options, const std::vector<Weight>& weights,
                 const std::vector<Frame>& frames, const std::vector<Buffer>& buffers) {
  if (weights.empty()) return;
  const Owned<OrtMemoryInfo> memory(get<OrtMemoryInfo*>(api, api.CreateCpuMemoryInfo, kDeviceAllocator, kDefaultMemory),
                                    api.ReleaseMemoryInfo);
  std::vector<const char*> names;
  std::vector<Owned<OrtValue>> owned;
  std::vector<const OrtValue*> values;
  for (size_t i = 0; i < weights.size(); ++i) {
    const TensorType& type = frames[i].type;
    names.push_back(weights[i].name.c_str());
    owned.emplace_back(get<OrtValue*>(api, api.CreateTensorWithDataAsOrtValue, memory.get(), buffers[i].get(),
                                      frames[i].bytes, type.dims.data(), type.dims.size(), type.element),
                       api.ReleaseValue);
    values.push_back(owned.back().get());
  }
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

// The weights of the session that this thread is opening. By contract onnxruntime copies them before it optimizes the
// graph; memory use peaks later, when it packs the copies for its kernels. The kernel of ReleaseWeights, created in
// between, frees what is no longer needed.
class LoadingWeights {
 public:
  explicit LoadingWeights(std::vector<Buffer> buffers) : buffers_(std::move(buffers)), outer_(current_) {
    current_ = this;
  }
  ~LoadingWeights() { current_ = outer_; }
  LoadingWeights(const LoadingWeights&) = delete;
  LoadingWeights& operator=(const LoadingWeights&) = delete;
  const std::vector<Buffer>& buffers() const { return buffers_; }
  static void release_current() {
    if (current_) current_->buffers_.clear();
  }

 private:
  std::vector<Buffer> buffers_;
  LoadingWeights* outer_;
  static thread_local LoadingWeights* current_;
};
thread_local LoadingWeights* LoadingWeights::current_ = nullptr;

class ReleaseWeights {
 public:
  ReleaseWeights(const Registration&, const OrtKernelInfo*) { LoadingWeights::release_current(); }
  void compute(OrtKernelContext*) const {}  // nothing uses the output
};

Owned<OrtSession> open_session(const Registration& owner, const OrtKernelInfo* info, const OrtEnv* env,
                               size_t model_inputs) {
  const Api& api = owner.api;
  const size_t inputs = get<size_t>(api, api.KernelInfo_GetInputCount, info);
  if (model_inputs >= inputs) throw Failure("the topology input is missing");
  const Topology topology = read_topology(owner, info, model_inputs);
  if (topology.weights.size() != inputs - model_inputs - 1)
    throw Failure("the model has " + std::to_string(topology.weights.size()) + " packed weights, but " +
                  std::to_string(inputs - model_inputs - 1) + " payloads are given");
  const std::vector<Frame> frames = read_frames(api, info, model_inputs + 1, topology.weights);
  const LoadingWeights weights(decode_weights(frames, topology.weights, owner.threads));
  const Owned<OrtSessionOptions> options = inner_options(owner);
  add_weights(api, options.get(), topology.weights, frames, weights.buffers());
  const OrtSessionOptions* final_options = options.get();
  return {get<OrtSession*>(api, api.CreateSessionFromArray, env, topology.model, topology.model_size, final_options),
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

Operator release_weights_operator(const Registration& owner) {
  Operator op(owner, [](const OrtCustomOp*) { return "ReleaseWeights"; });
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 0; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };  // a node without any would be dropped
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kUint8; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicRequired; };
  use_kernel<ReleaseWeights>(op);
  return op;
}

}  // namespace dcc::ort
