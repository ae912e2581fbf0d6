// payload_frame.h: a frame in an initializer of the outer graph, its header read and its room accounted for.
#ifndef DCC_PAYLOAD_FRAME_H_
#define DCC_PAYLOAD_FRAME_H_

#include "frame/codec.h"
#include "ort/registration.h"

namespace dcc::ort {

// The initializer lives as long as the session it belongs to.
struct PayloadFrame {
  uint8_t* data;  // to be read only
  size_t size;
  TensorType type;
  size_t bytes;     // of the decoded tensor
  double kept;      // share of its elements that are not zero
  size_t channels;  // that have a scale each
};

// The frame in the node's input `index`. `what` starts the error when that is no constant uint8 tensor or no frame. Its
// bytes in the file are added to the session's budget; what it decodes to is not spent yet. Behind the header nothing
// is checked before it is decoded.
PayloadFrame read_payload(const Context& context, const OrtKernelInfo* info, size_t index, const std::string& what);

}  // namespace dcc::ort
#endif  // DCC_PAYLOAD_FRAME_H_
