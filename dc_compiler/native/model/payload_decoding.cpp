// payload_decoding.cpp: payload_decoding.h.
#include "model/payload_decoding.h"

#include <cstring>
#include <string>

#include "base/large_array.h"
#include "frame/codec.h"
#include "model/refusal.h"

namespace dcc {
namespace {

const uint8_t* data_of(std::string_view bytes) { return reinterpret_cast<const uint8_t*>(bytes.data()); }

// Where the weights of one payload go that do not go there at once.
struct Detour {
  const Payload& payload;
  LargeArray<uint8_t> elements;  // of several weights
  std::vector<float> scales;     // of an int8 weight: in the message they need not be aligned

  void end() const {
    const std::vector<Weight>& weights = payload.weights;
    if (payload.is_int8()) {
      if (!scales.empty()) std::memcpy(weights[1].data, scales.data(), weights[1].bytes);
      return;
    }
    const uint8_t* next = elements.data();
    for (const Weight& weight : weights) {
      if (weight.bytes) std::memcpy(weight.data, next, weight.bytes);
      next += weight.bytes;
    }
  }
};

DecodeJob job_of(const StoredFrame& frame, Detour& detour) {
  const std::vector<Weight>& weights = detour.payload.weights;
  const uint8_t* const bytes = data_of(frame.bytes);
  if (detour.payload.is_int8()) {
    detour.scales.resize(weights[1].bytes / sizeof(float));
    return {bytes, frame.bytes.size(), weights[0].data, weights[0].bytes, detour.scales.data(), detour.scales.size()};
  }
  detour.elements.resize(frame.decoded_bytes);
  return {bytes, frame.bytes.size(), detour.elements.data(), frame.decoded_bytes};
}

}  // namespace

StoredFrame read_stored_frame(std::string_view frame, const std::string& what) {
  dcc_frame_info header;
  std::string error;
  if (parse_frame(data_of(frame), frame.size(), header, error) != DCC_OK) refuse(what + ": " + error);
  StoredFrame stored{frame, {header.dtype, {}}, 0, header.channels};
  for (size_t i = 0; i < header.rank; ++i) {
    if (header.dims[i] > INT64_MAX) refuse(what + ": dimension " + std::to_string(i) + " is too large");
    stored.type.dims.push_back(static_cast<int64_t>(header.dims[i]));
  }
  if (__builtin_mul_overflow(header.elements, element_size(header.dtype), &stored.decoded_bytes))
    refuse(what + ": the decoded tensor is too large");
  return stored;
}

void check_declared(const Payload& payload, const StoredFrame& frame) {
  const TensorType declared = payload.type();
  if (frame.type.element != declared.element || frame.type.dims != declared.dims)
    refuse(payload.label() + ": the model has " + type_text(declared) + ", the payload " + type_text(frame.type));
}

void decode_payloads(const std::vector<StoredFrame>& frames, const std::vector<Payload>& payloads, int threads) {
  std::vector<Detour> detours;
  detours.reserve(payloads.size());
  std::vector<DecodeJob> jobs;
  for (size_t i = 0; i < payloads.size(); ++i) {
    const std::vector<Weight>& weights = payloads[i].weights;
    if (weights.size() == 1) {
      jobs.push_back({data_of(frames[i].bytes), frames[i].bytes.size(), weights[0].data, weights[0].bytes});
    } else {
      detours.push_back({payloads[i], {}, {}});
      jobs.push_back(job_of(frames[i], detours.back()));
    }
  }
  std::string error;
  size_t failed = 0;
  const int code = decode_all(jobs.data(), jobs.size(), threads, error, &failed);
  if (code == DCC_CANCELLED || code == DCC_OUT_OF_MEMORY) throw Failure(code, error);
  if (code != DCC_OK) refuse(payloads[failed].label() + ": " + error);
  for (const Detour& detour : detours) detour.end();
}

}  // namespace dcc
