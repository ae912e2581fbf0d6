// run_nodes.cpp: run_nodes.h.
#include "ort/run_nodes.h"

#include <string>

#include "model/onnx_fields.h"

namespace dcc::ort {
namespace {

// AttributeProto with name and type: min = 0.0 of Relu, and transB = 1
constexpr std::string_view kFromZero("\x0a\x03min\x15\0\0\0\0\xa0\x01\x01", 13);
constexpr std::string_view kTransposed("\x0a\x06transB\x18\x01\xa0\x01\x02", 13);

// The NodeProto of all nodes of a layer.
std::string fused_node(const RunLayer& layer) {
  const RunNode& product = *layer.product;
  std::vector<std::string_view> inputs = product.inputs;
  inputs[1] = layer.weight;
  inputs.resize(kLayerInputs);
  if (layer.in_int8()) inputs.insert(inputs.end(), {layer.step, layer.bias});
  for (size_t i = 1; layer.bounds && i < layer.bounds->inputs.size(); ++i) inputs.push_back(layer.bounds->inputs[i]);
  std::string out;
  for (const std::string_view input : inputs) put_bytes(out, kNodeInput, input);
  put_bytes(out, kNodeOutput, layer.output);
  put_bytes(out, kNodeName, product.name);
  put_bytes(out, kNodeOperator, product.op);
  for (const std::string_view attribute : product.attributes) put_bytes(out, kNodeAttribute, attribute);
  if (layer.transposed) put_bytes(out, kNodeAttribute, kTransposed);
  if (layer.bounds) {
    for (const std::string_view attribute : layer.bounds->attributes) put_bytes(out, kNodeAttribute, attribute);
    if (layer.bounds->op == "Relu") put_bytes(out, kNodeAttribute, kFromZero);
  }
  put_bytes(out, kNodeDomain, kRunDomain);
  return out;
}

}  // namespace

void place_run_nodes(InnerModel& model, const std::vector<RunNode>& nodes, const FromFrame& weights) {
  for (const RunLayer& layer : find_run_layers(nodes, weights)) {
    if (!layer.from_frame) {
      for (const RunNode* node : layer.nodes) model.put_text(node->domain, kOnnxDomain);
    } else if (layer.nodes.size() > 1) {
      for (const RunNode* node : layer.nodes) model.remove_node(node->field);
      model.add_node(fused_node(layer));
    }
  }
}

}  // namespace dcc::ort
