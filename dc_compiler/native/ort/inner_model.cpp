// inner_model.cpp: writes the inner model with room for the weights.
#include "ort/inner_model.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/byte_io.h"
#include "model/onnx_fields.h"
#include "model/refusal.h"

namespace dcc::ort {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMessageLimit = (size_t{1} << 31) - (size_t{1} << 20);  // protobuf: below 2 GiB

// Appended to a ModelProto, this adds a node `dcc.released = dcc.run:ReleaseModel()` to its graph, as protobuf merges
// messages that are concatenated.
// clang-format off
constexpr char kReleaseNode[] =
    "\x3a\x27\x0a\x25"                         // ModelProto.graph, GraphProto.node
    "\x12\x0c" "dcc.released"                  // NodeProto.output
    "\x22\x0c" "ReleaseModel"                  // NodeProto.op_type
    "\x3a\x07" "dcc.run"                       // NodeProto.domain
    "\x42\x0b\x0a\x07" "dcc.run" "\x10\x01";  // ModelProto.opset_import: domain, version
// clang-format on
constexpr std::string_view kReleaseNodeText(kReleaseNode, sizeof kReleaseNode - 1);

constexpr size_t kGraphLengthSize = 5;

// The initializer up to its raw data, which starts at a multiple of kAlignment when the text is put at `position`.
std::string embedded(const Weight& weight, size_t position) {
  const std::string fields = tensor_fields(weight);
  std::string raw_data;
  put_tag(raw_data, kTensorRawData, kBytes);
  put_varint(raw_data, weight.bytes);
  // The message: description, a doc string as padding, raw data. Its length takes the bytes that the longest padding
  // would need, so that the padding does not move what it aligns.
  const size_t unpadded = fields.size() + 2 + raw_data.size() + weight.bytes;
  const size_t length_size = varint_size(unpadded + kAlignment);
  const size_t start = position + 1 + length_size + fields.size() + 2 + raw_data.size();
  const size_t padding = (kAlignment - start % kAlignment) % kAlignment;
  std::string out;
  put_tag(out, kGraphInitializer, kBytes);
  put_varint(out, unpadded + padding, length_size);
  out += fields;
  put_bytes(out, kTensorDocString, std::string(padding, ' '));
  return out + raw_data;
}

// The input of the graph that stands for a weight until it is added.
std::string declared_input(const Weight& weight) {
  std::string shape;
  for (const int64_t extent : weight.type.dims) {
    std::string dim;
    put_number(dim, kDimValue, static_cast<uint64_t>(extent));
    put_bytes(shape, kShapeDim, dim);
  }
  std::string tensor, type, value, out;
  put_number(tensor, kTypeElement, static_cast<uint64_t>(weight.type.element));
  put_bytes(tensor, kTypeShape, shape);
  put_bytes(type, kTypeTensor, tensor);
  put_bytes(value, kValueName, weight.name);
  put_bytes(value, kValueType, type);
  put_bytes(out, kGraphInput, value);
  return out;
}

// The initializer of a weight that is handed over outside the message.
std::string declared_external(const Weight& weight) {
  static constexpr std::string_view kLocation =
      "\x0a\x08location\x12\x03"
      "dcc";
  constexpr uint64_t kIsExternal = 1;
  std::string fields = tensor_fields(weight);
  put_bytes(fields, kTensorExternalData, kLocation);
  put_number(fields, kTensorLocation, kIsExternal);
  std::string out;
  put_bytes(out, kGraphInitializer, fields);
  return out;
}

size_t aligned(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// Marks the weights to hand over beside the message (serialize_for_copying) and returns their bytes. Small ones stay:
// shape inference may want to read them. `weights` are sorted by size, largest first.
size_t choose_external(const std::vector<Weight*>& weights, size_t total, bool fits_message) {
  constexpr size_t kSmallest = size_t{1} << 20;
  const size_t wanted = weights.empty() || weights.front()->bytes < total / 2 ? 0 : total / 8;
  size_t outside = 0;
  for (Weight* weight : weights) {
    weight->external = weight->bytes >= kSmallest && (!fits_message || outside + weight->bytes <= wanted);
    if (weight->external) outside += aligned(weight->bytes);
  }
  return outside;
}

std::vector<Weight*> weights_of(Manifest& manifest) {
  std::vector<Weight*> weights;
  for (Payload& payload : manifest.payloads)
    for (Weight& weight : payload.weights) weights.push_back(&weight);
  return weights;
}

// At most so much of the message is of a weight within it.
size_t room_of(const Weight& weight) {
  size_t size = 0;
  if (__builtin_add_overflow(weight.bytes, 2 * kAlignment + weight.name.size() + 400, &size)) return SIZE_MAX;
  return size;
}

}  // namespace

void InnerModel::remove_node(size_t offset) {
  static constexpr std::string_view kUnusedField = "\x1a";  // 3 of GraphProto: readers leave it out
  put_text(offset, kUnusedField);
}

void InnerModel::add_node(std::string_view node) { put_bytes(nodes_, kGraphNode, node); }

MappedBytes InnerModel::serialize_for_editing() {
  // The editor takes none below 128 bytes, and shape inference may want to read them.
  constexpr size_t kSmallest = 1024;
  const std::vector<Weight*> weights = weights_of(manifest_);
  for (Weight* weight : weights) weight->external = weight->bytes >= kSmallest;
  return write(weights, "", declared_input);
}

InnerModel::Serialized InnerModel::serialize_for_copying() {
  // Largest first: protobuf grows long fields by copying, which costs least memory while little else is parsed.
  std::vector<Weight*> weights = weights_of(manifest_);
  size_t total = 0;
  for (const Weight* weight : weights)
    if (__builtin_add_overflow(total, room_of(*weight), &total)) refuse("the weights are too large");
  std::stable_sort(weights.begin(), weights.end(),
                   [](const Weight* a, const Weight* b) { return a->bytes > b->bytes; });
  MappedBytes external = map_bytes(choose_external(weights, total, manifest_.model_size + total < kMessageLimit));
  uint8_t* outside = external.get();
  for (Weight* weight : weights) {
    if (!weight->external) continue;
    weight->data = outside;
    outside += aligned(weight->bytes);
  }
  return {write(weights, kReleaseNodeText, declared_external), std::move(external)};
}

// The message as it is in the file, with its changed texts, then what is appended, then a GraphProto of the weights.
MappedBytes InnerModel::write(const std::vector<Weight*>& weights, std::string_view appended,
                              std::string (*declare_external)(const Weight&)) {
  // First the texts, whose positions decide the padding, then their place; before them nodes that were added
  const size_t graph_start = manifest_.model_size + appended.size() + 1 + kGraphLengthSize;
  size_t position = graph_start + nodes_.size();
  std::vector<std::string> texts;
  for (const Weight* weight : weights) {
    texts.push_back(weight->external ? declare_external(*weight) : embedded(*weight, position));
    position += texts.back().size() + (weight->external ? 0 : weight->bytes);
    if (position > kMessageLimit) refuse("the inner model is too large for one message");
  }
  MappedBytes message = map_bytes(position);
  std::memcpy(message.get(), manifest_.model, manifest_.model_size);
  for (const auto& [offset, text] : texts_) std::memcpy(message.get() + offset, text.data(), text.size());
  std::memcpy(message.get() + manifest_.model_size, appended.data(), appended.size());
  std::string head;
  put_tag(head, kModelGraph, kBytes);
  put_varint(head, position - graph_start, kGraphLengthSize);
  std::memcpy(message.get() + graph_start - head.size(), head.data(), head.size());

  std::memcpy(message.get() + graph_start, nodes_.data(), nodes_.size());
  uint8_t* next = message.get() + graph_start + nodes_.size();
  auto text = texts.begin();
  for (Weight* weight : weights) {
    std::memcpy(next, text->data(), text->size());
    next += text++->size();
    if (weight->external) continue;
    weight->data = next;
    next += weight->bytes;
  }
  serialized_size_ = position;
  return message;
}

}  // namespace dcc::ort
