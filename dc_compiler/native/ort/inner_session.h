// inner_session.h: opens the session inside a dcc:CompiledModel.
#ifndef DCC_INNER_SESSION_H_
#define DCC_INNER_SESSION_H_

#include "ort/registration.h"

namespace dcc::ort {

// Decodes the topology at input `model_inputs` of the node and the payloads behind it, and opens a session of the
// model. Nothing is allocated that the manifest, the payloads' headers and the session's budget do not allow. Throws
// Failure.
Owned<OrtSession> open_inner_session(const Context& context, const OrtKernelInfo* info, const OrtEnv* env,
                                     size_t model_inputs);

}  // namespace dcc::ort
#endif  // DCC_INNER_SESSION_H_
