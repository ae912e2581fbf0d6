// edited_session.h: opens an inner session with onnxruntime's model editor, which uses weights where they lie.
#ifndef DCC_EDITED_SESSION_H_
#define DCC_EDITED_SESSION_H_

#include "ort/inner_model.h"
#include "ort/weight_memory.h"

namespace dcc::ort {

// Whether the runtime has the editor: from 1.22 on, but for builds that cannot read ONNX's own format.
bool has_model_editor(const Api& api);

// A session of a model that InnerModel::serialize_for_editing wrote to `message`. The external weights become constants
// of the graph in the place of the inputs that stood for them; `inputs`, how many the model has beside these, is not 0.
// Throws Failure.
Owned<OrtSession> open_edited_session(const Api& api, const OrtEnv* env, const OrtSessionOptions* options,
                                      const InnerModel& model, const uint8_t* message, WeightMemory& memory);

}  // namespace dcc::ort
#endif  // DCC_EDITED_SESSION_H_
