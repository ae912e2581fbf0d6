// payload_decoding.cpp: payload_decoding.h.
#include "model/payload_decoding.h"

#include <cstring>

#include "base/large_array.h"
#include "model/refusal.h"

namespace dcc {
namespace {

// Where the weights of one payload go that do not go there at once.
struct Detour {
  const Payload& payload;
  LargeArray<uint8_t> elements;  // of several weights
  std::vector<float> scales;     // of an int8 weight: in a message they need not be aligned

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
  const Span bytes = frame.bytes;
  if (detour.payload.is_int8()) {
    detour.scales.resize(weights[1].bytes / sizeof(float));
    return {bytes.data, bytes.size, weights[0].data, weights[0].bytes, detour.scales.data(), detour.scales.size()};
  }
  detour.elements.resize(frame.decoded_bytes);
  return {bytes.data, bytes.size, detour.elements.data(), frame.decoded_bytes};
}

// `label` tells what the job of an index decodes.
template <class Label>
void decode_jobs(const std::vector<DecodeJob>& jobs, int threads, const Label& label) {
  std::string error;
  size_t failed = 0;
  const int code = decode_all(jobs.data(), jobs.size(), threads, error, &failed);
  if (code == DCC_OK) return;
  const bool is_frames_fault = code != DCC_CANCELLED && code != DCC_OUT_OF_MEMORY;
  throw Failure(is_frames_fault ? DCC_CORRUPT : code, is_frames_fault ? label(failed) + ": " + error : error);
}

}  // namespace

StoredFrame read_stored_frame(Span frame, const std::string& what) {
  dcc_frame_info header;
  std::string error;
  if (parse_header(frame.data, frame.size, header, error) != DCC_OK) refuse(what + ": " + error);
  StoredFrame stored{frame, {header.dtype, {}}};
  for (size_t i = 0; i < header.rank; ++i) {
    if (header.dims[i] > INT64_MAX) refuse(what + ": dimension " + std::to_string(i) + " is too large");
    stored.type.dims.push_back(static_cast<int64_t>(header.dims[i]));
  }
  if (!bytes_of_elements(header.dtype, header.elements, stored.decoded_bytes))
    refuse(what + ": the decoded tensor is too large");
  stored.channels = static_cast<size_t>(header.channels);
  if (header.elements) stored.kept = static_cast<double>(header.nonzero) / static_cast<double>(header.elements);
  return stored;
}

void check_declared(const Payload& payload, const StoredFrame& frame) {
  const TensorType declared = payload.type();
  if (frame.type.element != declared.element || frame.type.dims != declared.dims)
    refuse(payload.label() + ": the model has " + type_text(declared) + ", the payload " + type_text(frame.type));
}

void decode_frame(const DecodeJob& job, int threads, const std::string& what) {
  decode_jobs({job}, threads, [&](size_t) { return what; });
}

void decode_payloads(const std::vector<StoredFrame>& frames, const std::vector<Payload>& payloads, int threads) {
  std::vector<Detour> detours;
  detours.reserve(payloads.size());
  std::vector<DecodeJob> jobs;
  std::vector<const Payload*> owners;
  for (size_t i = 0; i < payloads.size(); ++i) {
    const std::vector<Weight>& weights = payloads[i].weights;
    const Span bytes = frames[i].bytes;
    if (payloads[i].is_frame()) {
      if (weights[0].data != bytes.data) std::memcpy(weights[0].data, bytes.data, bytes.size);
      continue;
    }
    owners.push_back(&payloads[i]);
    if (weights.size() == 1) {
      jobs.push_back({bytes.data, bytes.size, weights[0].data, weights[0].bytes});
    } else {
      detours.push_back({payloads[i], {}, {}});
      jobs.push_back(job_of(frames[i], detours.back()));
    }
  }
  decode_jobs(jobs, threads, [&](size_t job) { return owners[job]->label(); });
  for (const Detour& detour : detours) detour.end();
}

}  // namespace dcc
