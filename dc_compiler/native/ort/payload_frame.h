// payload_frame.h: a frame in an initializer of the outer graph, its header read and its room accounted for.
#ifndef DCC_PAYLOAD_FRAME_H_
#define DCC_PAYLOAD_FRAME_H_

#include "model/payload_decoding.h"
#include "ort/registration.h"

namespace dcc::ort {

// The frame in the node's input `index`, which lives as long as the session. `what` starts the error when that is no
// constant uint8 tensor or no frame. Its bytes in the file are added to the session's budget; what it decodes to is not
// spent yet.
StoredFrame read_payload(const Context& context, const OrtKernelInfo* info, size_t index, const std::string& what);

}  // namespace dcc::ort
#endif  // DCC_PAYLOAD_FRAME_H_
