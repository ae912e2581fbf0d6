// cancel.cpp: how a caller stops a long call (dcc_set_cancel_flag of dcc.h).
#include "base/cancel.h"

#include "base/failure.h"

namespace dcc {
namespace {

thread_local const int32_t* this_threads_flag = nullptr;

}  // namespace

const int32_t* cancel_flag() { return this_threads_flag; }

const int32_t* set_cancel_flag(const int32_t* flag) {
  const int32_t* const before = this_threads_flag;
  this_threads_flag = flag;
  return before;
}

void stop_if_cancelled() {
  // Another thread, or a signal handler, writes it, so it is read as an atomic.
  if (this_threads_flag != nullptr && __atomic_load_n(this_threads_flag, __ATOMIC_RELAXED) != 0) {
    throw Failure(DCC_CANCELLED, "stopped");
  }
}

}  // namespace dcc
