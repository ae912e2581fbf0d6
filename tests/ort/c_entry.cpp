// c_entry.cpp: serves a compiled model from C++ through onnxruntime's C ABI alone, without Python and onnxruntime's
// headers.
//
// c_entry ONNXRUNTIME_LIBRARY DCC_LIBRARY MODEL VALUE...   feeds input x [1, count] (f32) and prints output y, one
// value a line.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ort/abi.h"

using namespace dcc::ort;

namespace {

[[noreturn]] void fail(const std::string& message) {
  std::fprintf(stderr, "c_entry: %s\n", message.c_str());
  std::exit(1);
}

template <class Function>
Function find(const char* library, const char* name) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  void* symbol = handle ? dlsym(handle, name) : nullptr;
  if (!symbol) fail(dlerror());
  return reinterpret_cast<Function>(symbol);
}

void check(const Api& api, OrtStatus* status) {
  if (status) fail(api.GetErrorMessage(status));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) fail("usage: c_entry ONNXRUNTIME_LIBRARY DCC_LIBRARY MODEL VALUE...");
  const OrtApiBase* base = find<const OrtApiBase* (*)()>(argv[1], "OrtGetApiBase")();
  const Api api(base->GetApi(18), 18);

  OrtEnv* env = nullptr;
  check(api, api.CreateEnv(kLogWarning, "c_entry", &env));
  OrtSessionOptions* options = nullptr;
  check(api, api.CreateSessionOptions(&options));
  using Register = OrtStatus* (*)(OrtSessionOptions*, const OrtApiBase*);
  check(api, find<Register>(argv[2], "RegisterCustomOps")(options, base));  // the one line that a compiled model needs

  std::ifstream file(argv[3], std::ios::binary);
  const std::vector<char> model(std::istreambuf_iterator<char>(file), {});
  OrtSession* session = nullptr;
  check(api, api.CreateSessionFromArray(env, model.data(), model.size(), options, &session));

  OrtAllocator* allocator = nullptr;
  check(api, api.GetAllocatorWithDefaultOptions(&allocator));
  const int64_t dims[] = {1, argc - 4};
  OrtValue* input = nullptr;
  check(api, api.CreateTensorAsOrtValue(allocator, dims, 2, 1, &input));
  void* data = nullptr;
  check(api, api.GetTensorMutableData(input, &data));
  for (int i = 4; i < argc; ++i) static_cast<float*>(data)[i - 4] = std::strtof(argv[i], nullptr);

  const char* input_name = "x";
  const char* output_name = "y";
  OrtValue* output = nullptr;
  check(api, api.Run(session, nullptr, &input_name, &input, 1, &output_name, 1, &output));
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(output, &info));
  int64_t shape[2];
  check(api, api.GetDimensions(info, shape, 2));
  check(api, api.GetTensorMutableData(output, &data));
  for (int64_t i = 0; i < shape[0] * shape[1]; ++i)
    std::printf("%.9g\n", static_cast<double>(static_cast<float*>(data)[i]));

  api.ReleaseTensorTypeAndShapeInfo(info);
  api.ReleaseValue(output);
  api.ReleaseValue(input);
  api.ReleaseSession(session);
  api.ReleaseSessionOptions(options);
  api.ReleaseEnv(env);
}
