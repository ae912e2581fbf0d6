// manifest.h: reads the list of weights in front of an inner model (FORMAT.md 9.2). Needs no onnxruntime.
#ifndef DCC_MANIFEST_H_
#define DCC_MANIFEST_H_

#include <string>
#include <vector>

#include "model/tensor_type.h"

namespace dcc {

// How operators get a weight from the frame.
enum class Execution {
  kDecode,      // the dense tensor
  kInt8,        // the points of its grid as int8
  kInt8Scale,   // the scales that belong to the int8 weight before it
  kSparse,      // the frame itself, for operators that keep what is not zero; or the dense tensor, for their like
  kSparseInt8,  // the same for int8: the frame, or the points of its grid, with scales
  kFrame,       // the frame, as is decided when loading
  kAttributes,  // none does: the bytes are attributes of a node (node_attributes.h)
};

// A weight as the manifest declares it, and, once the model is serialized, where its decoded bytes belong.
struct Weight {
  std::string name;
  TensorType type;
  size_t bytes;
  uint8_t* data;
  bool external;  // handed over beside the message, not in it
  Execution execution;
};

// The weights that one payload decodes to, one after another; or an int8 weight and its scales.
struct Payload {
  std::vector<Weight> weights;
  std::string label() const;  // "weight 'name'", for errors
  TensorType type() const;    // what the payload's frame must hold
  bool is_int8() const {      // a weight and its scales
    return weights[0].execution == Execution::kInt8 || weights[0].execution == Execution::kSparseInt8;
  }
  bool may_run_sparse() const {
    return weights[0].execution == Execution::kSparse || weights[0].execution == Execution::kSparseInt8;
  }
  bool is_attributes() const { return weights[0].execution == Execution::kAttributes; }
  bool is_frame() const { return weights[0].execution == Execution::kFrame; }
};

struct Manifest {
  std::vector<Payload> payloads;
  const uint8_t* model;  // the ModelProto behind it
  size_t model_size;
};

// Parses a topology, which must stay where it is. The manifest must list `payload_count` payloads, and at most
// `stored_bytes` weights: the bytes of topology and payloads as they are in the file, of which no weight takes less
// than one. Both hold before anything is allocated for them. Throws Failure.
Manifest read_manifest(const uint8_t* topology, size_t size, size_t payload_count, uint64_t stored_bytes);

}  // namespace dcc
#endif  // DCC_MANIFEST_H_
