// unpack.cpp: unpack.h.
#include "model/unpack.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/large_array.h"
#include "frame/codec.h"
#include "model/budget.h"
#include "model/message.h"
#include "model/model_check.h"
#include "model/node_attributes.h"
#include "model/onnx_fields.h"
#include "model/payload_decoding.h"
#include "model/refusal.h"

namespace dcc {
namespace {

using Names = std::unordered_set<std::string_view>;

constexpr std::string_view kDomain = "dcc";
constexpr std::string_view kOwnMetadata = "dcc.";  // what keys begin with

constexpr uint32_t kFunctionNode = 7;
// A value's name, an import's domain, an entry's key, TypeProto.tensor_type, its elements
constexpr uint32_t kFirst = 1;

template <class Visit>
void each_field(std::string_view message, const Visit& visit) {
  WireReader reader(message);
  WireField field;
  while (reader.next(field)) visit(field);
}

// The last field of that number, as protobuf reads it.
std::string_view text_of(std::string_view message, uint32_t number) {
  std::string_view text;
  each_field(message, [&](const WireField& field) {
    if (field.number == number && field.type == kBytes) text = field.bytes;
  });
  return text;
}

uint64_t number_of(std::string_view message, uint32_t number) {
  uint64_t value = 0;
  each_field(message, [&](const WireField& field) {
    if (field.number == number && field.type == kNumber) value = field.value;
  });
  return value;
}

Span span_of(std::string_view bytes) { return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}; }

std::string quoted(std::string_view name) { return "'" + std::string(name) + "'"; }

// A model's message and those of its graph: when it comes in several parts, it is what they hold together.
struct ModelParts {
  explicit ModelParts(std::string_view message) : model(message) {
    each_field(message, [&](const WireField& field) {
      if (field.number == kModelGraph && field.type == kBytes) graphs.push_back(field.bytes);
    });
  }
  template <class Visit>
  void each_of_graph(const Visit& visit) const {
    for (const std::string_view graph : graphs) each_field(graph, visit);
  }
  template <class Visit>
  void each_of_graph(uint32_t number, const Visit& visit) const {
    each_of_graph([&](const WireField& field) {
      if (field.number == number && field.type == kBytes) visit(field.bytes);
    });
  }
  std::string_view model;
  std::vector<std::string_view> graphs;
};

struct Node {
  explicit Node(std::string_view message) {
    each_field(message, [&](const WireField& field) {
      if (field.type != kBytes) return;
      switch (field.number) {
        case kNodeInput: inputs.push_back(field.bytes); return;
        case kNodeOutput: outputs.push_back(field.bytes); return;
        case kNodeName: name = field.bytes; return;
        case kNodeOperator: op = field.bytes; return;
        case kNodeAttribute: attributes.push_back(field.bytes); return;
        case kNodeDomain: domain = field.bytes; return;
        default: return;
      }
    });
  }
  bool makes_any(const Names& names) const {
    return std::any_of(outputs.begin(), outputs.end(), [&](auto output) { return names.count(output) != 0; });
  }
  std::vector<std::string_view> inputs, outputs, attributes;
  std::string_view name, op, domain;
};

// Adds what a node reads, and what the nodes of its bodies do, of which none may be ours.
void add_reads(const Node& node, Names& names) {
  std::vector<std::string_view> bodies;
  const auto add = [&](const Node& reader) {
    names.insert(reader.inputs.begin(), reader.inputs.end());
    for (const std::string_view attribute : reader.attributes)
      each_field(attribute, [&](const WireField& field) {
        const bool holds_graph = field.number == kAttributeGraph || field.number == kAttributeGraphs;
        if (holds_graph && field.type == kBytes) bodies.push_back(field.bytes);
      });
  };
  add(node);
  while (!bodies.empty()) {
    const std::string_view body = bodies.back();
    bodies.pop_back();
    each_field(body, [&](const WireField& field) {
      if (field.type != kBytes) return;
      if (field.number == kGraphOutput) names.insert(text_of(field.bytes, kFirst));
      if (field.number != kGraphNode) return;
      const Node inner(field.bytes);
      if (inner.domain == kDomain) refuse("node " + quoted(inner.name) + " of the domain 'dcc' stands in a body");
      add(inner);
    });
  }
}

// A tensor that the file stores.
struct Stored {
  explicit Stored(std::string_view message)
      : name(text_of(message, kTensorName)),
        data(text_of(message, kTensorRawData)),
        type(number_of(message, kTensorType)),
        is_elsewhere(number_of(message, kTensorLocation) != 0) {}
  std::string_view name, data;
  uint64_t type;
  bool is_elsewhere;
};

// What a graph calls its inputs or outputs, with the element type of each, 0 where it is not declared.
using Values = std::vector<std::pair<std::string_view, uint64_t>>;

Values values_of(const ModelParts& parts, uint32_t number) {
  Values values;
  parts.each_of_graph(number, [&](std::string_view value) {
    const std::string_view tensor = text_of(text_of(value, kValueType), kFirst);
    values.emplace_back(text_of(value, kFirst), number_of(tensor, kFirst));
  });
  return values;
}

// Refuses a node whose inputs or outputs are not those of the inner model.
void check_values(const std::string& kind, const std::vector<std::string_view>& names, const Values& outer,
                  const Values& inner) {
  if (names.size() != inner.size())
    refuse(kind + "s of the graph are " + std::to_string(names.size()) + ", those of the inner model " +
           std::to_string(inner.size()));
  std::unordered_map<std::string_view, uint64_t> types(outer.begin(), outer.end());
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string what = kind + " " + quoted(names[i]) + " of the graph is ";
    if (inner[i].first != names[i]) refuse(what + quoted(inner[i].first) + " in the inner model; give it that name");
    const auto here = types.find(names[i]);
    const uint64_t there = inner[i].second;
    if (here == types.end() || here->second == 0 || there == 0 || here->second == there) continue;
    const auto text = [](uint64_t type) {
      return element_name(static_cast<ElementType>(std::min<uint64_t>(type, 999)));
    };
    refuse(what + text(here->second) + ", in the inner model " + text(there));
  }
}

