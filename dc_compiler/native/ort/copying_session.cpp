// copying_session.cpp: copying_session.h, and the operator dcc.run:ReleaseModel, which frees what was copied.
#include "ort/copying_session.h"

#include <utility>

#include "ort/registration.h"

namespace dcc::ort {
namespace {

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

Owned<OrtSession> open_copying_session(const Api& api, const OrtEnv* env, OrtSessionOptions* options,
                                       const InnerModel& model, InnerModel::Serialized memory) {
  const OpeningModel opening(std::move(memory));
  add_weights(api, options, model.payloads());
  const OrtSessionOptions* const final_options = options;
  const void* const message = opening.message();
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
