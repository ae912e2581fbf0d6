// model_check.h: refuses inner models that a packed file must not hold, before onnxruntime sees them (FORMAT.md 9.2).
// Needs no onnxruntime.
#ifndef DCC_MODEL_CHECK_H_
#define DCC_MODEL_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "model/budget.h"

namespace dcc {

constexpr std::string_view kRunDomain = "dcc.run";
constexpr std::string_view kOnnxDomain = "ai.onnx";  // as long, so that one can stand in the other's place

// A node that runs from a packed weight, its second input.
struct RunNode {
  std::string_view weight;
  size_t domain;  // where in the message its domain is
};

// Walks a serialized ModelProto, without recursion and without building it. Refused are: what is not well-formed;
// external data, wherever a tensor can stand; operators and functions of this library's domains, but for nodes of the
// domain "dcc.run" in the main graph; nodes
// EPContext, which name files; bodies and functions that nest deeper than 64 when functions are put in the place of
// their calls, and functions that call themselves. What onnxruntime needs to hold the message, functions in place, is
// spent from the budget. Throws Failure.
//
// Returns the nodes of the domain "dcc.run": MatMul, Gemm and Conv as of ONNX, which run from a packed weight.
std::vector<RunNode> check_inner_model(const uint8_t* model, size_t size, Budget& budget);

}  // namespace dcc
#endif  // DCC_MODEL_CHECK_H_
