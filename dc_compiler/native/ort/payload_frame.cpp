// payload_frame.cpp: a frame in an initializer of the outer graph.
#include "ort/payload_frame.h"

namespace dcc::ort {

PayloadFrame read_payload(const Context& context, const OrtKernelInfo* info, size_t index, const std::string& what) {
  const Api& api = context.owner.api;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  if (!is_constant) refuse(what + ": the payload is not an initializer of the model");
  const TensorType stored = type_of(api, value);
  if (stored.element != kElementUint8 || stored.dims.size() != 1) refuse(what + ": the payload is not a uint8 vector");

  PayloadFrame frame{data_of(api, value), static_cast<size_t>(stored.dims[0]), {}, 0, 1.0, 0};
  dcc_frame_info header;
  std::string error;
  if (parse_header(frame.data, frame.size, header, error) != DCC_OK) refuse(what + ": " + error);
  frame.type.element = header.dtype;
  frame.channels = header.channels;
  if (header.elements) frame.kept = static_cast<double>(header.nonzero) / static_cast<double>(header.elements);
  for (size_t i = 0; i < header.rank; ++i) {
    if (header.dims[i] > INT64_MAX) refuse(what + ": dimension " + std::to_string(i) + " is too large");
    frame.type.dims.push_back(static_cast<int64_t>(header.dims[i]));
  }
  if (__builtin_mul_overflow(header.elements, element_size(header.dtype), &frame.bytes))
    refuse(what + ": the decoded tensor is too large");
  context.budget->add_stored(frame.size);
  return frame;
}

}  // namespace dcc::ort
