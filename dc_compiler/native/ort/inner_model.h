// inner_model.h: the model behind dcc:CompiledModel: its list of weights and its serialized form (FORMAT.md 9.2).
#ifndef DCC_INNER_MODEL_H_
#define DCC_INNER_MODEL_H_

#include "ort/support.h"

namespace dcc::ort {

// Memory aligned for any vector instruction that goes back to the system when freed (malloc may keep it), in huge pages
// where the system gives them: they are faster to touch first.
struct Unmap {
  void operator()(uint8_t* bytes) const;
  size_t size = 0;
};
using Bytes = std::unique_ptr<uint8_t[], Unmap>;
Bytes allocate(size_t size);

// A weight as the manifest declares it, and, once the model is serialized, where its decoded bytes belong.
struct Weight {
  std::string name;
  TensorType type;
  size_t bytes;
  uint8_t* data;
  bool external;  // handed over beside the message, not in it
};

// The weights that one payload decodes to, one after another.
struct Payload {
  std::vector<Weight> weights;
  std::string label() const;  // "weight 'name'", for errors
  TensorType type() const;    // what the payload's frame must hold
};

class InnerModel {
 public:
  // Parses a topology; `topology` must stay where it is. Throws Failure.
  InnerModel(const uint8_t* topology, size_t size);

  const std::vector<Payload>& payloads() const { return payloads_; }

  // The ModelProto with a node dcc:ReleaseModel and an initializer for every weight, whose bytes are still to be
  // written to Weight::data. While onnxruntime parses the message, every byte in it is in memory twice; then every
  // external weight is, and stays so until the kernels are made. Measured, the least peak has an eighth outside when one
  // weight is most of the model, and nothing otherwise. Where the message would pass protobuf's limit, all large weights
  // are outside.
  struct Serialized {
    Bytes message;
    Bytes external;  // the memory of the external weights
  };
  Serialized serialize();
  size_t serialized_size() const { return serialized_size_; }

 private:
  const uint8_t* model_;
  size_t model_size_;
  std::vector<Payload> payloads_;
  size_t serialized_size_ = 0;
};

}  // namespace dcc::ort
#endif  // DCC_INNER_MODEL_H_
