// weight_memory.cpp: weight_memory.h.
#include "ort/weight_memory.h"

#include <utility>

namespace dcc::ort {
namespace {

constexpr uint32_t kAllocatorVersion = 16;  // up to which the functions of OrtAllocator are given

}  // namespace

WeightMemory::WeightMemory(const Api& api)
    : OrtAllocator(),
      api_(api),
      info_(get<OrtMemoryInfo*>(api, api.CreateCpuMemoryInfo, kDeviceAllocator, kDefaultMemory),
            api.ReleaseMemoryInfo) {
  version = kAllocatorVersion;
  Alloc = [](OrtAllocator*, size_t) -> void* { return nullptr; };  // values are made in memory that is there
  Free = [](OrtAllocator* allocator, void* memory) {
    auto* self = static_cast<WeightMemory*>(allocator);
    const std::lock_guard<std::mutex> lock(self->mutex_);
    self->arrays_.erase(memory);
  };
  Info = [](const OrtAllocator* allocator) -> const OrtMemoryInfo* {
    return static_cast<const WeightMemory*>(allocator)->info_.get();
  };
}

uint8_t* WeightMemory::allocate(size_t bytes) {
  LargeArray<uint8_t> array(bytes);
  uint8_t* const memory = array.data();
  const std::lock_guard<std::mutex> lock(mutex_);
  arrays_.emplace(memory, std::move(array));
  return memory;
}

Owned<OrtValue> WeightMemory::value(const Weight& weight) {
  const TensorType& type = weight.type;
  void* const data = weight.data;
  bool is_ours = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_ours = arrays_.count(data) != 0;
  }
  OrtAllocator* const deleter = this;
  OrtValue* const made = is_ours ? get<OrtValue*>(api_, api_.CreateTensorWithDataAndDeleterAsOrtValue, deleter, data,
                                                  weight.bytes, type.dims.data(), type.dims.size(), type.element)
                                 : get<OrtValue*>(api_, api_.CreateTensorWithDataAsOrtValue, info_.get(), data,
                                                  weight.bytes, type.dims.data(), type.dims.size(), type.element);
  return {made, api_.ReleaseValue};
}

}  // namespace dcc::ort