// The initializer of a weight up to its bytes.
std::string initializer_start(const Weight& weight) {
  std::string fields = tensor_fields(weight);
  put_tag(fields, kTensorRawData, kBytes);
  put_varint(fields, weight.bytes);
  std::string start;
  put_tag(start, kGraphInitializer, kBytes);
  put_varint(start, uint64_t{fields.size()} + weight.bytes);
  return start + fields;
}

// A node of the domain "dcc.run" as one of ONNX's, which it is but for its domain.
std::string as_standard_node(std::string_view node) {
  std::string fields;
  each_field(node, [&](const WireField& field) {
    if (field.number != kNodeDomain) fields += field.whole;
  });
  std::string whole;
  put_bytes(whole, kGraphNode, fields);
  return whole;
}

class DenseModel {
 public:
  DenseModel(std::string_view file, std::optional<uint64_t> limit, int threads)
      : outer_(file), budget_(limit, "allow more"), threads_(threads), model_(budget_), graph_(budget_) {
    check_is_written();
    std::vector<Node> nodes;
    bool has_others = false;
    outer_.each_of_graph(kGraphNode, [&](std::string_view message) {
      Node node(message);
      if (node.domain == kDomain)
        nodes.push_back(std::move(node));
      else
        has_others = true;
    });
    outer_.each_of_graph(kGraphInitializer, [&](std::string_view message) {
      const Stored tensor(message);
      stored_.insert_or_assign(tensor.name, tensor);
    });
    if (nodes.size() != 1 || nodes[0].op != "CompiledModel") {
      read_graph(nodes);
      return;
    }
    if (has_others) refuse("other nodes stand beside the compiled model in the graph; unpack it before more is added");
    read_session(nodes[0]);
  }

