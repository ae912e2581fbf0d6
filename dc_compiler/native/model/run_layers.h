// run_layers.h: the layers that nodes of the domain "dcc.run" make up together (FORMAT.md 9.2).
#ifndef DCC_RUN_LAYERS_H_
#define DCC_RUN_LAYERS_H_

#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/model_check.h"

namespace dcc {

// Which weights layers run from as they are in the frame (true), and which are decoded (false), by name.
using FromFrame = std::unordered_map<std::string_view, bool>;

constexpr size_t kLayerInputs = 3;  // of MatMul, Gemm, Conv and MatMulInteger, at most

// Texts lie in the message that the nodes were read from.
struct RunLayer {
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

// The layers of nodes, given in the order in which they run. Throws Failure for nodes that are no part of a layer of
// such a weight.
std::vector<RunLayer> find_run_layers(const std::vector<RunNode>& nodes, const FromFrame& weights);

}  // namespace dcc
#endif  // DCC_RUN_LAYERS_H_
