// inner_session.cpp: opens the session inside a dcc:CompiledModel (FORMAT.md 9.2).
#include "ort/inner_session.h"

#include <cstring>
#include <string_view>

#include "kernels/isa.h"
#include "kernels/kernels.h"
#include "model/model_check.h"
#include "ort/inner_model.h"
#include "ort/payload_frame.h"
#include "ort/run_nodes.h"
#include "ort/session_options.h"

namespace dcc::ort {
namespace {

// `owners` are those of the jobs, as far as there are any.
void decode(const std::vector<DecodeJob>& jobs, int threads, const std::vector<const Payload*>& owners) {
  std::string error;
  size_t failed = 0;
  if (decode_all(jobs.data(), jobs.size(), threads, error, &failed) == DCC_OK) return;
  refuse(failed < owners.size() ? owners[failed]->label() + ": " + error : error);
}

MappedBytes decode_topology(const Context& context, const PayloadFrame& frame) {
  if (frame.type.element != kElementUint8 || frame.type.dims.size() != 1)
    refuse("topology: the frame is not a uint8 vector");
  context.budget->spend(frame.bytes, "the topology");
  MappedBytes bytes = map_bytes(frame.bytes);
  decode({{frame.data, frame.size, bytes.get(), frame.bytes}}, context.settings.threads, {});
  return bytes;
}

// The bytes that topology and payloads take in the file.
uint64_t stored_bytes(const Api& api, const OrtKernelInfo* info, size_t first, size_t count) {
  uint64_t sum = 0;
  for (size_t i = first; i < first + count; ++i) {
    int is_constant = 0;
    const OrtValue* value = nullptr;
    check(api, api.KernelInfoGetConstantInput_tensor(info, i, &is_constant, &value));
    if (!is_constant) continue;  // refused where it is read
    const TensorType type = type_of(api, value);
    if (type.dims.size() == 1) sum += static_cast<uint64_t>(type.dims[0]);
  }
  return sum;
}

// The frames of all payloads, each of the type that the manifest declares.
std::vector<PayloadFrame> read_payloads(const Context& context, const OrtKernelInfo* info, size_t first,
                                        const std::vector<Payload>& payloads) {
  std::vector<PayloadFrame> frames;
  for (size_t i = 0; i < payloads.size(); ++i) {
    const TensorType declared = payloads[i].type();
    frames.push_back(read_payload(context, info, first + i, payloads[i].label()));
    const TensorType& stored = frames.back().type;
    if (stored.element != declared.element || stored.dims != declared.dims)
      refuse(payloads[i].label() + ": the model has " + type_text(declared) + ", the payload " + type_text(stored));
  }
  for (size_t i = 0; i < frames.size(); ++i) context.budget->spend(frames[i].bytes, payloads[i].label());
  return frames;
}

// Whether a layer of a float weight is faster by what is kept of it than dense, for any number of inputs at a time.
// Shares are those up to which it gained 15 % at least over onnxruntime (benchmarks/layers.py).
bool runs_faster_sparse(const PayloadFrame& frame) {
  const std::string_view isa = kernels().name;
  const bool is_matrix = frame.type.dims.size() == 2;
  const size_t elements = frame.bytes / sizeof(float);
  if (isa == "avx512") return frame.kept <= (!is_matrix ? 0.3 : elements < 300000 ? 0.2 : 0.35);
  if (isa == "avx2") return frame.kept <= (!is_matrix ? 0.25 : elements < 4000000 ? 0.085 : 0.26);
  return false;
}

// Lets layers run from packed weights where they gain by it: their weights become the frames themselves. All others
// get dense weights.
void choose_execution(InnerModel& model, const std::vector<RunNode>& nodes, const std::vector<PayloadFrame>& frames,
                      const std::string& wanted) {
  FromFrame from_frame;
  for (size_t i = 0; i < frames.size(); ++i) {
    Payload& payload = model.payloads()[i];
    if (!payload.is_sparse()) continue;
    Weight& weight = payload.weights.front();
    const bool is_sparse = wanted == "sparse" || (wanted == "auto" && runs_faster_sparse(frames[i]));
    from_frame[weight.name] = is_sparse;
    if (is_sparse) {
      weight.type = {kElementUint8, {static_cast<int64_t>(frames[i].size)}};
      weight.bytes = frames[i].size;
    } else {
      weight.execution = Execution::kDecode;
    }
  }
  place_run_nodes(model, nodes, from_frame);
}

// Decodes every payload to where its weights lie; payloads of several weights go through a buffer, but for an int8
// weight and its scales. What runs from the packed weight gets a copy of the frame.
void decode_weights(const std::vector<PayloadFrame>& frames, const std::vector<Payload>& payloads, int threads) {
  std::vector<MappedBytes> buffers;
  std::vector<DecodeJob> jobs;
  std::vector<const Payload*> owners;
  for (size_t i = 0; i < frames.size(); ++i) {
    const Payload& payload = payloads[i];
    const Weight& first = payload.weights.front();
    const PayloadFrame& frame = frames[i];
    if (payload.is_sparse()) {
      std::memcpy(first.data, frame.data, frame.size);
      continue;
    }
    owners.push_back(&payload);
    if (payload.is_int8()) {
      const Weight& scales = payload.weights[1];
      jobs.push_back({frame.data, frame.size, first.data, first.bytes, reinterpret_cast<float*>(scales.data),
                      scales.bytes / sizeof(float)});
      continue;
    }
    uint8_t* out = first.data;
    if (payload.weights.size() > 1) {
      buffers.push_back(map_bytes(frame.bytes));
      out = buffers.back().get();
    }
    jobs.push_back({frame.data, frame.size, out, frame.bytes});
  }
  decode(jobs, threads, owners);
  for (size_t j = 0; j < jobs.size(); ++j) {
    const std::vector<Weight>& weights = owners[j]->weights;
    if (weights.size() == 1 || owners[j]->is_int8()) continue;
    const auto* next = static_cast<const uint8_t*>(jobs[j].out);
    for (const Weight& weight : weights) {
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
  if (!names.empty()) check(api, api.AddExternalInitializers(options, names.data(), values.data(), names.size()));
}

// The memory that only the opening of a session needs, freed as early as onnxruntime allows; its memory use peaks
// later, when it packs weights for its kernels. The node ReleaseModel, appended to the model, tells how far it has
// come: its first shape inference follows parsing, which copies the message; its kernel is made when all weights were
// copied.
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
    if (!current_) refuse("the operator ReleaseModel is the library's own, for use inside compiled models");
    current_->memory_.external.reset();
  }

 private:
  InnerModel::Serialized memory_;
  OpeningModel* outer_;
  static thread_local OpeningModel* current_;
};
thread_local OpeningModel* OpeningModel::current_ = nullptr;

class ReleaseModel {
 public:
  ReleaseModel(const Context&, const OrtKernelInfo*) { OpeningModel::copied(); }
  void compute(OrtKernelContext*) const {}  // nothing uses the output
};

}  // namespace

Owned<OrtSession> open_inner_session(const Context& context, const OrtKernelInfo* info, const OrtEnv* env,
                                     size_t model_inputs) {
  const Api& api = context.owner.api;
  const size_t inputs = get<size_t>(api, api.KernelInfo_GetInputCount, info);
  if (model_inputs >= inputs) refuse("the topology input is missing");
  const size_t payload_count = inputs - model_inputs - 1;
  const uint64_t stored = stored_bytes(api, info, model_inputs, payload_count + 1);
  const PayloadFrame topology_frame = read_payload(context, info, model_inputs, "topology");
  const MappedBytes topology = decode_topology(context, topology_frame);
  InnerModel model(read_manifest(topology.get(), topology_frame.bytes, payload_count, stored));
  const std::vector<PayloadFrame> frames = read_payloads(context, info, model_inputs + 1, model.payloads());
  const std::vector<RunNode> nodes = check_inner_model(model.message(), model.message_size(), *context.budget);
  choose_execution(model, nodes, frames, context.settings.execution);

  const OpeningModel memory(model.serialize());
  decode_weights(frames, model.payloads(), context.settings.threads);
  const Owned<OrtSessionOptions> options = inner_options(api, context.registered->options.get());
  add_weights(api, options.get(), model.payloads());
  const OrtSessionOptions* final_options = options.get();
  const void* message = memory.message();
  return {get<OrtSession*>(api, api.CreateSessionFromArray, env, message, model.serialized_size(), final_options),
          api.ReleaseSession};
}

Operator release_model_operator(const Registration& owner) {
  Operator op(owner, [](const OrtCustomOp*) { return "ReleaseModel"; });
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 0; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };  // a node without any would be dropped
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kElementUint8; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kCharacteristicRequired; };
  op.InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext*) -> OrtStatus* {
    OpeningModel::parsed();
    return nullptr;
  };
  use_kernel<ReleaseModel>(op);
  return op;
}

}  // namespace dcc::ort
