// run_layers.cpp: run_layers.h.
#include "model/run_layers.h"

#include <string>
#include <utility>

#include "model/refusal.h"

namespace dcc {
namespace {

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

  std::vector<RunLayer> take() {
    for (const RunLayer& layer : layers_) {
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

  static bool may_follow(const RunLayer& layer, RunPart part) {
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
    RunLayer layer{{&node}, &node, input_of(node, 1), false, false, RunPart::kLayer, {}, {}, output_of(node), nullptr};
    const auto transpose = transposes_.find(layer.weight);
    if (transpose != transposes_.end() && layer.in_int8()) {
      layer.transposed = true;
      layer.weight = input_of(*transpose->second, 0);
      layer.nodes.push_back(transpose->second);
      transposes_.erase(transpose);
    }
    const auto weight = weights_.find(layer.weight);
    if (weight == weights_.end()) refuse_node(node);
    if (node.inputs.size() > kLayerInputs)
      refuse("a layer of the domain 'dcc.run' has more than " + std::to_string(kLayerInputs) + " inputs");
    layer.from_frame = weight->second;
    makers_[layer.output] = layers_.size();
    layers_.push_back(std::move(layer));
  }

  // The next node of a layer, which reads its output as input `index`.
  void go_on(RunLayer& layer, const RunNode& node, RunPart part, size_t index) {
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
  std::vector<RunLayer> layers_;
  std::unordered_map<std::string_view, size_t> makers_;  // by value: the layer that makes it
  Kept transposes_, scales_;                             // that no layer has read yet
};

}  // namespace

std::vector<RunLayer> find_run_layers(const std::vector<RunNode>& nodes, const FromFrame& weights) {
  LayerFinder finder(weights);
  for (const RunNode& node : nodes) finder.add(node);
  return finder.take();
}

}  // namespace dcc
