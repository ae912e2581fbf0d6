// run_nodes.h: what becomes of the nodes of the domain "dcc.run" in an inner model (FORMAT.md 9.2). Needs no
// onnxruntime.
#ifndef DCC_RUN_NODES_H_
#define DCC_RUN_NODES_H_

#include <vector>

#include "model/run_layers.h"
#include "ort/inner_model.h"

namespace dcc::ort {

// Nodes of decoded weights get ONNX's domain in the place of ours. Those of a layer that runs from its frame become one
// node of our domain, named as the layer's first:
//
//     MatMul, Gemm, Conv  x, frame, bias, low, high
//     MatMulInteger       x, frame, zero point of x, step of x, bias, low, high    attribute transB
//
// with the attributes of the layer. Bounds can be attributes "min" and "max" instead. Nodes are given in the order in
// which they run. Throws Failure for those that are no layer of such a weight.
void place_run_nodes(InnerModel& model, const std::vector<RunNode>& nodes, const FromFrame& weights);

}  // namespace dcc::ort
#endif  // DCC_RUN_NODES_H_
