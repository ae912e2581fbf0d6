// payload_decoding.h: the weights of payloads, decoded to where they belong (FORMAT.md 9.2). Needs no onnxruntime.
#ifndef DCC_PAYLOAD_DECODING_H_
#define DCC_PAYLOAD_DECODING_H_

#include <string_view>
#include <vector>

#include "model/manifest.h"

namespace dcc {

// A frame as a file holds it, and what its header says.
struct StoredFrame {
  std::string_view bytes;
  TensorType type;
  size_t decoded_bytes = 0;
  uint64_t channels = 0;  // that have a scale each
};

// Reads a header. `what` starts the error. Throws Failure.
StoredFrame read_stored_frame(std::string_view frame, const std::string& what);

// Refuses a frame of another type or shape than the payload's weights need. Throws Failure.
void check_declared(const Payload& payload, const StoredFrame& frame);

// Decodes every payload to Weight::data of its weights: dense tensors, but points and scales where they run in int8.
// Frames are those of the payloads, in order, and fit them. Throws Failure.
void decode_payloads(const std::vector<StoredFrame>& frames, const std::vector<Payload>& payloads, int threads);

}  // namespace dcc
#endif  // DCC_PAYLOAD_DECODING_H_
