// inner_session.cpp: opens the session inside a dcc:CompiledModel (FORMAT.md 9.2).
#include "ort/inner_session.h"

#include <algorithm>

#include "kernels/isa.h"
#include "kernels/kernels.h"
#include "kernels/sparse_gain.h"
#include "model/model_check.h"
#include "model/node_attributes.h"
#include "ort/copying_session.h"
#include "ort/edited_session.h"
#include "ort/inner_model.h"
#include "ort/payload_frame.h"
#include "ort/run_nodes.h"
#include "ort/session_options.h"

namespace dcc::ort {
namespace {

MappedBytes decode_topology(const Context& context, const StoredFrame& frame) {
  if (frame.type.element != kElementUint8 || frame.type.dims.size() != 1)
    refuse("topology: the frame is not a uint8 vector");
  context.budget->spend(frame.decoded_bytes, "the topology");
  MappedBytes bytes = map_bytes(frame.decoded_bytes);
  const DecodeJob job{frame.bytes.data, frame.bytes.size, bytes.get(), frame.decoded_bytes};
  decode_frame(job, context.settings.threads, "topology");
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
std::vector<StoredFrame> read_payloads(const Context& context, const OrtKernelInfo* info, size_t first,
                                       const std::vector<Payload>& payloads) {
  std::vector<StoredFrame> frames;
  for (size_t i = 0; i < payloads.size(); ++i) {
    frames.push_back(read_payload(context, info, first + i, payloads[i].label()));
    check_declared(payloads[i], frames.back());
  }
  for (size_t i = 0; i < frames.size(); ++i) context.budget->spend(frames[i].decoded_bytes, payloads[i].label());
  return frames;
}

// Whether a layer of a packed weight is faster by what is kept of it than dense, with the kernels at hand.
bool runs_faster_sparse(const StoredFrame& frame, bool is_int8) {
  const std::vector<int64_t>& dims = frame.type.dims;
  const uint64_t elements = frame.decoded_bytes / sizeof(float);
  const bool is_kernel = dims.size() > 2;
  const LayerKind kind = is_int8 ? LayerKind::kInt8 : is_kernel ? LayerKind::kKernel : LayerKind::kMatrix;
  // Of a matrix, which may be transposed, they do not matter
  const uint64_t inputs = is_kernel && dims[0] > 0 ? elements / static_cast<uint64_t>(dims[0]) : elements;
  return runs_sparse(sparse_gain(kernels().name, {kind, inputs, elements, frame.kept}));
}

// Lets layers run from packed weights where they gain by it: their weights become the frames themselves. All others
// get dense weights.
void choose_execution(InnerModel& model, const std::vector<RunNode>& nodes, const std::vector<StoredFrame>& frames,
                      const std::string& wanted) {
  FromFrame from_frame;
  for (size_t i = 0; i < frames.size(); ++i) {
    Payload& payload = model.payloads()[i];
    if (!payload.may_run_sparse()) continue;
    Weight& weight = payload.weights.front();
    const bool is_int8 = payload.is_int8();
    const bool is_sparse = wanted == "sparse" || (wanted == "auto" && runs_faster_sparse(frames[i], is_int8));
    from_frame[weight.name] = is_sparse;
    if (is_sparse) {
      payload.weights.resize(1, weight);  // the scales are in the frame
      weight.execution = Execution::kFrame;
      weight.type = {kElementUint8, {static_cast<int64_t>(frames[i].bytes.size)}};
      weight.bytes = frames[i].bytes.size;
    } else {
      weight.execution = is_int8 ? Execution::kInt8 : Execution::kDecode;
    }
  }
  place_run_nodes(model, nodes, from_frame);
}

bool runs_from_frames(const InnerModel& model) {
  const std::vector<Payload>& payloads = model.payloads();
  return std::any_of(payloads.begin(), payloads.end(), [](const Payload& p) { return p.is_frame(); });
}

// Gives external weights memory of their own, but for those that are frames, which stay where they are.
void place_weights(InnerModel& model, const std::vector<StoredFrame>& frames, WeightMemory& memory) {
  for (size_t i = 0; i < frames.size(); ++i) {
    Payload& payload = model.payloads()[i];
    for (Weight& weight : payload.weights) {
      if (!weight.external) continue;
      // Nobody writes to a frame
      weight.data = payload.is_frame() ? const_cast<uint8_t*>(frames[i].bytes.data) : memory.allocate(weight.bytes);
    }
  }
}

}  // namespace

InnerSession open_inner_session(const Context& context, const OrtKernelInfo* info, const OrtEnv* env,
                                size_t model_inputs) {
  const Api& api = context.owner.api;
  const size_t inputs = get<size_t>(api, api.KernelInfo_GetInputCount, info);
  if (model_inputs >= inputs) refuse("the topology input is missing");
  const size_t payload_count = inputs - model_inputs - 1;
  const uint64_t stored = stored_bytes(api, info, model_inputs, payload_count + 1);
  const StoredFrame topology_frame = read_payload(context, info, model_inputs, "topology");
  const MappedBytes topology = decode_topology(context, topology_frame);
  Manifest manifest = read_manifest(topology.get(), topology_frame.decoded_bytes, payload_count, stored);
  std::vector<StoredFrame> frames = read_payloads(context, info, model_inputs + 1, manifest.payloads);
  std::string filled;
  put_attributes_back(manifest, frames, context.settings.threads, *context.budget, filled);
  InnerModel model(std::move(manifest));
  const std::vector<RunNode> nodes = check_inner_model(model.manifest(), *context.budget);
  choose_execution(model, nodes, frames, context.settings.execution);

  const Owned<OrtSessionOptions> options = inner_options(api, context.registered->options.get());
  // The editor keeps the inputs that a model has when it is told of none.
  if (model_inputs == 0 || !has_model_editor(api)) {
    context.owner.add_run_domain(options.get());
    InnerModel::Serialized memory = model.serialize_for_copying();
    decode_payloads(frames, model.payloads(), context.settings.threads);
    return {nullptr, open_copying_session(api, env, options.get(), model, std::move(memory))};
  }
  if (runs_from_frames(model)) context.owner.add_run_domain(options.get());
  auto memory = std::make_unique<WeightMemory>(api);
  const MappedBytes message = model.serialize_for_editing();
  place_weights(model, frames, *memory);
  decode_payloads(frames, model.payloads(), context.settings.threads);
  Owned<OrtSession> session = open_edited_session(api, env, options.get(), model, message.get(), *memory);
  return {std::move(memory), std::move(session)};
}

}  // namespace dcc::ort
