// inner_model.cpp: reads the manifest of a topology and writes weights into the serialized inner model.
#include "ort/inner_model.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace dcc::ort {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMessageLimit = (size_t{1} << 31) - (size_t{1} << 20);  // protobuf: below 2 GiB

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
    following = byte < 0x80 ? 0 : (byte & 0xe0) == 0xc0 ? 1 : (byte & 0xf0) == 0xe0 ? 2 : (byte & 0xf8) == 0xf0 ? 3 : -1;
    if (following < 0) return false;
  }
  return following == 0;
}

// Reads the manifest in front of the ModelProto; every read is checked against the end.
class ManifestReader {
 public:
  ManifestReader(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

  const uint8_t* take(uint64_t count) {
    if (count > left()) throw Failure("the manifest ends early");
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
    throw Failure("the manifest has a bad number");
  }
  Weight weight() {
    Weight weight{{}, {}, 0, nullptr, false};
    const uint64_t length = varint();
    const uint8_t* name = take(length);
    weight.name.assign(reinterpret_cast<const char*>(name), static_cast<size_t>(length));
    if (!is_utf8(weight.name)) throw Failure("a weight's name is not UTF-8");
    weight.type.element = *take(1);
    weight.bytes = element_size(weight.type.element);
    bool fits = weight.bytes > 0;
    for (unsigned rank = *take(1); rank; --rank) {
      const uint64_t extent = varint();
      fits = fits && extent <= INT64_MAX && !__builtin_mul_overflow(weight.bytes, extent, &weight.bytes);
      weight.type.dims.push_back(static_cast<int64_t>(extent));
    }
    if (!fits) throw Failure("weight '" + weight.name + "' has a bad type or is too large");
    return weight;
  }
  Payload payload() {
    Payload payload;
    for (uint64_t parts = varint(); parts; --parts) payload.weights.push_back(weight());
    if (payload.weights.empty()) throw Failure("a payload without weights");
    for (const Weight& weight : payload.weights)
      if (weight.type.element != payload.weights[0].type.element)
        throw Failure("weight '" + weight.name + "' has another type than its payload");
    return payload;
  }
  size_t left() const { return static_cast<size_t>(end_ - next_); }

 private:
  const uint8_t* next_;
  const uint8_t* end_;
};

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
  kModelGraph = 0x3a, kGraphInitializer = 0x2a, kTensorDims = 0x08, kTensorType = 0x10, kTensorName = 0x42,
  kTensorRawData = 0x4a, kTensorDocString = 0x62, kTensorExternalData = 0x6a, kTensorDataLocation = 0x70,
};

// Writes at least `size` bytes; protobuf reads numbers that are longer than they need to be.
void put_varint(std::string& out, uint64_t value, size_t size = 1) {
  for (; value > 127 || size > 1; value >>= 7, size -= size > 1) out.push_back(static_cast<char>((value & 127) | 128));
  out.push_back(static_cast<char>(value));
}

constexpr size_t kGraphLengthSize = 5;

size_t varint_size(uint64_t value) {
  size_t size = 1;
  while (value >>= 7) ++size;
  return size;
}

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
  static constexpr char kLocation[] = "\x0a\x08location\x12\x03" "dcc";
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

void Unmap::operator()(uint8_t* bytes) const { munmap(bytes, size); }

Bytes allocate(size_t size) {
  const size_t mapped = std::max<size_t>(size, 1);
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, mapped, MADV_HUGEPAGE);  // only a hint
#endif
  return Bytes(static_cast<uint8_t*>(memory), Unmap{mapped});
}

std::string Payload::label() const {
  const std::string more = weights.size() > 1 ? " and " + std::to_string(weights.size() - 1) + " more" : "";
  return "weight '" + weights.front().name + "'" + more;
}

TensorType Payload::type() const {
  if (weights.size() == 1) return weights[0].type;
  const size_t element = element_size(weights[0].type.element);
  size_t count = 0;
  for (const Weight& weight : weights)
    if (__builtin_add_overflow(count, weight.bytes / element, &count)) throw Failure(label() + " are too large");
  return {weights[0].type.element, {static_cast<int64_t>(count)}};
}

InnerModel::InnerModel(const uint8_t* topology, size_t size) {
  ManifestReader reader(topology, size);
  const uint64_t version = reader.varint();
  if (version != 1) throw Failure("this library reads manifest version 1, not " + std::to_string(version));
  for (uint64_t count = reader.varint(); count; --count) payloads_.push_back(reader.payload());
  model_size_ = reader.left();
  model_ = reader.take(model_size_);
}

InnerModel::Serialized InnerModel::serialize() {
  // Largest first: protobuf grows long fields by copying, which costs least memory while little else is parsed.
  std::vector<Weight*> order;
  size_t total = 0;
  bool fits = true;
  for (Payload& payload : payloads_) {
    for (Weight& weight : payload.weights) {
      order.push_back(&weight);
      fits = fits && !__builtin_add_overflow(total, weight.bytes + 2 * kAlignment + weight.name.size() + 400, &total);
    }
  }
  if (!fits) throw Failure("the weights are too large");
  std::stable_sort(order.begin(), order.end(), [](const Weight* a, const Weight* b) { return a->bytes > b->bytes; });
  Bytes external = allocate(choose_external(order, total, model_size_ + total < kMessageLimit));

  // GraphProto with all initializers: first the texts, whose positions decide the padding, then their place
  const size_t graph_start = model_size_ + kReleaseNodeSize + 1 + kGraphLengthSize;
  size_t position = graph_start;
  std::vector<std::string> texts;
  for (const Weight* weight : order) {
    texts.push_back(weight->external ? declared_external(*weight) : embedded(*weight, position));
    position += texts.back().size() + (weight->external ? 0 : weight->bytes);
  }
  Bytes message = allocate(position);
  std::memcpy(message.get(), model_, model_size_);
  std::memcpy(message.get() + model_size_, kReleaseNode, kReleaseNodeSize);
  std::string head(1, kModelGraph);
  put_varint(head, position - graph_start, kGraphLengthSize);
  std::memcpy(message.get() + graph_start - head.size(), head.data(), head.size());

  uint8_t* inside = message.get() + graph_start;
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
