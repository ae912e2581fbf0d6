// payload_frame.cpp: payload_frame.h.
#include "ort/payload_frame.h"

namespace dcc::ort {

StoredFrame read_payload(const Context& context, const OrtKernelInfo* info, size_t index, const std::string& what) {
  const Api& api = context.owner.api;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  if (!is_constant) refuse(what + ": the payload is not an initializer of the model");
  const TensorType type = type_of(api, value);
  if (type.element != kElementUint8 || type.dims.size() != 1) refuse(what + ": the payload is not a uint8 vector");
  const Span bytes{data_of(api, value), static_cast<size_t>(type.dims[0])};
  StoredFrame frame = read_stored_frame(bytes, what);
  context.budget->add_stored(bytes.size);
  return frame;
}

}  // namespace dcc::ort
