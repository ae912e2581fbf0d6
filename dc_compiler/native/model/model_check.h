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

// What a node of the domain "dcc.run" is to a layer that may run from a packed weight.
enum class RunPart {
  kNone,       // no operator of the domain
  kLayer,      // MatMul, Gemm, Conv, and in int8 MatMulInteger: the weight, or what kTranspose makes of it, is input 1
  kTranspose,  // of an int8 weight
  kCast,       // to float, of the sums of an int8 layer
  kScale,      // Mul: of the scales of both factors, or of these and the sums
  kAdd,        // of a bias to the scaled sums
  kBound,      // Relu, Clip
};
RunPart part_of(std::string_view op);

// Walks a serialized ModelProto, without recursion and without building it. Refused are: what is not well-formed;
// external data, wherever a tensor can stand; operators and functions of this library's domains, but for nodes of the
// domain "dcc.run" in the main graph; nodes EPContext, which name files; bodies and functions that nest deeper than 64
// when functions are put in the place of their calls, and functions that call themselves. What onnxruntime needs to
// hold the message, functions in place, is spent from the budget. Throws Failure.
//
// Returns the nodes of the domain "dcc.run": parts of layers, all as of ONNX.
std::vector<RunNode> check_inner_model(const Manifest& manifest, Budget& budget);

}  // namespace dcc
#endif  // DCC_MODEL_CHECK_H_
