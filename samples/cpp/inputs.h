// inputs.h: inputs for a session, filled with one value.
#ifndef DCC_SAMPLE_INPUTS_H_
#define DCC_SAMPLE_INPUTS_H_

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Names and tensors of all inputs (float32 tensors only; symbolic dimensions are 1), and the names of all outputs.
struct Feed {
  std::vector<std::string> input_names, output_names;
  std::vector<std::vector<float>> values;
  std::vector<Ort::Value> tensors;

  // Throws std::runtime_error for an input that is no float tensor.
  explicit Feed(const Ort::Session& session, float value = 0.0F) {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    for (size_t i = 0; i < session.GetInputCount(); ++i) {
      input_names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
      const auto type = session.GetInputTypeInfo(i);
      if (type.GetONNXType() != ONNX_TYPE_TENSOR) throw std::runtime_error("the samples feed tensors only");
      const auto info = type.GetTensorTypeAndShapeInfo();
      if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
        throw std::runtime_error("the samples feed float32 only");
      }
      std::vector<int64_t> shape = info.GetShape();
      size_t count = 1;
      for (int64_t& extent : shape) {
        extent = std::max<int64_t>(extent, 1);
        count *= static_cast<size_t>(extent);
      }
      values.emplace_back(count, value);
      tensors.push_back(
          Ort::Value::CreateTensor<float>(memory, values.back().data(), count, shape.data(), shape.size()));
    }
    for (size_t i = 0; i < session.GetOutputCount(); ++i) {
      output_names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
    }
  }

  std::vector<Ort::Value> run(Ort::Session& session) const {
    std::vector<const char*> ins, outs;
    for (const auto& name : input_names) ins.push_back(name.c_str());
    for (const auto& name : output_names) outs.push_back(name.c_str());
    return session.Run(Ort::RunOptions{nullptr}, ins.data(), tensors.data(), tensors.size(), outs.data(), outs.size());
  }
};

#endif  // DCC_SAMPLE_INPUTS_H_
