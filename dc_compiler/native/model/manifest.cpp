// manifest.cpp: reads the list of weights in front of an inner model (FORMAT.md 9.2).
#include "model/manifest.h"

#include <string_view>
#include <unordered_set>

#include "base/failure.h"
#include "model/refusal.h"

namespace dcc {
namespace {

// Whether errors can quote the text: byte sequences are well formed (code points are not looked at).
bool is_utf8(const std::string& text) {
  int following = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xc0) == 0x80) {
      if (following-- == 0) return false;
      continue;
    }
    if (following) return false;
    following = byte < 0x80             ? 0
                : (byte & 0xe0) == 0xc0 ? 1
                : (byte & 0xf0) == 0xe0 ? 2
                : (byte & 0xf8) == 0xf0 ? 3
                                        : -1;
    if (following < 0) return false;
  }
  return following == 0;
}

// Refuses a weight that is to be run in a way which this library does not know.
Execution execution_of(const std::string& name, const std::string& text) {
  if (text == "decode") return Execution::kDecode;
  if (text == "int8") return Execution::kInt8;
  if (text == "int8.scale") return Execution::kInt8Scale;
  if (text == "sparse") return Execution::kSparse;
  if (text == "sparse.int8") return Execution::kSparseInt8;
  if (text == "attributes") return Execution::kAttributes;
  refuse("weight '" + name + "' is to be run by '" + text + "', which this library does not know; a newer one may");
}

// An int8 weight comes with its scales and nothing else, a sparse one alone.
void check_executions(const Payload& payload) {
  const std::vector<Weight>& weights = payload.weights;
  if (payload.is_int8()) {
    const bool is_pair = weights.size() == 2 && weights[1].execution == Execution::kInt8Scale;
    if (!is_pair || weights[0].type.element != kElementInt8 || weights[1].type.element != kElementFloat ||
        weights[1].type.dims.size() != 1)
      refuse("weight '" + weights[0].name + "' is to be run in int8, but is not an int8 tensor with a float vector");
    return;
  }
  if (payload.may_run_sparse()) {
    if (weights.size() > 1 || weights[0].type.element != kElementFloat)
      refuse("weight '" + weights[0].name + "' is to be run by 'sparse', but is not a float tensor alone");
    return;
  }
  if (payload.is_attributes()) {
    if (weights.size() > 1 || weights[0].type.element != kElementUint8 || weights[0].type.dims.size() != 1)
      refuse("weight '" + weights[0].name + "' is to be a node's attributes, but is not a uint8 vector alone");
    return;
  }
  for (const Weight& weight : weights) {
    if (weight.execution != Execution::kDecode)
      refuse("weight '" + weight.name + "' has another execution than its payload");
    if (weight.type.element != weights[0].type.element)
      refuse("weight '" + weight.name + "' has another type than its payload");
    if (weights.size() > 1 && element_size(weight.type.element) == 0)
      refuse("weight '" + weight.name + "' has elements that share bytes, but no payload of its own");
  }
}

// Every read is checked against the end.
class ManifestReader {
 public:
  ManifestReader(const uint8_t* data, size_t size, uint64_t most_weights)
      : next_(data), end_(data + size), weights_left_(most_weights) {}

  const uint8_t* take(uint64_t count) {
    if (count > left()) refuse("the manifest ends early");
    const uint8_t* start = next_;
    next_ += count;
    return start;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const uint8_t byte = *take(1);
      if ((shift == 63 && byte > 1) || (shift && byte == 0)) break;  // over 64 bits, or not the shortest form
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    refuse("the manifest has a bad number");
  }
  // A weight has its execution behind it from version 2 on.
  Payload payload(uint64_t version) {
    Payload payload;
    for (uint64_t parts = varint(); parts; --parts) {
      if (weights_left_-- == 0) refuse("the manifest lists more weights than the file has bytes");
      payload.weights.push_back(weight());
      if (version < 2) continue;
      Weight& last = payload.weights.back();
      last.execution = execution_of(last.name, text("a weight's execution is not UTF-8"));
    }
    if (payload.weights.empty()) refuse("a payload without weights");
    check_executions(payload);
    return payload;
  }
  size_t left() const { return static_cast<size_t>(end_ - next_); }

 private:
  std::string text(const char* complaint) {
    const uint64_t length = varint();
    const uint8_t* bytes = take(length);
    std::string text(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
    if (!is_utf8(text)) refuse(complaint);
    return text;
  }
  Weight weight() {
    Weight weight{{}, {}, 0, nullptr, false, Execution::kDecode};
    weight.name = text("a weight's name is not UTF-8");
    weight.type.element = *take(1);
    uint64_t elements = 1;
    bool fits = true;
    for (unsigned rank = *take(1); rank; --rank) {
      const uint64_t extent = varint();
      fits = fits && extent <= INT64_MAX && !__builtin_mul_overflow(elements, extent, &elements);
      weight.type.dims.push_back(static_cast<int64_t>(extent));
    }
    if (!fits || !bytes_of_elements(weight.type.element, elements, weight.bytes))
      refuse("weight '" + weight.name + "' has a bad type or is too large");
    return weight;
  }

  const uint8_t* next_;
  const uint8_t* end_;
  uint64_t weights_left_;
};

void check_names_differ(const std::vector<Payload>& payloads) {
  std::unordered_set<std::string_view> names;
  for (const Payload& payload : payloads)
    for (const Weight& weight : payload.weights)
      if (!names.insert(weight.name).second) refuse("the manifest lists weight '" + weight.name + "' twice");
}

}  // namespace

std::string Payload::label() const {
  const std::string more =
      weights.size() > 1 && !is_int8() ? " and " + std::to_string(weights.size() - 1) + " more" : "";
  return "weight '" + weights.front().name + "'" + more;
}

TensorType Payload::type() const {
  if (is_int8()) return {kElementFloat, weights[0].type.dims};
  if (weights.size() == 1) return weights[0].type;
  const size_t element = element_size(weights[0].type.element);
  size_t count = 0;
  for (const Weight& weight : weights)
    if (__builtin_add_overflow(count, weight.bytes / element, &count)) refuse(label() + " are too large");
  return {weights[0].type.element, {static_cast<int64_t>(count)}};
}

Manifest read_manifest(const uint8_t* topology, size_t size, size_t payload_count, uint64_t stored_bytes) {
  ManifestReader reader(topology, size, stored_bytes);
  const uint64_t version = reader.varint();
  if (version < 1 || version > 2)
    refuse("this library reads manifest versions 1 and 2, not " + std::to_string(version));
  const uint64_t count = reader.varint();
  if (count != payload_count)
    refuse("the model has " + std::to_string(count) + " packed weights, but " + std::to_string(payload_count) +
           " payloads are given");
  Manifest manifest;
  for (size_t i = 0; i < payload_count; ++i) manifest.payloads.push_back(reader.payload(version));
  check_names_differ(manifest.payloads);
  manifest.model_size = reader.left();
  manifest.model = reader.take(manifest.model_size);
  return manifest;
}

}  // namespace dcc
