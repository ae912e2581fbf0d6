// main.cpp: runs a compiled model in onnxruntime from C++. Nothing is particular to dcc but the one line marked below.
//
//     dcc_sample <model.onnx>
//
// Every input (float32 tensors only) is filled with zeros, symbolic dimensions are 1; the shape and the first values of
// each output are printed.
#include <dcc_ort.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>

#include "inputs.h"

namespace {

void print_output(const std::string& name, const Ort::Value& value) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  std::printf("%s [", name.c_str());
  for (const int64_t extent : info.GetShape()) std::printf(" %lld", static_cast<long long>(extent));
  std::printf(" ]:");
  if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    const float* values = value.GetTensorData<float>();
    for (size_t i = 0; i < std::min<size_t>(info.GetElementCount(), 10); ++i) {
      std::printf(" %.6g", static_cast<double>(values[i]));
    }
  }
  std::printf("\n");
}

void run(const char* model) {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "dcc_sample");
  Ort::SessionOptions options;
  dcc::register_operators(options);  // all that a compiled model asks for
  Ort::Session session(env, model, options);

  const Feed feed(session);
  const auto outputs = feed.run(session);
  for (size_t i = 0; i < outputs.size(); ++i) print_output(feed.output_names[i], outputs[i]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s <model.onnx>\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
