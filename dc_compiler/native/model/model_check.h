// model_check.h: refuses inner models that a packed file must not hold, before onnxruntime sees them (FORMAT.md 9.2).
// Needs no onnxruntime.
#ifndef DCC_MODEL_CHECK_H_
#define DCC_MODEL_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "model/budget.h"
#include "model/manifest.h"

namespace dcc {

constexpr std::string_view kRunDomain = "dcc.run";
constexpr std::string_view kOnnxDomain = "ai.onnx";  // as long, so that one can stand in the other's place

// A node of the domain "dcc.run". Texts lie in the message.
struct RunNode {
  std::string_view op, name;
  std::vector<std::string_view> inputs, outputs;
  std::vector<std::string_view> attributes;  // messages AttributeProto
  size_t field;                              // where in the message its field of the graph begins
  size_t domain;                             // and where its domain is
};

// Whether a node of the domain "dcc.run" multiplies by a packed weight, its second input. Others bound what such a node
// gives.
inline bool is_layer(std::string_view op) { return op == "MatMul" || op == "Gemm" || op == "Conv"; }

// Walks a serialized ModelProto, without recursion and without building it. Refused are: what is not well-formed;
// external data, wherever a tensor can stand; operators and functions of this library's domains, but for nodes of the
// domain "dcc.run" in the main graph; nodes EPContext, which name files; bodies and functions that nest deeper than 64
// when functions are put in the place of their calls, and functions that call themselves. What onnxruntime needs to
// hold the message, functions in place, is spent from the budget. Throws Failure.
//
// Returns the nodes of the domain "dcc.run": layers, and Relu and Clip, all as of ONNX.
std::vector<RunNode> check_inner_model(const Manifest& manifest, Budget& budget);

}  // namespace dcc
#endif  // DCC_MODEL_CHECK_H_
