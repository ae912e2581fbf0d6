// onnx_fields.h: the fields of onnx.proto that are read and written here, by number.
#ifndef DCC_ONNX_FIELDS_H_
#define DCC_ONNX_FIELDS_H_

#include <string>

#include "model/manifest.h"
#include "model/wire.h"

namespace dcc {

enum ModelField : uint32_t { kModelGraph = 7, kModelImport = 8, kModelMetadata = 14, kModelFunction = 25 };
enum GraphField : uint32_t {
  kGraphNode = 1,
  kGraphInitializer = 5,
  kGraphDocString = 10,
  kGraphInput = 11,
  kGraphOutput = 12,
  kGraphMetadata = 16,
};
enum NodeField : uint32_t {
  kNodeInput = 1,
  kNodeOutput = 2,
  kNodeName = 3,
  kNodeOperator = 4,
  kNodeAttribute = 5,
  kNodeDomain = 7,
};
enum AttributeField : uint32_t {
  kAttributeName = 1,
  kAttributeInt = 3,
  kAttributeText = 4,
  kAttributeGraph = 6,
  kAttributeGraphs = 11
};
enum TensorField : uint32_t {
  kTensorDims = 1,
  kTensorType = 2,
  kTensorName = 8,
  kTensorRawData = 9,
  kTensorDocString = 12,
  kTensorExternalData = 13,
  kTensorLocation = 14,
};
enum ValueField : uint32_t { kValueName = 1, kValueType = 2 };
enum TypeField : uint32_t { kTypeTensor = 1, kTypeElement = 1, kTypeShape = 2 };
enum ShapeField : uint32_t { kShapeDim = 1, kDimValue = 1 };

// The fields of a weight's TensorProto that describe it.
inline std::string tensor_fields(const Weight& weight) {
  std::string fields;
  for (const int64_t extent : weight.type.dims) put_number(fields, kTensorDims, static_cast<uint64_t>(extent));
  put_number(fields, kTensorType, static_cast<uint64_t>(weight.type.element));
  put_bytes(fields, kTensorName, weight.name);
  return fields;
}

}  // namespace dcc
#endif  // DCC_ONNX_FIELDS_H_
