// copying_session.h: opens an inner session in runtimes that copy weights.
#ifndef DCC_COPYING_SESSION_H_
#define DCC_COPYING_SESSION_H_

#include "ort/inner_model.h"
#include "ort/support.h"

namespace dcc::ort {

// A session of a model that InnerModel::serialize_for_copying wrote to `memory`, its weights in place. Throws Failure.
Owned<OrtSession> open_copying_session(const Api& api, const OrtEnv* env, OrtSessionOptions* options,
                                       const InnerModel& model, InnerModel::Serialized memory);

}  // namespace dcc::ort
#endif  // DCC_COPYING_SESSION_H_
