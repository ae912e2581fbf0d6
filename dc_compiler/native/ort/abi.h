// abi.h: the part of onnxruntime's public, append-only C ABI that the library uses.
//
// The names are onnxruntime's own. Table slots and struct layouts never change once released, so this compiles without
// onnxruntime's headers; abi_check.cpp compares slots, fields and parameters with them (CMake option DCC_ORT_INCLUDE).
#ifndef DCC_ORT_ABI_H_
#define DCC_ORT_ABI_H_

#include <cstddef>
#include <cstdint>

#include "model/tensor_type.h"

namespace dcc::ort {

struct OrtApi;
struct OrtCustomOpDomain;
struct OrtEnv;
struct OrtGraph;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtKeyValuePairs;
struct OrtLogger;
struct OrtMemoryInfo;
struct OrtModel;
struct OrtModelEditorApi;
struct OrtPrepackedWeightsContainer;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;
struct OrtValueInfo;

constexpr int kFail = 1;                    // OrtErrorCode ORT_FAIL
constexpr int kTensorValue = 1;             // ONNXType ONNX_TYPE_TENSOR
constexpr int kLogWarning = 2;              // OrtLoggingLevel
constexpr int kDeviceAllocator = 0;         // OrtAllocatorType
constexpr int kDefaultMemory = 0;           // OrtMemType
constexpr int kCharacteristicRequired = 0;  // OrtCustomOpInputOutputCharacteristic
constexpr int kCharacteristicOptional = 1;
constexpr int kCharacteristicVariadic = 2;

// Where memory comes from and goes to. `version` is the API version up to which the functions are read.
struct OrtAllocator {
  uint32_t version;
  void* (*Alloc)(OrtAllocator* allocator, size_t size);
  void (*Free)(OrtAllocator* allocator, void* memory);
  const OrtMemoryInfo* (*Info)(const OrtAllocator* allocator);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// One line a function: slot in OrtApi, name, result, parameters.
#define DCC_ORT_FUNCTIONS(X)                                                                                       \
  X(0, CreateStatus, OrtStatus*, (int code, const char* message))                                                  \
  X(2, GetErrorMessage, const char*, (const OrtStatus* status))                                                    \
  X(3, CreateEnv, OrtStatus*, (int level, const char* log_id, OrtEnv** out))                                       \
  X(8, CreateSessionFromArray, OrtStatus*,                                                                         \
    (const OrtEnv* env, const void* model, size_t size, const OrtSessionOptions* options, OrtSession** out))       \
  X(9, Run, OrtStatus*,                                                                                            \
    (OrtSession * session, const OrtRunOptions* options, const char* const* input_names,                           \
     const OrtValue* const* inputs, size_t input_count, const char* const* output_names, size_t output_count,      \
     OrtValue** outputs))                                                                                          \
  X(10, CreateSessionOptions, OrtStatus*, (OrtSessionOptions * *out))                                              \
  X(11, SetOptimizedModelFilePath, OrtStatus*, (OrtSessionOptions * options, const char* path))                    \
  X(12, CloneSessionOptions, OrtStatus*, (const OrtSessionOptions* options, OrtSessionOptions** out))              \
  X(15, DisableProfiling, OrtStatus*, (OrtSessionOptions * options))                                               \
  X(26, CreateCustomOpDomain, OrtStatus*, (const char* name, OrtCustomOpDomain** out))                             \
  X(27, CustomOpDomain_Add, OrtStatus*, (OrtCustomOpDomain * domain, const OrtCustomOp* op))                       \
  X(28, AddCustomOpDomain, OrtStatus*, (OrtSessionOptions * options, OrtCustomOpDomain * domain))                  \
  X(30, SessionGetInputCount, OrtStatus*, (const OrtSession* session, size_t* out))                                \
  X(31, SessionGetOutputCount, OrtStatus*, (const OrtSession* session, size_t* out))                               \
  X(33, SessionGetInputTypeInfo, OrtStatus*, (const OrtSession* session, size_t index, OrtTypeInfo** out))         \
  X(34, SessionGetOutputTypeInfo, OrtStatus*, (const OrtSession* session, size_t index, OrtTypeInfo** out))        \
  X(36, SessionGetInputName, OrtStatus*,                                                                           \
    (const OrtSession* session, size_t index, OrtAllocator* allocator, char** out))                                \
  X(37, SessionGetOutputName, OrtStatus*,                                                                          \
    (const OrtSession* session, size_t index, OrtAllocator* allocator, char** out))                                \
  X(48, CreateTensorAsOrtValue, OrtStatus*,                                                                        \
    (OrtAllocator * allocator, const int64_t* dims, size_t rank, ElementType type, OrtValue** out))                \
  X(49, CreateTensorWithDataAsOrtValue, OrtStatus*,                                                                \
    (const OrtMemoryInfo* memory, void* data, size_t size, const int64_t* dims, size_t rank, ElementType type,     \
     OrtValue** out))                                                                                              \
  X(51, GetTensorMutableData, OrtStatus*, (OrtValue * value, void** out))                                          \
  X(55, CastTypeInfoToTensorInfo, OrtStatus*, (const OrtTypeInfo* info, const OrtTensorTypeAndShapeInfo** out))    \
  X(56, GetOnnxTypeFromTypeInfo, OrtStatus*, (const OrtTypeInfo* info, int* out))                                  \
  X(60, GetTensorElementType, OrtStatus*, (const OrtTensorTypeAndShapeInfo* info, ElementType* out))               \
  X(61, GetDimensionsCount, OrtStatus*, (const OrtTensorTypeAndShapeInfo* info, size_t* out))                      \
  X(62, GetDimensions, OrtStatus*, (const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t rank))            \
  X(65, GetTensorTypeAndShape, OrtStatus*, (const OrtValue* value, OrtTensorTypeAndShapeInfo** out))               \
  X(67, GetValueType, OrtStatus*, (const OrtValue* value, int* out))                                               \
  X(69, CreateCpuMemoryInfo, OrtStatus*, (int allocator, int memory, OrtMemoryInfo** out))                         \
  X(76, AllocatorFree, OrtStatus*, (OrtAllocator * allocator, void* memory))                                       \
  X(78, GetAllocatorWithDefaultOptions, OrtStatus*, (OrtAllocator * *out))                                         \
  X(85, KernelInfoGetAttribute_float, OrtStatus*, (const OrtKernelInfo* info, const char* name, float* out))       \
  X(86, KernelInfoGetAttribute_int64, OrtStatus*, (const OrtKernelInfo* info, const char* name, int64_t* out))     \
  X(90, KernelContext_GetInput, OrtStatus*, (const OrtKernelContext* context, size_t index, const OrtValue** out)) \
  X(91, KernelContext_GetOutput, OrtStatus*,                                                                       \
    (OrtKernelContext * context, size_t index, const int64_t* dims, size_t rank, OrtValue** out))                  \
  X(92, ReleaseEnv, void, (OrtEnv * env))                                                                          \
  X(93, ReleaseStatus, void, (OrtStatus * status))                                                                 \
  X(94, ReleaseMemoryInfo, void, (OrtMemoryInfo * memory))                                                         \
  X(95, ReleaseSession, void, (OrtSession * session))                                                              \
  X(96, ReleaseValue, void, (OrtValue * value))                                                                    \
  X(98, ReleaseTypeInfo, void, (OrtTypeInfo * info))                                                               \
  X(99, ReleaseTensorTypeAndShapeInfo, void, (OrtTensorTypeAndShapeInfo * info))                                   \
  X(100, ReleaseSessionOptions, void, (OrtSessionOptions * options))                                               \
  X(130, AddSessionConfigEntry, OrtStatus*, (OrtSessionOptions * options, const char* key, const char* value))     \
  X(163, KernelInfoGetAttributeArray_int64, OrtStatus*,                                                            \
    (const OrtKernelInfo* info, const char* name, int64_t* out, size_t* size))                                     \
  X(210, AddExternalInitializers, OrtStatus*,                                                                      \
    (OrtSessionOptions * options, const char* const* names, const OrtValue* const* values, size_t count))          \
  X(230, KernelInfo_GetInputCount, OrtStatus*, (const OrtKernelInfo* info, size_t* out))                           \
  X(231, KernelInfo_GetOutputCount, OrtStatus*, (const OrtKernelInfo* info, size_t* out))                          \
  X(232, KernelInfo_GetInputName, OrtStatus*, (const OrtKernelInfo* info, size_t index, char* out, size_t* size))  \
  X(233, KernelInfo_GetOutputName, OrtStatus*, (const OrtKernelInfo* info, size_t index, char* out, size_t* size)) \
  X(234, KernelInfo_GetInputTypeInfo, OrtStatus*, (const OrtKernelInfo* info, size_t index, OrtTypeInfo** out))    \
  X(235, KernelInfo_GetOutputTypeInfo, OrtStatus*, (const OrtKernelInfo* info, size_t index, OrtTypeInfo** out))   \
  X(237, HasSessionConfigEntry, OrtStatus*, (const OrtSessionOptions* options, const char* key, int* out))         \
  X(238, GetSessionConfigEntry, OrtStatus*,                                                                        \
    (const OrtSessionOptions* options, const char* key, char* out, size_t* size))                                  \
  X(244, KernelInfo_GetNodeName, OrtStatus*, (const OrtKernelInfo* info, char* out, size_t* size))                 \
  X(245, KernelInfo_GetLogger, OrtStatus*, (const OrtKernelInfo* info, const OrtLogger** out))                     \
  X(249, KernelInfoGetConstantInput_tensor, OrtStatus*,                                                            \
    (const OrtKernelInfo* info, size_t index, int* is_constant, const OrtValue** out))                             \
  X(267, ShapeInferContext_GetInputCount, OrtStatus*, (const OrtShapeInferContext* context, size_t* out))          \
  X(268, ShapeInferContext_GetInputTypeShape, OrtStatus*,                                                          \
    (const OrtShapeInferContext* context, size_t index, OrtTensorTypeAndShapeInfo** out))                          \
  X(270, ShapeInferContext_SetOutputTypeShape, OrtStatus*,                                                         \
    (const OrtShapeInferContext* context, size_t index, const OrtTensorTypeAndShapeInfo* info))

// Functions that came later: the API version that has them first, then as above. Null in older runtimes.
#define DCC_ORT_LATER_FUNCTIONS(X)                                                                                   \
  X(17, 274, KernelContext_ParallelFor, OrtStatus*,                                                                  \
    (const OrtKernelContext* context, void (*body)(void* data, size_t index), size_t total, size_t batches,          \
     void* data))                                                                                                    \
  X(22, 285, ReleaseValueInfo, void, (OrtValueInfo * info))                                                          \
  X(22, 287, ReleaseGraph, void, (OrtGraph * graph))                                                                 \
  X(22, 288, ReleaseModel, void, (OrtModel * model))                                                                 \
  X(22, 291, GetModelEditorApi, const OrtModelEditorApi*, ())                                                        \
  X(22, 292, CreateTensorWithDataAndDeleterAsOrtValue, OrtStatus*,                                                   \
    (OrtAllocator * deleter, void* data, size_t size, const int64_t* dims, size_t rank, ElementType type,            \
     OrtValue** out))                                                                                                \
  X(22, 298, GetKeyValuePairs, void,                                                                                 \
    (const OrtKeyValuePairs* pairs, const char* const** keys, const char* const** values, size_t* count))            \
  X(22, 300, ReleaseKeyValuePairs, void, (OrtKeyValuePairs * pairs))                                                 \
  X(23, 379, GetSessionOptionsConfigEntries, OrtStatus*, (const OrtSessionOptions* options, OrtKeyValuePairs** out)) \
  X(24, 391, KernelInfo_GetConfigEntries, OrtStatus*, (const OrtKernelInfo* info, OrtKeyValuePairs** out))

// Functions of the table that GetModelEditorApi hands out, as above; all came with version 22.
#define DCC_ORT_EDITOR_FUNCTIONS(X)                                                                                 \
  X(5, CreateValueInfo, OrtStatus*, (const char* name, const OrtTypeInfo* type, OrtValueInfo** out))                \
  X(7, CreateGraph, OrtStatus*, (OrtGraph * *out))                                                                  \
  X(8, SetGraphInputs, OrtStatus*, (OrtGraph * graph, OrtValueInfo * *inputs, size_t count))                        \
  X(10, AddInitializerToGraph, OrtStatus*, (OrtGraph * graph, const char* name, OrtValue* value, bool is_external)) \
  X(12, CreateModel, OrtStatus*, (const char* const* domains, const int* versions, size_t count, OrtModel** out))   \
  X(13, AddGraphToModel, OrtStatus*, (OrtModel * model, OrtGraph * graph))                                          \
  X(16, CreateModelEditorSessionFromArray, OrtStatus*,                                                              \
    (const OrtEnv* env, const void* model, size_t size, const OrtSessionOptions* options, OrtSession** out))        \
  X(18, ApplyModelToModelEditorSession, OrtStatus*, (OrtSession * session, OrtModel * model))                       \
  X(19, FinalizeModelEditorSession, OrtStatus*,                                                                     \
    (OrtSession * session, const OrtSessionOptions* options, OrtPrepackedWeightsContainer* container))

// What a custom operator tells onnxruntime about itself. `version` is the API version up to which the fields are read.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info);
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);
  ElementType (*GetInputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  ElementType (*GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp* op, size_t index);
  int (*GetOutputCharacteristic)(const OrtCustomOp* op, size_t index);
  int (*GetInputMemoryType)(const OrtCustomOp* op, size_t index);  // since 13
  int (*GetVariadicInputMinArity)(const OrtCustomOp* op);          // since 14
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);                  // both since 16
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp* op, OrtShapeInferContext* context);  // since 17
  int (*GetStartVersion)(const OrtCustomOp* op);
  int (*GetEndVersion)(const OrtCustomOp* op);
  size_t (*GetMayInplace)(int** inputs, int** outputs);  // since 18
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

