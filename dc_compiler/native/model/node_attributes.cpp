// node_attributes.cpp: node_attributes.h.
#include "model/node_attributes.h"

#include <unordered_map>
#include <utility>

#include "base/large_array.h"
#include "model/onnx_fields.h"
#include "model/refusal.h"

namespace dcc {
namespace {

constexpr std::string_view kMark = "dcc.attributes";  // an attribute that names the payload whose bytes take its place
constexpr uint64_t kDecodingCost = 8;                 // bytes that decoding takes for each, beside what it gives

using Attributes = std::unordered_map<std::string_view, std::string_view>;  // by the payload's name

// The payload that an attribute is the mark of; empty for another attribute.
std::string_view marked(std::string_view attribute) {
  std::string_view name, text;
  WireReader reader(attribute);
  for (WireField field; reader.next(field);) {
    if (field.type == kBytes && field.number == kAttributeName) name = field.bytes;
    if (field.type == kBytes && field.number == kAttributeText) text = field.bytes;
  }
  return name == kMark ? text : std::string_view();
}

// Copies the fields of a message; `replace` appends another field instead of one, and tells whether it did.
template <typename Replace>
std::string rewritten(std::string_view message, const Replace& replace) {
  std::string out;
  WireReader reader(message);
  for (WireField field; reader.next(field);)
    if (field.type != kBytes || !replace(field, out)) out += field.whole;
  return out;
}

class Filling {
 public:
  explicit Filling(Attributes attributes) : left_(std::move(attributes)) {}

  std::string model(std::string_view message) {
    std::string out = rewritten(message, [&](const WireField& field, std::string& to) {
      if (field.number == kModelGraph) put_bytes(to, kModelGraph, graph(field.bytes));
      return field.number == kModelGraph;
    });
    if (!left_.empty()) refuse("weight '" + std::string(left_.begin()->first) + "' belongs to no node");
    return out;
  }

 private:
  std::string graph(std::string_view message) {
    return rewritten(message, [&](const WireField& field, std::string& to) {
      if (field.number != kGraphNode || !has_mark(field.bytes)) return false;
      put_bytes(to, kGraphNode, node(field.bytes));
      return true;
    });
  }

  static bool has_mark(std::string_view node) {
    WireReader reader(node);
    for (WireField field; reader.next(field);)
      if (field.type == kBytes && field.number == kNodeAttribute && !marked(field.bytes).empty()) return true;
    return false;
  }

  std::string node(std::string_view message) {
    return rewritten(message, [&](const WireField& field, std::string& to) {
      const std::string_view name = field.number == kNodeAttribute ? marked(field.bytes) : std::string_view();
      if (name.empty()) return false;
      const auto found = left_.find(name);
      if (found == left_.end()) refuse("a node wants attributes '" + std::string(name) + "', which no payload holds");
      append_attributes(found->second, to);
      left_.erase(found);
      return true;
    });
  }

  static void append_attributes(std::string_view bytes, std::string& to) {
    WireReader reader(bytes);
    for (WireField field; reader.next(field);)
      if (field.number != kNodeAttribute || field.type != kBytes) refuse("packed attributes hold something else");
    to += bytes;
  }

  Attributes left_;
};

}  // namespace

void put_attributes_back(Manifest& manifest, std::vector<StoredFrame>& frames, int threads, Budget& budget,
                         std::string& filled) {
  std::vector<Payload> attributes, others;
  std::vector<StoredFrame> other_frames;
  std::vector<LargeArray<uint8_t>> decoded;
  uint64_t size = manifest.model_size;
  for (size_t i = 0; i < frames.size(); ++i) {
    Payload& payload = manifest.payloads[i];
    if (!payload.is_attributes()) {
      other_frames.push_back(std::move(frames[i]));
      others.push_back(std::move(payload));
      continue;
    }
    budget.spend(kDecodingCost * frames[i].decoded_bytes, payload.label());
    decoded.emplace_back(frames[i].decoded_bytes);
    size += decoded.back().size();
    const Span frame = frames[i].bytes;
    decode_frame({frame.data, frame.size, decoded.back().data(), decoded.back().size()}, threads, payload.label());
    attributes.push_back(std::move(payload));
  }
  frames = std::move(other_frames);
  manifest.payloads = std::move(others);
  if (attributes.empty()) return;
  budget.spend(3 * size, "the inner model");  // the message, while it is put together
  Attributes by_name;
  for (size_t i = 0; i < attributes.size(); ++i)
    by_name.emplace(attributes[i].weights[0].name,
                    std::string_view(reinterpret_cast<const char*>(decoded[i].data()), decoded[i].size()));
  filled = Filling(std::move(by_name)).model({reinterpret_cast<const char*>(manifest.model), manifest.model_size});
  manifest.model = reinterpret_cast<const uint8_t*>(filled.data());
  manifest.model_size = filled.size();
}

}  // namespace dcc