  void write(const std::function<uint8_t*(size_t)>& allocate) {
    for (Payload& payload : payloads_)
      for (Weight& weight : payload.weights) graph_.add_weight(kGraphInitializer, initializer_start(weight), weight);
    model_.add_message(kModelGraph, std::move(graph_));
    model_.write(allocate(model_.size()));
    decode_payloads(frames_, payloads_, threads_);
  }

 private:
  void check_is_written() const {
    bool is_written = false;
    each_field(outer_.model, [&](const WireField& field) {
      if (field.type != kBytes) return;
      const bool is_import = field.number == kModelImport && text_of(field.bytes, kFirst) == kDomain;
      const bool is_version = field.number == kModelMetadata && text_of(field.bytes, kFirst) == "dcc.version";
      is_written = is_written || is_import || is_version;
    });
    if (outer_.graphs.empty()) refuse("the model has no graph");
    if (!is_written) throw Failure(DCC_BAD_ARGUMENT, "the model was not compiled by dcc");
  }

  // Session form ------------------------------------------------------------------------------------------------------

  void read_session(const Node& node) {
    const size_t count = model_inputs(node);
    for (size_t i = count; i < node.inputs.size(); ++i) add_frame(node.inputs[i], quoted(node.inputs[i]));
    spend_frames([&](size_t i) { return quoted(node.inputs[count + i]); });
    decode_topology();
    frames_.erase(frames_.begin());
    Manifest manifest = read_manifest(topology_.data(), topology_.size(), frames_.size(), stored_bytes_);
    for (size_t i = 0; i < frames_.size(); ++i) check_declared(manifest.payloads[i], frames_[i]);
    put_attributes_back(manifest, frames_, threads_, budget_, filled_);
    check_inner_model(manifest, budget_);
    payloads_ = std::move(manifest.payloads);
    const ModelParts inner({reinterpret_cast<const char*>(manifest.model), manifest.model_size});
    const Names defaults = check_values_of(node, count, inner);
    add_outer_model(inner);
    add_inner_graph(inner, defaults);
  }

  static size_t model_inputs(const Node& node) {
    uint64_t count = UINT64_MAX;
    for (const std::string_view attribute : node.attributes)
      if (text_of(attribute, kAttributeName) == "model_inputs") count = number_of(attribute, kAttributeInt);
    if (count >= node.inputs.size()) refuse("node " + quoted(node.name) + " lacks its topology");
    return static_cast<size_t>(count);
  }

  void decode_topology() {
    const StoredFrame& frame = frames_[0];
    if (frame.type.element != kElementUint8 || frame.type.dims.size() != 1)
      refuse("the topology's frame is not a uint8 vector");
    topology_.resize(frame.decoded_bytes);
    Payload payload;
    payload.weights.push_back({"topology", frame.type, topology_.size(), topology_.data(), false, Execution::kDecode});
    decode_payloads({frame}, {payload}, threads_);
  }

  // Compares what both graphs say. Returns the inputs of the outer graph, whose initializers are defaults.
  Names check_values_of(const Node& node, size_t count, const ModelParts& inner) const {
    Names stored;
    inner.each_of_graph(kGraphInitializer, [&](auto tensor) { stored.insert(text_of(tensor, kTensorName)); });
    for (const Payload& payload : payloads_)
      for (const Weight& weight : payload.weights)
        if (!stored.insert(weight.name).second) refuse("weight '" + weight.name + "' is in the inner model, too");
    Values inputs = values_of(inner, kGraphInput);
    const auto is_stored = [&](const auto& input) { return stored.count(input.first) != 0; };
    inputs.erase(std::remove_if(inputs.begin(), inputs.end(), is_stored), inputs.end());
    const Values outer_inputs = values_of(outer_, kGraphInput);
    const auto begin = node.inputs.begin();
    check_values("input", {begin, begin + static_cast<std::ptrdiff_t>(count)}, outer_inputs, inputs);
    check_values("output", node.outputs, values_of(outer_, kGraphOutput), values_of(inner, kGraphOutput));
    Names names;
    for (const auto& input : outer_inputs) names.insert(input.first);
    return names;
  }

