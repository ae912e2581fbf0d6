// inner_model.h: the model behind dcc:CompiledModel with room for its weights (FORMAT.md 9.2). Needs no onnxruntime.
#ifndef DCC_INNER_MODEL_H_
#define DCC_INNER_MODEL_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/manifest.h"
#include "ort/mapped_bytes.h"

namespace dcc::ort {

// Writes at least `size` bytes; protobuf reads numbers that are longer than they need to be.
void put_varint(std::string& out, uint64_t value, size_t size = 1);

class InnerModel {
 public:
  // The topology behind the manifest must stay where it is.
  explicit InnerModel(Manifest manifest) : manifest_(std::move(manifest)) {}

  const std::vector<Payload>& payloads() const { return manifest_.payloads; }
  std::vector<Payload>& payloads() { return manifest_.payloads; }
  const uint8_t* message() const { return manifest_.model; }  // as it is in the file, without the weights
  size_t message_size() const { return manifest_.model_size; }

  // Puts a text over one of the same length that begins at `offset` of the message.
  void put_text(size_t offset, std::string_view text) { texts_.emplace_back(offset, text); }

  // Takes a node of the main graph away, whose field begins at `offset`.
  void remove_node(size_t offset);

  // Adds a NodeProto to the main graph. Where it stands does not matter to onnxruntime.
  void add_node(std::string_view node);

  // The ModelProto with a node dcc:ReleaseModel and an initializer for every weight, whose bytes are still to be
  // written to Weight::data. While onnxruntime parses the message, every byte in it is in memory twice; then every
  // external weight is, and stays so until the kernels are made. Measured, the least peak has an eighth outside when
  // one weight is most of the model, and nothing otherwise. Where the message would pass protobuf's limit, all large
  // weights are outside. Throws Failure.
  struct Serialized {
    MappedBytes message;
    MappedBytes external;  // the memory of the external weights
  };
  Serialized serialize();
  size_t serialized_size() const { return serialized_size_; }

 private:
  Manifest manifest_;
  std::vector<std::pair<size_t, std::string_view>> texts_;
  std::string nodes_;  // fields of GraphProto
  size_t serialized_size_ = 0;
};

}  // namespace dcc::ort
#endif  // DCC_INNER_MODEL_H_
