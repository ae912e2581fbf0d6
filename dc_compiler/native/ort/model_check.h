// model_check.h: refuses inner models that a packed file must not hold, before onnxruntime sees them (FORMAT.md 9.2).
// Needs no onnxruntime.
#ifndef DCC_MODEL_CHECK_H_
#define DCC_MODEL_CHECK_H_

#include <cstddef>
#include <cstdint>

#include "ort/budget.h"

namespace dcc::ort {

// Walks a serialized ModelProto, without recursion and without building it. Refused are: what is not well-formed;
// external data, wherever a tensor can stand; operators and functions of this library's domain; nodes
// EPContext, which name files; bodies and functions that nest deeper than 64 when functions are put in the place of
// their calls, and functions that call themselves. What onnxruntime needs to hold the message, functions in place, is
// spent from the budget. Throws Failure.
void check_inner_model(const uint8_t* model, size_t size, Budget& budget);

}  // namespace dcc::ort
#endif  // DCC_MODEL_CHECK_H_