  // What the outer model says about itself, with the operator sets and functions of the inner one.
  void add_outer_model(const ModelParts& inner) {
    each_field(outer_.model, [&](const WireField& field) {
      const bool is_replaced =
          field.number == kModelGraph || field.number == kModelImport || field.number == kModelFunction;
      if (!is_replaced && !is_own(field)) model_.add(field.number, field.whole);
    });
    each_field(inner.model, [&](const WireField& field) {
      const bool is_wanted = field.number == kModelImport || field.number == kModelFunction;
      if (is_wanted && !is_own(field)) model_.add(field.number, field.whole);
    });
  }

  void add_inner_graph(const ModelParts& inner, const Names& defaults) {
    inner.each_of_graph([&](const WireField& field) {
      if (field.number == kGraphDocString) return;
      if (field.number == kGraphNode && field.type == kBytes && text_of(field.bytes, kNodeDomain) == kRunDomain)
        graph_.keep(kGraphNode, as_standard_node(field.bytes));
      else
        graph_.add(field.number, field.whole);
    });
    outer_.each_of_graph([&](const WireField& field) {
      const bool is_default = field.number == kGraphInitializer && field.type == kBytes &&
                              defaults.count(text_of(field.bytes, kTensorName)) != 0;
      if (is_default || field.number == kGraphDocString || field.number == kGraphMetadata)
        graph_.add(field.number, field.whole);
    });
  }

  // Graph form --------------------------------------------------------------------------------------------------------

  void read_graph(const std::vector<Node>& decoders) {
    Names removed;  // payloads and buffers, unless something else reads them
    for (const Node& node : decoders) {
      const size_t outputs = node.op == "DecodeWeights" ? 1 : node.op == "DecodeInt8" ? 2 : 0;
      const bool is_known = outputs != 0 && !node.inputs.empty() && node.outputs.size() == outputs;
      if (!is_known) refuse("node " + quoted(node.name) + " is not one that this version of dcc knows");
      add_decoder(node);
      removed.insert(node.inputs.begin(), node.inputs.end());
    }
    spend_frames([&](size_t i) { return payloads_[i].label(); });
    each_field(outer_.model, [&](const WireField& field) {
      if (field.number == kModelFunction && field.type == kBytes) check_function(field.bytes);
      if (field.number != kModelGraph && !is_own(field)) model_.add(field.number, field.whole);
    });
    const std::vector<bool> nodes_stay = choose_nodes(removed);
    size_t node = 0;
    outer_.each_of_graph([&](const WireField& field) {
      const bool is_bytes = field.type == kBytes;
      if (field.number == kGraphNode && is_bytes && !nodes_stay[node++]) return;
      if (field.number == kGraphInitializer && is_bytes && removed.count(text_of(field.bytes, kTensorName))) return;
      graph_.add(field.number, field.whole);
    });
  }

  void add_decoder(const Node& node) {
    const std::string what = "weight " + quoted(node.outputs[0]);
    add_frame(node.inputs[0], what);
    const StoredFrame& frame = frames_.back();
    if (!element_size(frame.type.element)) refuse(what + ": the payload holds " + element_name(frame.type.element));
    const std::string name(node.outputs[0]);
    Payload payload;
    if (node.op == "DecodeInt8") {
      if (frame.type.element != kElementFloat) refuse(what + ": the payload is not of floats, as for int8");
      const auto channels = static_cast<int64_t>(frame.channels);
      const TensorType points{kElementInt8, frame.type.dims}, scales{kElementFloat, {channels}};
      payload.weights.push_back({name, points, frame.decoded_bytes / sizeof(float), nullptr, false, Execution::kInt8});
      payload.weights.push_back({std::string(node.outputs[1]), scales,
                                 static_cast<size_t>(frame.channels) * sizeof(float), nullptr, false,
                                 Execution::kInt8Scale});
    } else {
      payload.weights.push_back({name, frame.type, frame.decoded_bytes, nullptr, false, Execution::kDecode});
    }
    payloads_.push_back(std::move(payload));
  }

