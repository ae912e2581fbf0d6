// main.cpp: runs a compiled model in onnxruntime from C++. Nothing is particular to dcc but the one line marked below.
//
//     dcc_sample <libdcc.so> <model.onnx>
//
// Every input (float32 tensors only) is filled with zeros, symbolic dimensions are 1; the shape and the first values of
// each output are printed.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Input {
  std::vector<float> values;
  Ort::Value tensor{nullptr};
};

// A zero tensor of the input's declared shape. Throws for an input that is not a float tensor.
Input make_input(const Ort::Session& session, size_t index, const Ort::MemoryInfo& memory) {
  const auto type = session.GetInputTypeInfo(index);
  if (type.GetONNXType() != ONNX_TYPE_TENSOR) throw std::runtime_error("this sample feeds tensors only");
  const auto info = type.GetTensorTypeAndShapeInfo();
  if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    throw std::runtime_error("this sample feeds float32 only");
  }

  std::vector<int64_t> shape = info.GetShape();
  size_t count = 1;
  for (int64_t& extent : shape) {
    extent = std::max<int64_t>(extent, 1);
    count *= static_cast<size_t>(extent);
  }
  Input input;
  input.values.assign(count, 0.0F);
  input.tensor = Ort::Value::CreateTensor<float>(memory, input.values.data(), count, shape.data(), shape.size());
  return input;
}

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

void run(const char* library, const char* model) {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "dcc_sample");
  Ort::SessionOptions options;
  options.RegisterCustomOpsLibrary(library);  // all that a compiled model asks for
  Ort::Session session(env, model, options);

  Ort::AllocatorWithDefaultOptions allocator;
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<std::string> input_names, output_names;
  std::vector<Input> inputs;
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    input_names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    inputs.push_back(make_input(session, i, memory));
  }
  for (size_t i = 0; i < session.GetOutputCount(); ++i) {
    output_names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  }

  std::vector<Ort::Value> tensors;
  for (Input& input : inputs) tensors.push_back(std::move(input.tensor));
  std::vector<const char*> ins, outs;
  for (const auto& name : input_names) ins.push_back(name.c_str());
  for (const auto& name : output_names) outs.push_back(name.c_str());

  const auto outputs =
      session.Run(Ort::RunOptions{nullptr}, ins.data(), tensors.data(), tensors.size(), outs.data(), outs.size());
  for (size_t i = 0; i < outputs.size(); ++i) print_output(output_names[i], outputs[i]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s <libdcc.so> <model.onnx>\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
