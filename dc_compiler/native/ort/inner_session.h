// inner_session.h: opens the session inside a dcc:CompiledModel.
#ifndef DCC_INNER_SESSION_H_
#define DCC_INNER_SESSION_H_

#include <memory>

#include "ort/registration.h"
#include "ort/weight_memory.h"

namespace dcc::ort {

struct InnerSession {
  std::unique_ptr<WeightMemory> weights;  // that the session uses where they lie; null when it copied them
  Owned<OrtSession> session;
};

// Decodes the topology at input `model_inputs` of the node and the payloads behind it, and opens a session of the
// model. Nothing is allocated that the manifest, the payloads' headers and the session's budget do not allow. Throws
// Failure.
InnerSession open_inner_session(const Context& context, const OrtKernelInfo* info, const OrtEnv* env,
                                size_t model_inputs);

}  // namespace dcc::ort
#endif  // DCC_INNER_SESSION_H_
