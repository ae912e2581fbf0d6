// payload_decoding.h: the weights of payloads, decoded to where they belong (FORMAT.md 9.2). Needs no onnxruntime.
#ifndef DCC_PAYLOAD_DECODING_H_
#define DCC_PAYLOAD_DECODING_H_

#include <string>
#include <vector>

#include "base/byte_io.h"
#include "frame/codec.h"
#include "model/manifest.h"

namespace dcc {

// A frame as a file holds it, and what its header says.
struct StoredFrame {
  Span bytes;
  TensorType type;
  size_t decoded_bytes = 0;
  size_t channels = 0;  // that have a scale each
  double kept = 1;      // share of elements that are not zero
};

// Reads a header, behind which nothing is checked before the frame is decoded. `what` starts the error. Throws Failure.
StoredFrame read_stored_frame(Span frame, const std::string& what);

// Refuses a frame of another type or shape than the payload's weights need. Throws Failure.
void check_declared(const Payload& payload, const StoredFrame& frame);

// Decodes one frame. `what` starts the error. Throws Failure.
void decode_frame(const DecodeJob& job, int threads, const std::string& what);

// Decodes every payload to Weight::data of its weights: dense tensors, but points and scales where they run in int8,
// and the frame itself where they run from that. Frames are those of the payloads, in order, and fit them. Throws
// Failure.
void decode_payloads(const std::vector<StoredFrame>& frames, const std::vector<Payload>& payloads, int threads);

}  // namespace dcc
#endif  // DCC_PAYLOAD_DECODING_H_
