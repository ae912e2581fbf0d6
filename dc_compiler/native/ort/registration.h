// registration.h: what one registration of the library leaves behind, and how a kernel finds it again.
//
// Operators must outlive every session made with the options that they are registered on, and nothing tells when the
// last one ends. So that registering over and over keeps nothing more, operators are shared, and a copy of the options
// belongs to their address: options that stand there without our mark replace others that are gone. A kernel finds the
// copy by the mark among its session's options; in runtimes that do not show them to kernels (before 1.24) by its
// operator, of which every address then has its own.
#ifndef DCC_REGISTRATION_H_
#define DCC_REGISTRATION_H_

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "model/budget.h"
#include "ort/support.h"

namespace dcc::ort {

// What session options say to this library.
struct Settings {
  int threads = 0;                      // for decoding; 0 = all processors
  std::string execution = "auto";       // of layers that can run from packed weights: auto, dense or sparse
  std::optional<uint64_t> max_decoded;  // the host's limit (budget.h)
  bool borrows_model_bytes = false;     // onnxruntime's own: constants may stay in the bytes that the host gave
};

// The options as they were when registered.
struct Registered {
  std::string mark;                  // tells registrations apart
  Owned<OrtSessionOptions> options;  // a copy, for sessions inside a compiled model
  Settings settings;
};

class Registration;

// An operator and the registration it belongs to.
struct Operator : OrtCustomOp {
  Operator(const Registration& owner, const char* (*name)(const OrtCustomOp*));
  const Registration* registration;
};

// The operators of a runtime, or in old ones of an address of options, for good.
class Registration {
 public:
  Registration(const Api& table, uint32_t api_version, std::string runtime_version, const void* address);
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

  const Api api;
  const uint32_t version;     // of the C API
  const std::string runtime;  // onnxruntime's own version
  const void* const address;  // of the options; null where operators are shared

  void add_own_domain(OrtSessionOptions* options) const;  // "dcc": the operators of the outer graph
  void add_run_domain(OrtSessionOptions* options) const;  // "dcc.run": those of inner models

 private:
  struct Operators;
  std::unique_ptr<const Operators, void (*)(const Operators*)> operators_;
};

// What a kernel is made with: the settings of its session, as far as the runtime tells; else those of the registration.
struct Context {
  const Registration& owner;
  std::shared_ptr<const Registered> registered;
  Settings settings;
  std::shared_ptr<Budget> budget;  // one for all kernels of a session
};
Context kernel_context(const Registration& owner, const OrtKernelInfo* info);

// Connects `Kernel(const Context&, const OrtKernelInfo*)` and `Kernel::compute(OrtKernelContext*)` to an operator.
template <class Kernel>
void use_kernel(Operator& op) {
  struct Instance {
    Instance(const Registration& owner, const OrtKernelInfo* info)
        : api(owner.api), kernel(kernel_context(owner, info), info) {}
    const Api& api;
    Kernel kernel;
  };
  op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi*, const OrtKernelInfo* info, void** out) {
    const Registration& owner = *static_cast<const Operator*>(self)->registration;
    return as_status(owner.api, [&] { *out = new Instance(owner, info); });
  };
  op.KernelComputeV2 = [](void* instance, OrtKernelContext* context) {
    auto* self = static_cast<Instance*>(instance);
    return as_status(self->api, [&] { self->kernel.compute(context); });
  };
  op.KernelDestroy = [](void* instance) { delete static_cast<Instance*>(instance); };
}

Operator decode_weights_operator(const Registration& owner);  // both decode_weights.cpp
Operator decode_int8_operator(const Registration& owner);
Operator compiled_model_operator(const Registration& owner);  // compiled_model.cpp
Operator release_model_operator(const Registration& owner);   // copying_session.cpp
// sparse_layers.cpp
Operator sparse_matmul_operator(const Registration& owner);
Operator sparse_gemm_operator(const Registration& owner);
Operator sparse_conv_operator(const Registration& owner);
Operator sparse_int8_operator(const Registration& owner);

}  // namespace dcc::ort
#endif  // DCC_REGISTRATION_H_
