// tensor_type.h: element types by their ONNX number, and the type of a tensor as a file or a session declares it.
#ifndef DCC_TENSOR_TYPE_H_
#define DCC_TENSOR_TYPE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dcc {

// TensorProto.DataType; a frame's dtype has the same values, and so does ONNXTensorElementDataType up to 23.
using ElementType = int;
constexpr ElementType kElementUndefined = 0;
constexpr ElementType kElementFloat = 1;
constexpr ElementType kElementUint8 = 2;
constexpr ElementType kElementInt8 = 3;

struct ElementTypeInfo {
  const char* name;
  size_t size;  // bytes of one element; 0 for what is not plain memory: strings, elements smaller than a byte
};

inline const ElementTypeInfo* element_type_info(ElementType type) {
  static constexpr ElementTypeInfo kTypes[] = {
      {"no known type", 0},  {"float", 4},    {"uint8", 1},        {"int8", 1},           {"uint16", 2},
      {"int16", 2},          {"int32", 4},    {"int64", 8},        {"string", 0},         {"bool", 1},
      {"float16", 2},        {"double", 8},   {"uint32", 4},       {"uint64", 8},         {"complex64", 8},
      {"complex128", 16},    {"bfloat16", 2}, {"float8e4m3fn", 1}, {"float8e4m3fnuz", 1}, {"float8e5m2", 1},
      {"float8e5m2fnuz", 1}, {"uint4", 0},    {"int4", 0},         {"float4e2m1", 0}};
  const bool known = type >= 0 && static_cast<size_t>(type) < sizeof kTypes / sizeof *kTypes;
  return known ? &kTypes[type] : nullptr;
}

inline size_t element_size(ElementType type) {
  const ElementTypeInfo* info = element_type_info(type);
  return info ? info->size : 0;
}

// For errors.
inline std::string element_name(ElementType type) {
  const ElementTypeInfo* info = element_type_info(type);
  return info ? info->name : "number " + std::to_string(type);
}

// Bytes of so many elements; elements of 4 bits share bytes, the first in the lower half. False for strings and the
// like, and where they are too many.
inline bool bytes_of_elements(ElementType type, uint64_t elements, size_t& bytes) {
  if (type >= 21 && type <= 23) {
    bytes = static_cast<size_t>(elements / 2 + elements % 2);
    return elements <= SIZE_MAX;
  }
  const size_t size = element_size(type);
  return size != 0 && !__builtin_mul_overflow(elements, size, &bytes);
}

struct TensorType {
  ElementType element;
  std::vector<int64_t> dims;  // -1 where unknown
};

inline std::string dims_text(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + (dims[i] < 0 ? "?" : std::to_string(dims[i]));
  return text + "]";
}

// As messages show it: "element type float and shape [3, ?]".
inline std::string type_text(const TensorType& type) {
  const std::string shape = type.dims.empty() ? "" : " and shape " + dims_text(type.dims);
  return "element type " + element_name(type.element) + shape;
}

// Whether a tensor could have both types. onnxruntime reports a shape that nobody declared as that of a scalar.
inline bool compatible(const TensorType& a, const TensorType& b) {
  if (a.element != b.element) return false;
  if (a.dims.empty() || b.dims.empty()) return true;
  bool same = a.dims.size() == b.dims.size();
  for (size_t i = 0; same && i < a.dims.size(); ++i) same = a.dims[i] < 0 || b.dims[i] < 0 || a.dims[i] == b.dims[i];
  return same;
}

}  // namespace dcc
#endif  // DCC_TENSOR_TYPE_H_
