// codec.h: what the rest of the library may ask of the codec in C++ (the C interface is dcc.h).
#ifndef DCC_CODEC_H_
#define DCC_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "dcc.h"

namespace dcc {

// One frame to decode, and the buffer for its elements. `out_bytes` must be exactly elements * element size.
//
// With `scales`, the points of a scaled grid are wanted instead of f32 elements, int8 each, and its `channels` scales.
struct DecodeJob {
  const uint8_t* frame;
  size_t size;
  void* out;
  size_t out_bytes;
  float* scales = nullptr;
  size_t channels = 0;
};

// Decodes all jobs, the chunks of all frames spread over `threads` threads (<= 0: one per processor this process may
// use). Returns DCC_OK or an error code; on failure `error` holds a sentence and `*failed` the index of the first bad
// job. Throws nothing.
int decode_all(const DecodeJob* jobs, size_t count, int threads, std::string& error, size_t* failed);

// Parses and checks everything but the streams themselves. Returns DCC_OK or an error code with a sentence. Throws
// nothing.
int parse_frame(const uint8_t* frame, size_t size, dcc_frame_info& info, std::string& error);

// Reads what the header tells of the tensor (dtype, rank, dims, elements, nonzero, channels), and no more: what decodes
// the frame checks the rest. Otherwise as above.
int parse_header(const uint8_t* frame, size_t size, dcc_frame_info& info, std::string& error);

// The functions behind dcc_frame_decode_indices and dcc_frame_encode. Both throw Failure (failure.h) or std::bad_alloc.
void decode_indices(const uint8_t* frame, size_t size, uint16_t* indices, size_t capacity, int threads);
std::vector<uint8_t> encode_frame(const dcc_encode_request& request);

}  // namespace dcc
#endif  // DCC_CODEC_H_
