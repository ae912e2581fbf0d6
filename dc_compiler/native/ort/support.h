// support.h: what both operators need to speak the C ABI: exceptions inside, OrtStatus outside; owned handles.
#ifndef DCC_ORT_SUPPORT_H_
#define DCC_ORT_SUPPORT_H_

#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "frame/codec.h"
#include "ort/abi.h"

namespace dcc::ort {

// An error on its way to an OrtStatus.
struct Failure : std::exception {
  explicit Failure(std::string text) : message(std::move(text)) {}
  const char* what() const noexcept override { return message.c_str(); }
  std::string message;
};

// Throws the error that `status` holds, if any.
inline void check(const Api& api, OrtStatus* status) {
  if (!status) return;
  std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw Failure(std::move(message));
}

// Runs `body` and turns what it throws into a status. No exception may cross into onnxruntime.
template <class Body>
OrtStatus* guarded(const Api& api, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(kFail, "out of memory");
  } catch (const std::exception& error) {
    return api.CreateStatus(kFail, error.what());
  }
}

template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

// Calls a function that hands out one value or handle through its last parameter.
template <class T, class... Parameters, class... Arguments>
T get(const Api& api, OrtStatus* (*function)(Parameters...), Arguments... arguments) {
  T value{};
  check(api, function(arguments..., &value));
  return value;
}

// Calls a function that fills a caller's buffer with a string; `size` counts the final NUL both ways.
template <class Function, class... Arguments>
std::string get_string(const Api& api, Function function, Arguments... arguments) {
  size_t size = 0;
  check(api, function(arguments..., nullptr, &size));
  std::string text(size, '\0');
  check(api, function(arguments..., text.data(), &size));
  text.resize(size ? size - 1 : 0);
  return text;
}

struct TensorType {
  ElementType element;
  std::vector<int64_t> dims;  // -1 where unknown
};

inline TensorType read_type(const Api& api, const OrtTensorTypeAndShapeInfo* info) {
  TensorType type{get<ElementType>(api, api.GetTensorElementType, info), {}};
  type.dims.resize(get<size_t>(api, api.GetDimensionsCount, info));
  check(api, api.GetDimensions(info, type.dims.data(), type.dims.size()));
  return type;
}

inline TensorType type_of(const Api& api, const OrtValue* value) {
  const Owned<OrtTensorTypeAndShapeInfo> info(get<OrtTensorTypeAndShapeInfo*>(api, api.GetTensorTypeAndShape, value),
                                              api.ReleaseTensorTypeAndShapeInfo);
  return read_type(api, info.get());
}

// The tensor's bytes. Old versions of the C ABI have no const accessor.
inline uint8_t* data_of(const Api& api, const OrtValue* value) {
  return static_cast<uint8_t*>(get<void*>(api, api.GetTensorMutableData, const_cast<OrtValue*>(value)));
}

// Bytes of one element, or 0 for what is not plain memory (strings, packed sub-byte types).
inline size_t element_size(ElementType type) {
  constexpr uint8_t sizes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 8, 16, 2, 1, 1, 1, 1};
  return type >= 0 && static_cast<size_t>(type) < sizeof sizes ? sizes[type] : 0;
}

inline std::string dims_text(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

// Everything one call of RegisterCustomOps leaves behind; the operators of its domain point here.
struct Registration {
  Api api;
  uint32_t version;            // API version in use
  std::string runtime;         // onnxruntime's own version
  OrtSessionOptions* options;  // copy of the options being registered, this library's domain included
  int threads;                 // for decoding; 0 = all processors
};

// An operator and the registration it belongs to.
struct Operator : OrtCustomOp {
  Operator(const Registration& owner, const char* (*name)(const OrtCustomOp*)) : OrtCustomOp(), registration(&owner) {
    version = owner.version;
    GetName = name;
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // CPU
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
  }
  const Registration* registration;
};

// Connects `Kernel(const Registration&, const OrtKernelInfo*)` and `Kernel::compute(OrtKernelContext*)` to an operator.
template <class Kernel>
void use_kernel(Operator& op) {
  struct Instance {
    Instance(const Registration& owner, const OrtKernelInfo* info) : api(owner.api), kernel(owner, info) {}
    const Api& api;
    Kernel kernel;
  };
  op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi*, const OrtKernelInfo* info, void** out) {
    const Registration& owner = *static_cast<const Operator*>(self)->registration;
    return guarded(owner.api, [&] { *out = new Instance(owner, info); });
  };
  op.KernelComputeV2 = [](void* instance, OrtKernelContext* context) {
    auto* self = static_cast<Instance*>(instance);
    return guarded(self->api, [&] { self->kernel.compute(context); });
  };
  op.KernelDestroy = [](void* instance) { delete static_cast<Instance*>(instance); };
}

// A frame in an initializer (which lives as long as the session it belongs to), its header checked.
struct Frame {
  const uint8_t* data;
  size_t size;
  TensorType type;
  size_t bytes;  // of the decoded tensor
};

// The frame in the node's input `index`. `what` starts the error when that is no constant uint8 tensor or no frame.
inline Frame read_frame(const Api& api, const OrtKernelInfo* info, size_t index, const std::string& what) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  if (!is_constant) throw Failure(what + ": the payload is not an initializer of the model");
  const TensorType stored = type_of(api, value);
  if (stored.element != kUint8 || stored.dims.size() != 1) throw Failure(what + ": the payload is not a uint8 vector");

  Frame frame{data_of(api, value), static_cast<size_t>(stored.dims[0]), {}, 0};
  dcc_frame_info header;
  std::string error;
  if (parse_frame(frame.data, frame.size, header, error) != DCC_OK) throw Failure(what + ": " + error);
  frame.type.element = header.dtype;
  for (size_t i = 0; i < header.rank; ++i) {
    if (header.dims[i] > INT64_MAX) throw Failure(what + ": dimension " + std::to_string(i) + " is too large");
    frame.type.dims.push_back(static_cast<int64_t>(header.dims[i]));
  }
  if (__builtin_mul_overflow(header.elements, element_size(header.dtype), &frame.bytes))
    throw Failure(what + ": the decoded tensor is too large");
  return frame;
}

// "node 'name'", for errors.
inline std::string node_text(const Api& api, const OrtKernelInfo* info) {
  return "node '" + get_string(api, api.KernelInfo_GetNodeName, info) + "'";
}

Operator decode_weights_operator(const Registration& owner);   // ort_ops.cpp
Operator compiled_model_operator(const Registration& owner);   // ort_session.cpp
Operator release_model_operator(const Registration& owner);  // ort_session.cpp; used inside compiled models only

}  // namespace dcc::ort
#endif  // DCC_ORT_SUPPORT_H_