// The functions above, read out of the table that a runtime hands out for an API version.
struct Api {
  Api(const OrtApi* table, uint32_t version) {
    const auto* slots = reinterpret_cast<void (*const*)()>(table);
#define DCC_ORT_READ(slot, name, result, parameters) name = reinterpret_cast<result(*) parameters>(slots[slot]);
    DCC_ORT_FUNCTIONS(DCC_ORT_READ)
#undef DCC_ORT_READ
#define DCC_ORT_READ(since, slot, name, result, parameters) \
  if (version >= (since)) name = reinterpret_cast<result(*) parameters>(slots[slot]);
    DCC_ORT_LATER_FUNCTIONS(DCC_ORT_READ)
#undef DCC_ORT_READ
  }
#define DCC_ORT_MEMBER(slot, name, result, parameters) result(*name) parameters;
  DCC_ORT_FUNCTIONS(DCC_ORT_MEMBER)
#undef DCC_ORT_MEMBER
#define DCC_ORT_MEMBER(since, slot, name, result, parameters) result(*name) parameters = nullptr;
  DCC_ORT_LATER_FUNCTIONS(DCC_ORT_MEMBER)
#undef DCC_ORT_MEMBER
};

// The functions of the model editor.
struct ModelEditor {
  explicit ModelEditor(const OrtModelEditorApi* table) {
    const auto* slots = reinterpret_cast<void (*const*)()>(table);
#define DCC_ORT_READ(slot, name, result, parameters) name = reinterpret_cast<result(*) parameters>(slots[slot]);
    DCC_ORT_EDITOR_FUNCTIONS(DCC_ORT_READ)
#undef DCC_ORT_READ
  }
#define DCC_ORT_MEMBER(slot, name, result, parameters) result(*name) parameters;
  DCC_ORT_EDITOR_FUNCTIONS(DCC_ORT_MEMBER)
#undef DCC_ORT_MEMBER
};

}  // namespace dcc::ort
#endif  // DCC_ORT_ABI_H_
