// support.h: what both operators need to speak the C ABI: exceptions inside, OrtStatus outside; owned handles; types.
#ifndef DCC_SUPPORT_H_
#define DCC_SUPPORT_H_

#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "model/refusal.h"
#include "ort/abi.h"

namespace dcc::ort {

// Throws the error that `status` holds, if any.
inline void check(const Api& api, OrtStatus* status) {
  if (!status) return;
  const std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  refuse(message);
}

// Runs `body` and turns what it throws into a status. No exception may cross into onnxruntime.
template <class Body>
OrtStatus* as_status(const Api& api, const Body& body) noexcept {
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

// The name that `function` tells of a session's input or output.
inline std::string read_name(const Api& api, OrtStatus* (*function)(const OrtSession*, size_t, OrtAllocator*, char**),
                             const OrtSession* session, size_t index) {
  auto* allocator = get<OrtAllocator*>(api, api.GetAllocatorWithDefaultOptions);
  char* text = get<char*>(api, function, session, index, allocator);
  const std::string name = text;
  check(api, api.AllocatorFree(allocator, text));
  return name;
}

inline TensorType read_type(const Api& api, const OrtTensorTypeAndShapeInfo* info) {
  TensorType type{get<ElementType>(api, api.GetTensorElementType, info), {}};
  type.dims.resize(get<size_t>(api, api.GetDimensionsCount, info));
  check(api, api.GetDimensions(info, type.dims.data(), type.dims.size()));
  return type;
}

// The type of a value that a graph or a session declares; `what` names the value. Refuses all but dense tensors whose
// elements are plain memory: strings, sequences, maps, optional and sparse values do not pass through the operators.
inline TensorType declared_type(const Api& api, OrtTypeInfo* info, const std::string& what) {
  const Owned<OrtTypeInfo> owner(info, api.ReleaseTypeInfo);
  const OrtTypeInfo* declared = info;
  if (!declared) refuse(what + " has no type");
  if (get<int>(api, api.GetOnnxTypeFromTypeInfo, declared) != kTensorValue) refuse(what + " is no tensor");
  const TensorType type =
      read_type(api, get<const OrtTensorTypeAndShapeInfo*>(api, api.CastTypeInfoToTensorInfo, declared));
  if (!element_size(type.element))
    refuse(what + " has " + element_name(type.element) + " elements, which custom operators do not carry");
  return type;
}

inline TensorType type_of(const Api& api, const OrtValue* value) {
  if (get<int>(api, api.GetValueType, value) != kTensorValue) refuse("a value is no tensor");
  const Owned<OrtTensorTypeAndShapeInfo> info(get<OrtTensorTypeAndShapeInfo*>(api, api.GetTensorTypeAndShape, value),
                                              api.ReleaseTensorTypeAndShapeInfo);
  return read_type(api, info.get());
}

// The tensor's bytes. Old versions of the C ABI have no const accessor.
inline uint8_t* data_of(const Api& api, const OrtValue* value) {
  return static_cast<uint8_t*>(get<void*>(api, api.GetTensorMutableData, const_cast<OrtValue*>(value)));
}

// "node 'name'", for errors.
inline std::string node_text(const Api& api, const OrtKernelInfo* info) {
  return "node '" + get_string(api, api.KernelInfo_GetNodeName, info) + "'";
}

}  // namespace dcc::ort
#endif  // DCC_SUPPORT_H_
