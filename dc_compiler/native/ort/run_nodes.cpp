// run_nodes.cpp: run_nodes.h.
#include "ort/run_nodes.h"

#include <string>

#include "model/refusal.h"

namespace dcc::ort {
namespace {

constexpr size_t kMostLayerInputs = 3;  // the weight is the second, the bias the third

// A layer and what bounds its outputs, if anything does.
struct Layer {
  const RunNode* node;
  bool from_frame;
  const RunNode* bounds = nullptr;
};

std::string_view input_of(const RunNode& node, size_t index) {
  return index < node.inputs.size() ? node.inputs[index] : std::string_view();
}

std::string_view output_of(const RunNode& node) {
  if (node.outputs.size() != 1) refuse("a node of the domain 'dcc.run' has not one output");
  return node.outputs[0];
}

std::vector<Layer> find_layers(const std::vector<RunNode>& nodes, const FromFrame& weights) {
  std::vector<Layer> layers;
  std::unordered_map<std::string_view, size_t> makers;  // by value: the layer that makes it
  for (const RunNode& node : nodes) {
    if (is_layer(node.op)) {
      const auto weight = weights.find(input_of(node, 1));
      if (weight == weights.end())
        refuse("a node of the domain 'dcc.run' reads '" + std::string(input_of(node, 1)) +
               "', which is no sparse weight");
      makers[output_of(node)] = layers.size();
      layers.push_back({&node, weight->second});
      continue;
    }
    const auto maker = makers.find(input_of(node, 0));
    if (maker == makers.end() || layers[maker->second].bounds)
      refuse("a node " + std::string(node.op) + " of the domain 'dcc.run' reads '" + std::string(input_of(node, 0)) +
             "', which no layer of that domain makes for it alone");
    layers[maker->second].bounds = &node;
  }
  return layers;
}

// A field of text or of another message.
void put_field(std::string& out, unsigned number, std::string_view content) {
  out.push_back(static_cast<char>(number << 3 | 2));
  put_varint(out, content.size());
  out += content;
}

// Attribute min of Relu: AttributeProto.name, f, type FLOAT
constexpr std::string_view kFromZero("\x0a\x03min\x15\0\0\0\0\xa0\x01\x01", 13);

// The NodeProto of both.
std::string fused_node(const RunNode& layer, const RunNode& bounds) {
  std::string out;
  const bool has_inputs = bounds.inputs.size() > 1;
  if (layer.inputs.size() > kMostLayerInputs)
    refuse("a layer of the domain 'dcc.run' has more than " + std::to_string(kMostLayerInputs) + " inputs");
  const size_t inputs = has_inputs ? kMostLayerInputs : layer.inputs.size();
  for (size_t i = 0; i < inputs; ++i) put_field(out, 1, input_of(layer, i));
  for (size_t i = 1; i < bounds.inputs.size(); ++i) put_field(out, 1, bounds.inputs[i]);
  put_field(out, 2, output_of(bounds));
  put_field(out, 3, layer.name);
  put_field(out, 4, layer.op);
  for (const std::string_view attribute : layer.attributes) put_field(out, 5, attribute);
  for (const std::string_view attribute : bounds.attributes) put_field(out, 5, attribute);
  if (bounds.op == "Relu") put_field(out, 5, kFromZero);
  put_field(out, 7, kRunDomain);
  return out;
}

}  // namespace

void place_run_nodes(InnerModel& model, const std::vector<RunNode>& nodes, const FromFrame& weights) {
  for (const Layer& layer : find_layers(nodes, weights)) {
    if (!layer.from_frame) {
      model.put_text(layer.node->domain, kOnnxDomain);
      if (layer.bounds) model.put_text(layer.bounds->domain, kOnnxDomain);
    } else if (layer.bounds) {
      model.remove_node(layer.node->field);
      model.remove_node(layer.bounds->field);
      model.add_node(fused_node(*layer.node, *layer.bounds));
    }
  }
}

}  // namespace dcc::ort
