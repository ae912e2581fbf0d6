// weight_memory.h: memory of decoded weights that a session uses where it lies, until it has packed them its own way.
#ifndef DCC_WEIGHT_MEMORY_H_
#define DCC_WEIGHT_MEMORY_H_

#include <mutex>
#include <unordered_map>

#include "base/large_array.h"
#include "model/manifest.h"
#include "ort/support.h"

namespace dcc::ort {

// Must outlive every value made with it, and every session that has one. Throws what a runtime refuses as Failure.
class WeightMemory : OrtAllocator {
 public:
  explicit WeightMemory(const Api& api);
  WeightMemory(const WeightMemory&) = delete;
  WeightMemory& operator=(const WeightMemory&) = delete;

  // Memory for a weight, whose bytes are to be written before it is used. Throws std::bad_alloc.
  uint8_t* allocate(size_t bytes);

  // The tensor of a weight. Memory of ours is freed with the last copy of the value; all other must outlive it.
  Owned<OrtValue> value(const Weight& weight);

 private:
  const Api& api_;
  Owned<OrtMemoryInfo> info_;
  std::mutex mutex_;
  std::unordered_map<void*, LargeArray<uint8_t>> arrays_;  // by where they begin
};

}  // namespace dcc::ort
#endif  // DCC_WEIGHT_MEMORY_H_
