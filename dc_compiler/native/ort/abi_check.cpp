// abi_check.cpp: compares abi.h with onnxruntime's own header, at compile time (CMake option DCC_ORT_INCLUDE).
//
// Nothing else includes that header: both declare the same names, each in a namespace of its own.
#include <onnxruntime_c_api.h>

#include <type_traits>

#include "ort/abi.h"

namespace {

// How a value is passed: the two sides name classes differently, and abi.h writes enumerations as int.
template <class T>
using Passed =
    std::conditional_t<std::is_pointer_v<T>, void*, std::conditional_t<std::is_enum_v<T>, int, std::remove_cv_t<T>>>;
static_assert(sizeof(OrtErrorCode) == sizeof(int) && sizeof(ONNXTensorElementDataType) == sizeof(int));

template <class Function>
struct Call {
  using type = Function;  // no function, a number
};
template <class Result, class... Parameters>
struct Call<Result (*)(Parameters...)> {
  using type = Passed<Result>(Passed<Parameters>...);
};
template <class Result, class... Parameters>
struct Call<Result (*)(Parameters...) noexcept> : Call<Result (*)(Parameters...)> {};

template <class Theirs, class Ours>
constexpr bool kCalledAlike = std::is_same_v<typename Call<Theirs>::type, typename Call<Ours>::type>;

}  // namespace

#define DCC_ORT_CHECK(slot, name, result, parameters)                                                         \
  static_assert(offsetof(OrtApi, name) == (slot) * sizeof(void*), "OrtApi::" #name " is not in slot " #slot); \
  static_assert(kCalledAlike<decltype(OrtApi::name), decltype(dcc::ort::Api::name)>, "OrtApi::" #name " has changed");
DCC_ORT_FUNCTIONS(DCC_ORT_CHECK)
#define DCC_ORT_CHECK_LATER(since, slot, name, result, parameters) DCC_ORT_CHECK(slot, name, result, parameters)
DCC_ORT_LATER_FUNCTIONS(DCC_ORT_CHECK_LATER)
#undef DCC_ORT_CHECK_LATER
#undef DCC_ORT_CHECK
#define DCC_ORT_CHECK(slot, name, result, parameters)                                                   \
  static_assert(offsetof(OrtModelEditorApi, name) == (slot) * sizeof(void*),                            \
                "OrtModelEditorApi::" #name " is not in slot " #slot);                                  \
  static_assert(kCalledAlike<decltype(OrtModelEditorApi::name), decltype(dcc::ort::ModelEditor::name)>, \
                "OrtModelEditorApi::" #name " has changed");
DCC_ORT_EDITOR_FUNCTIONS(DCC_ORT_CHECK)
#undef DCC_ORT_CHECK

#define DCC_ORT_CHECK(type, field)                                                                         \
  static_assert(offsetof(type, field) == offsetof(dcc::ort::type, field), #type "::" #field " has moved"); \
  static_assert(kCalledAlike<decltype(type::field), decltype(dcc::ort::type::field)>, #type "::" #field    \
                                                                                            " has "        \
                                                                                            "changed");
DCC_ORT_CHECK(OrtCustomOp, version)
DCC_ORT_CHECK(OrtCustomOp, CreateKernel)
DCC_ORT_CHECK(OrtCustomOp, GetName)
DCC_ORT_CHECK(OrtCustomOp, GetExecutionProviderType)
DCC_ORT_CHECK(OrtCustomOp, GetInputType)
DCC_ORT_CHECK(OrtCustomOp, GetInputTypeCount)
DCC_ORT_CHECK(OrtCustomOp, GetOutputType)
DCC_ORT_CHECK(OrtCustomOp, GetOutputTypeCount)
DCC_ORT_CHECK(OrtCustomOp, KernelCompute)
DCC_ORT_CHECK(OrtCustomOp, KernelDestroy)
DCC_ORT_CHECK(OrtCustomOp, GetInputCharacteristic)
DCC_ORT_CHECK(OrtCustomOp, GetOutputCharacteristic)
DCC_ORT_CHECK(OrtCustomOp, GetInputMemoryType)
DCC_ORT_CHECK(OrtCustomOp, GetVariadicInputMinArity)
DCC_ORT_CHECK(OrtCustomOp, GetVariadicInputHomogeneity)
DCC_ORT_CHECK(OrtCustomOp, GetVariadicOutputMinArity)
DCC_ORT_CHECK(OrtCustomOp, GetVariadicOutputHomogeneity)
DCC_ORT_CHECK(OrtCustomOp, CreateKernelV2)
DCC_ORT_CHECK(OrtCustomOp, KernelComputeV2)
DCC_ORT_CHECK(OrtCustomOp, InferOutputShapeFn)
DCC_ORT_CHECK(OrtCustomOp, GetStartVersion)
DCC_ORT_CHECK(OrtCustomOp, GetEndVersion)
DCC_ORT_CHECK(OrtCustomOp, GetMayInplace)
DCC_ORT_CHECK(OrtCustomOp, ReleaseMayInplace)
DCC_ORT_CHECK(OrtCustomOp, GetAliasMap)
DCC_ORT_CHECK(OrtCustomOp, ReleaseAliasMap)
DCC_ORT_CHECK(OrtAllocator, version)
DCC_ORT_CHECK(OrtAllocator, Alloc)
DCC_ORT_CHECK(OrtAllocator, Free)
DCC_ORT_CHECK(OrtAllocator, Info)
DCC_ORT_CHECK(OrtApiBase, GetApi)
DCC_ORT_CHECK(OrtApiBase, GetVersionString)
#undef DCC_ORT_CHECK

// Numbers that abi.h gives names of its own
static_assert(dcc::ort::kFail == ORT_FAIL);
static_assert(dcc::ort::kTensorValue == ONNX_TYPE_TENSOR);
static_assert(dcc::ort::kLogWarning == ORT_LOGGING_LEVEL_WARNING);
static_assert(dcc::ort::kDeviceAllocator == OrtDeviceAllocator);
static_assert(dcc::ort::kDefaultMemory == OrtMemTypeDefault);
static_assert(dcc::ort::kCharacteristicRequired == INPUT_OUTPUT_REQUIRED);
static_assert(dcc::ort::kCharacteristicOptional == INPUT_OUTPUT_OPTIONAL);
static_assert(dcc::ort::kCharacteristicVariadic == INPUT_OUTPUT_VARIADIC);
