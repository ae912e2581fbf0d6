// run_nodes.cpp: run_nodes.h.
#include "ort/run_nodes.h"

#include <string>

#include "model/refusal.h"

namespace dcc::ort {
namespace {

constexpr size_t kLayerInputs = 3;  // of MatMul, Gemm, Conv and MatMulInteger, at most

// A layer, as far as its nodes have been seen.
struct Layer {
  std::vector<const RunNode*> nodes;  // all of them
  const RunNode* product;
  std::string_view weight;
  bool from_frame;
  bool transposed = false;
  RunPart last = RunPart::kLayer;
  std::string_view step, bias, output;
  const RunNode* bounds = nullptr;

  bool in_int8() const { return product->op == "MatMulInteger"; }
};

std::string_view input_of(const RunNode& node, size_t index) {
  return index < node.inputs.size() ? node.inputs[index] : std::string_view();
}

std::string_view output_of(const RunNode& node) {
  if (node.outputs.size() != 1) refuse("a node of the domain 'dcc.run' has not one output");
  return node.outputs[0];
}

// Puts nodes together to layers, in the order in which they run.
class LayerFinder {
 public:
  explicit LayerFinder(const FromFrame& weights) : weights_(weights) {}

  void add(const RunNode& node) {
    const RunPart part = part_of(node.op);
    if (part == RunPart::kLayer) return start(node);
    if (part == RunPart::kTranspose) return keep(node, transposes_);
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const auto maker = makers_.find(node.inputs[i]);
      if (maker != makers_.end()) return go_on(layers_[maker->second], node, part, i);
    }
    if (part == RunPart::kScale) return keep(node, scales_);
    refuse_node(node);
  }

  std::vector<Layer> take() {
    for (const Layer& layer : layers_) {
      const bool is_whole = !layer.in_int8() || layer.last >= RunPart::kScale;
      if (!is_whole) refuse_node(*layer.product);
    }
    if (!transposes_.empty()) refuse_node(*transposes_.begin()->second);
    if (!scales_.empty()) refuse_node(*scales_.begin()->second);
    return std::move(layers_);
  }

 private:
  using Kept = std::unordered_map<std::string_view, const RunNode*>;  // by output

  [[noreturn]] static void refuse_node(const RunNode& node) {
    refuse("a node " + std::string(node.op) + " of the domain 'dcc.run' belongs to no layer with a sparse weight");
  }

  static bool may_follow(const Layer& layer, RunPart part) {
    switch (part) {
      case RunPart::kCast: return layer.in_int8() && layer.last == RunPart::kLayer;
      case RunPart::kScale: return layer.last == RunPart::kCast;
      case RunPart::kAdd: return layer.last == RunPart::kScale;
      case RunPart::kBound:
        return layer.last == (layer.in_int8() ? RunPart::kScale : RunPart::kLayer) || layer.last == RunPart::kAdd;
      default: return false;
    }
  }

  static void keep(const RunNode& node, Kept& kept) { kept[output_of(node)] = &node; }

  void start(const RunNode& node) {
    Layer layer{{&node}, &node, input_of(node, 1), false, false, RunPart::kLayer, {}, {}, output_of(node), nullptr};
    const auto transpose = transposes_.find(layer.weight);
    if (transpose != transposes_.end() && layer.in_int8()) {
      layer.transposed = true;
      layer.weight = input_of(*transpose->second, 0);
      layer.nodes.push_back(transpose->second);
      transposes_.erase(transpose);
    }
    const auto weight = weights_.find(layer.weight);
    if (weight == weights_.end()) refuse_node(node);
    layer.from_frame = weight->second;
    makers_[layer.output] = layers_.size();
    layers_.push_back(std::move(layer));
  }

  // The next node of a layer, which reads its output as input `index`.
  void go_on(Layer& layer, const RunNode& node, RunPart part, size_t index) {
    if (!may_follow(layer, part) || index > (part == RunPart::kAdd ? 1 : 0)) refuse_node(node);
    if (part == RunPart::kScale) {
      const auto factors = scales_.find(input_of(node, 1));
      if (factors == scales_.end()) refuse_node(node);
      layer.step = input_of(*factors->second, 0);
      layer.nodes.push_back(factors->second);
      scales_.erase(factors);
    }
    if (part == RunPart::kAdd) layer.bias = input_of(node, 1 - index);
    if (part == RunPart::kBound) layer.bounds = &node;
    makers_.erase(layer.output);
    layer.last = part;
    layer.output = output_of(node);
    layer.nodes.push_back(&node);
    makers_[layer.output] = static_cast<size_t>(&layer - layers_.data());
  }

  const FromFrame& weights_;
  std::vector<Layer> layers_;
  std::unordered_map<std::string_view, size_t> makers_;  // by value: the layer that makes it
  Kept transposes_, scales_;                             // that no layer has read yet
};

// A field of text or of another message.
void put_field(std::string& out, unsigned number, std::string_view content) {
  out.push_back(static_cast<char>(number << 3 | 2));
  put_varint(out, content.size());
  out += content;
}

// AttributeProto with name and type: min = 0.0 of Relu, and transB = 1
constexpr std::string_view kFromZero("\x0a\x03min\x15\0\0\0\0\xa0\x01\x01", 13);
constexpr std::string_view kTransposed("\x0a\x06transB\x18\x01\xa0\x01\x02", 13);

// The NodeProto of all nodes of a layer.
std::string fused_node(const Layer& layer) {
  const RunNode& product = *layer.product;
  if (product.inputs.size() > kLayerInputs)
    refuse("a layer of the domain 'dcc.run' has more than " + std::to_string(kLayerInputs) + " inputs");
  std::vector<std::string_view> inputs = product.inputs;
  inputs[1] = layer.weight;
  inputs.resize(kLayerInputs);
  if (layer.in_int8()) inputs.insert(inputs.end(), {layer.step, layer.bias});
  for (size_t i = 1; layer.bounds && i < layer.bounds->inputs.size(); ++i) inputs.push_back(layer.bounds->inputs[i]);
  std::string out;
  for (const std::string_view input : inputs) put_field(out, 1, input);
  put_field(out, 2, layer.output);
  put_field(out, 3, product.name);
  put_field(out, 4, product.op);
  for (const std::string_view attribute : product.attributes) put_field(out, 5, attribute);
  if (layer.transposed) put_field(out, 5, kTransposed);
  if (layer.bounds) {
    for (const std::string_view attribute : layer.bounds->attributes) put_field(out, 5, attribute);
    if (layer.bounds->op == "Relu") put_field(out, 5, kFromZero);
  }
  put_field(out, 7, kRunDomain);
  return out;
}

}  // namespace

void place_run_nodes(InnerModel& model, const std::vector<RunNode>& nodes, const FromFrame& weights) {
  LayerFinder finder(weights);
  for (const RunNode& node : nodes) finder.add(node);
  for (const Layer& layer : finder.take()) {
    if (!layer.from_frame) {
      for (const RunNode* node : layer.nodes) model.put_text(node->domain, kOnnxDomain);
    } else if (layer.nodes.size() > 1) {
      for (const RunNode* node : layer.nodes) model.remove_node(node->field);
      model.add_node(fused_node(layer));
    }
  }
}

}  // namespace dcc::ort
