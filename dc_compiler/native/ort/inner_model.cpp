// inner_model.cpp: writes the inner model with room for the weights.
#include "ort/inner_model.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/byte_io.h"
#include "model/refusal.h"

namespace dcc::ort {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMessageLimit = (size_t{1} << 31) - (size_t{1} << 20);  // protobuf: below 2 GiB

// Appended to a ModelProto, this adds a node `dcc.released = dcc:ReleaseModel()` to its graph, as protobuf merges
// messages that are concatenated.
// clang-format off
constexpr char kReleaseNode[] =
    "\x3a\x23\x0a\x21"                     // ModelProto.graph, GraphProto.node
    "\x12\x0c" "dcc.released"              // NodeProto.output
    "\x22\x0c" "ReleaseModel"              // NodeProto.op_type
    "\x3a\x03" "dcc"                       // NodeProto.domain
    "\x42\x07\x0a\x03" "dcc" "\x10\x01";  // ModelProto.opset_import: domain, version
// clang-format on
constexpr size_t kReleaseNodeSize = sizeof kReleaseNode - 1;

// Field tags of ModelProto, GraphProto and TensorProto in protobuf's wire format.
enum Tag : char {
  kModelGraph = 0x3a,
  kGraphNode = 0x0a,
  kGraphInitializer = 0x2a,
  kTensorDims = 0x08,
  kTensorType = 0x10,
  kTensorName = 0x42,
  kTensorRawData = 0x4a,
  kTensorDocString = 0x62,
  kTensorExternalData = 0x6a,
  kTensorDataLocation = 0x70,
};

constexpr size_t kGraphLengthSize = 5;

// The fields of a weight's TensorProto that describe it.
std::string description(const Weight& weight) {
  std::string out;
  for (const int64_t extent : weight.type.dims) {
    out.push_back(kTensorDims);
    put_varint(out, static_cast<uint64_t>(extent));
  }
  out.push_back(kTensorType);
  put_varint(out, static_cast<uint64_t>(weight.type.element));
  out.push_back(kTensorName);
  put_varint(out, weight.name.size());
  return out + weight.name;
}

// The initializer up to its raw data, which starts at a multiple of kAlignment when the text is put at `position`.
std::string embedded(const Weight& weight, size_t position) {
  std::string fields = description(weight);
  std::string raw_data(1, kTensorRawData);
  put_varint(raw_data, weight.bytes);
  // The message: description, a doc string as padding, raw data. Its length takes the bytes that the longest padding
  // would need, so that the padding does not move what it aligns.
  const size_t unpadded = fields.size() + 2 + raw_data.size() + weight.bytes;
  const size_t length_size = varint_size(unpadded + kAlignment);
  const size_t start = position + 1 + length_size + fields.size() + 2 + raw_data.size();
  const size_t padding = (kAlignment - start % kAlignment) % kAlignment;
  std::string out(1, kGraphInitializer);
  put_varint(out, unpadded + padding, length_size);
  out += fields;
  out.push_back(kTensorDocString);
  out.push_back(static_cast<char>(padding));
  out.append(padding, ' ');
  return out + raw_data;
}

// The initializer of a weight that is handed over outside the message.
std::string declared_external(const Weight& weight) {
  static constexpr char kLocation[] =
      "\x0a\x08location\x12\x03"
      "dcc";
  std::string fields = description(weight);
  fields.push_back(kTensorExternalData);
  put_varint(fields, sizeof kLocation - 1);
  fields.append(kLocation, sizeof kLocation - 1);
  fields.push_back(kTensorDataLocation);
  fields.push_back(1);
  std::string out(1, kGraphInitializer);
  put_varint(out, fields.size());
  return out + fields;
}

size_t aligned(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// Marks the weights to hand over beside the message (InnerModel::serialize) and returns their bytes. Small ones stay:
// shape inference may want to read them. `order` is by size, largest first.
size_t choose_external(const std::vector<Weight*>& order, size_t total, bool fits_message) {
  constexpr size_t kSmallest = size_t{1} << 20;
  const size_t wanted = order.empty() || order.front()->bytes < total / 2 ? 0 : total / 8;
  size_t outside = 0;
  for (Weight* weight : order) {
    weight->external = weight->bytes >= kSmallest && (!fits_message || outside + weight->bytes <= wanted);
    if (weight->external) outside += aligned(weight->bytes);
  }
  return outside;
}

}  // namespace

void put_varint(std::string& out, uint64_t value, size_t size) {
  for (; value > 127 || size > 1; value >>= 7, size -= size > 1) out.push_back(static_cast<char>((value & 127) | 128));
  out.push_back(static_cast<char>(value));
}

void InnerModel::remove_node(size_t offset) {
  static constexpr std::string_view kUnusedField = "\x1a";  // 3 of GraphProto: readers leave it out
  put_text(offset, kUnusedField);
}

void InnerModel::add_node(std::string_view node) {
  nodes_.push_back(kGraphNode);
  put_varint(nodes_, node.size());
  nodes_ += node;
}

InnerModel::Serialized InnerModel::serialize() {
  // Largest first: protobuf grows long fields by copying, which costs least memory while little else is parsed.
  std::vector<Weight*> order;
  size_t total = 0;
  bool fits = true;
  for (Payload& payload : manifest_.payloads) {
    for (Weight& weight : payload.weights) {
      order.push_back(&weight);
      fits = fits && !__builtin_add_overflow(total, weight.bytes + 2 * kAlignment + weight.name.size() + 400, &total);
    }
  }
  if (!fits) refuse("the weights are too large");
  std::stable_sort(order.begin(), order.end(), [](const Weight* a, const Weight* b) { return a->bytes > b->bytes; });
  MappedBytes external = map_bytes(choose_external(order, total, manifest_.model_size + total < kMessageLimit));

  // GraphProto with added nodes and all initializers: first the texts, whose positions decide the padding, then their
  // place
  const size_t graph_start = manifest_.model_size + kReleaseNodeSize + 1 + kGraphLengthSize;
  size_t position = graph_start + nodes_.size();
  std::vector<std::string> texts;
  for (const Weight* weight : order) {
    texts.push_back(weight->external ? declared_external(*weight) : embedded(*weight, position));
    position += texts.back().size() + (weight->external ? 0 : weight->bytes);
  }
  MappedBytes message = map_bytes(position);
  std::memcpy(message.get(), manifest_.model, manifest_.model_size);
  for (const auto& [offset, text] : texts_) std::memcpy(message.get() + offset, text.data(), text.size());
  std::memcpy(message.get() + manifest_.model_size, kReleaseNode, kReleaseNodeSize);
  std::string head(1, kModelGraph);
  put_varint(head, position - graph_start, kGraphLengthSize);
  std::memcpy(message.get() + graph_start - head.size(), head.data(), head.size());

  std::memcpy(message.get() + graph_start, nodes_.data(), nodes_.size());

  uint8_t* inside = message.get() + graph_start + nodes_.size();
  uint8_t* outside = external.get();
  auto text = texts.begin();
  for (Weight* weight : order) {
    std::memcpy(inside, text->data(), text->size());
    inside += text++->size();
    weight->data = weight->external ? outside : inside;
    (weight->external ? outside : inside) += weight->external ? aligned(weight->bytes) : weight->bytes;
  }
  serialized_size_ = position;
  return {std::move(message), std::move(external)};
}

}  // namespace dcc::ort
