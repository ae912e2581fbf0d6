// budget.cpp: how much memory one file's packed weights and graphs may take.
#include "model/budget.h"

#include "base/failure.h"

namespace dcc {
namespace {

uint64_t saturating_add(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

uint64_t default_limit(uint64_t stored) {
  uint64_t earned = 0;
  return __builtin_mul_overflow(stored, kBytesPerStored, &earned) ? UINT64_MAX : saturating_add(kFreeBytes, earned);
}

}  // namespace

void Budget::add_stored(uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  stored_ = saturating_add(stored_, bytes);
}

void Budget::spend(uint64_t bytes, const std::string& what) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t limit = limit_ ? *limit_ : default_limit(stored_);
  const uint64_t after = saturating_add(spent_, bytes);
  if (after > limit)
    throw Failure(DCC_OVER_LIMIT, what + " would make the file decode to " + std::to_string(after) +
                                      " bytes, but it may take " + std::to_string(limit) +
                                      "; if the file is trusted, " + remedy_);
  spent_ = after;
}

}  // namespace dcc