  static void check_function(std::string_view function) {
    each_field(function, [&](const WireField& field) {
      if (field.number != kFunctionNode || field.type != kBytes) return;
      const Node node(field.bytes);
      if (node.domain == kDomain) refuse("node " + quoted(node.name) + " of the domain 'dcc' stands in a function");
      Names unused;
      add_reads(node, unused);
    });
  }

  // Which nodes stay: all but decoders and what makes buffers for them alone. A buffer may take two nodes, so what a
  // node that goes has read goes too, unless a node that stays reads it; readers come after what they read. Of
  // `removed` the names that go are left.
  std::vector<bool> choose_nodes(Names& removed) const {
    std::vector<std::string_view> nodes;
    outer_.each_of_graph(kGraphNode, [&](std::string_view node) { nodes.push_back(node); });
    Names read;
    outer_.each_of_graph(kGraphOutput, [&](std::string_view value) { read.insert(text_of(value, kFirst)); });
    std::vector<bool> stays(nodes.size());
    for (size_t i = nodes.size(); i-- > 0;) {
      const Node node(nodes[i]);
      if (node.domain == kDomain) continue;
      if (node.makes_any(removed) && !node.makes_any(read)) {
        removed.insert(node.inputs.begin(), node.inputs.end());
        continue;
      }
      stays[i] = true;
      add_reads(node, read);
    }
    for (const std::string_view name : read) removed.erase(name);
    return stays;
  }

  // Both --------------------------------------------------------------------------------------------------------------

  // An import or metadata that belongs to compiled models.
  static bool is_own(const WireField& field) {
    if (field.type != kBytes || (field.number != kModelImport && field.number != kModelMetadata)) return false;
    const std::string_view first = text_of(field.bytes, kFirst);
    if (field.number == kModelImport) return first == kDomain || first == kRunDomain;
    return first.substr(0, kOwnMetadata.size()) == kOwnMetadata;
  }

  void add_frame(std::string_view name, const std::string& what) {
    const auto found = stored_.find(name);
    if (found == stored_.end()) refuse(what + ": the payload is not an initializer of the model");
    const Stored& tensor = found->second;
    if (tensor.is_elsewhere)
      refuse(what + ": the payload is in another file (external data); save the model as one file");
    if (tensor.type != static_cast<uint64_t>(kElementUint8)) refuse(what + ": the payload is not a uint8 vector");
    frames_.push_back(read_stored_frame(span_of(tensor.data), what));
    stored_bytes_ += tensor.data.size();
  }

  // Before anything is allocated for what they decode to.
  template <class Label>
  void spend_frames(const Label& label) {
    budget_.add_stored(stored_bytes_);
    for (size_t i = 0; i < frames_.size(); ++i) budget_.spend(frames_[i].decoded_bytes, label(i));
  }

  const ModelParts outer_;
  std::unordered_map<std::string_view, Stored> stored_;
  Budget budget_;
  int threads_;
  uint64_t stored_bytes_ = 0;  // that frames take in the file
  std::vector<StoredFrame> frames_;
  std::vector<Payload> payloads_;  // one for each frame
  LargeArray<uint8_t> topology_;   // holds the inner model
  std::string filled_;             // it with its attributes, where some are packed
  Message model_, graph_;
};

}  // namespace

void unpack(std::string_view file, std::optional<uint64_t> limit, int threads,
            const std::function<uint8_t*(size_t)>& allocate) {
  DenseModel(file, limit, threads).write(allocate);
}

}  // namespace dcc
