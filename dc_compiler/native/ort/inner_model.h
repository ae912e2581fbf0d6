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

class InnerModel {
 public:
  // The topology behind the manifest must stay where it is.
  explicit InnerModel(Manifest manifest) : manifest_(std::move(manifest)) {}

  const Manifest& manifest() const { return manifest_; }
  const std::vector<Payload>& payloads() const { return manifest_.payloads; }
  std::vector<Payload>& payloads() { return manifest_.payloads; }

  // Puts a text over one of the same length that begins at `offset` of the message.
  void put_text(size_t offset, std::string_view text) { texts_.emplace_back(offset, text); }

  // Takes a node of the main graph away, whose field begins at `offset`.
  void remove_node(size_t offset);

  // Adds a NodeProto to the main graph. Where it stands does not matter to onnxruntime.
  void add_node(std::string_view node);

  // The ModelProto for a runtime that takes weights where they lie: those of some KB and more are external, inputs of
  // the graph behind its own. Their memory is the caller's to give, as Weight::data. Throws Failure.
  MappedBytes serialize_for_editing();

  // The ModelProto for a runtime that copies weights: with a node dcc.run:ReleaseModel and an initializer for every
  // weight. While onnxruntime parses the message, every byte in it is in memory twice; then every external weight is,
  // and stays so until the kernels are made. Measured, the least peak has an eighth outside when one weight is most of
  // the model, and nothing otherwise. Where the message would pass protobuf's limit, all large weights are outside.
  // Throws Failure.
  struct Serialized {
    MappedBytes message;
    MappedBytes external;  // the memory of the external weights
  };
  Serialized serialize_for_copying();

  // After both: Weight::data says where the bytes of a weight are still to be written.
  size_t serialized_size() const { return serialized_size_; }

 private:
  MappedBytes write(const std::vector<Weight*>& weights, std::string_view appended,
                    std::string (*declare_external)(const Weight&));

  Manifest manifest_;
  std::vector<std::pair<size_t, std::string_view>> texts_;
  std::string nodes_;  // fields of GraphProto
  size_t serialized_size_ = 0;
};

}  // namespace dcc::ort
#endif  // DCC_INNER_MODEL_H_
