// custom_ops.cpp: another maker's custom-operator library, for models that need one beside dcc's: other.ops:Twice.
#include <cstdint>
#include <vector>

#include "ort/abi.h"

using namespace dcc;
using namespace dcc::ort;

namespace {

const Api* api = nullptr;

const char* name(const OrtCustomOp*) { return "Twice"; }
const char* provider(const OrtCustomOp*) { return nullptr; }
ElementType type(const OrtCustomOp*, size_t) { return 1; }  // FLOAT
size_t one(const OrtCustomOp*) { return 1; }
int required(const OrtCustomOp*, size_t) { return kCharacteristicRequired; }
int memory(const OrtCustomOp*, size_t) { return kDefaultMemory; }
void destroy(void*) {}

OrtStatus* create(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel) {
  static int nothing = 0;
  *kernel = &nothing;
  return nullptr;
}

// y = 2 x, and a failure where the first element is negative
OrtStatus* compute(void*, OrtKernelContext* context) {
  const OrtValue* input = nullptr;
  OrtValue* output = nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  size_t rank = 0;
  void* x = nullptr;
  void* y = nullptr;
  if (OrtStatus* status = api->KernelContext_GetInput(context, 0, &input)) return status;
  if (OrtStatus* status = api->GetTensorTypeAndShape(input, &info)) return status;
  if (OrtStatus* status = api->GetDimensionsCount(info, &rank)) return status;
  std::vector<int64_t> dims(rank);
  if (OrtStatus* status = api->GetDimensions(info, dims.data(), rank)) return status;
  api->ReleaseTensorTypeAndShapeInfo(info);
  if (OrtStatus* status = api->KernelContext_GetOutput(context, 0, dims.data(), rank, &output)) return status;
  if (OrtStatus* status = api->GetTensorMutableData(const_cast<OrtValue*>(input), &x)) return status;
  if (OrtStatus* status = api->GetTensorMutableData(output, &y)) return status;
  int64_t count = 1;
  for (const int64_t extent : dims) count *= extent;
  const float* values = static_cast<const float*>(x);
  if (count > 0 && values[0] < 0) return api->CreateStatus(kFail, "Twice takes no negative numbers");
  for (int64_t i = 0; i < count; ++i) static_cast<float*>(y)[i] = 2 * values[i];
  return nullptr;
}

OrtCustomOp twice() {
  OrtCustomOp op{};
  op.version = 16;
  op.GetName = name;
  op.GetExecutionProviderType = provider;
  op.GetInputType = op.GetOutputType = type;
  op.GetInputTypeCount = op.GetOutputTypeCount = one;
  op.GetInputCharacteristic = op.GetOutputCharacteristic = required;
  op.GetInputMemoryType = memory;
  op.KernelDestroy = destroy;
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  return op;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  static const Api functions(base->GetApi(18), 18);
  api = &functions;
  static const OrtCustomOp op = twice();
  OrtCustomOpDomain* domain = nullptr;
  if (OrtStatus* status = api->CreateCustomOpDomain("other.ops", &domain)) return status;
  if (OrtStatus* status = api->CustomOpDomain_Add(domain, &op)) return status;
  return api->AddCustomOpDomain(options, domain);
}
