// parallel.h: spreads independent tasks over threads.
#ifndef DCC_PARALLEL_H_
#define DCC_PARALLEL_H_

#include <cstddef>
#include <exception>
#include <functional>

namespace dcc {

// What the first failing task threw. `error` is null when all tasks succeeded.
struct TaskFailure {
  size_t task = 0;
  std::exception_ptr error;
};

// Runs task(0) ... task(count - 1) on at most `threads` threads (<= 0: one per processor this process may use), the
// caller's among them, in the default floating-point environment. Tasks are started in order; after a failure no new
// one starts, so the failure of the lowest task is reported whatever the number of threads.
TaskFailure try_parallel(size_t count, int threads, const std::function<void(size_t)>& task);

// The same, rethrowing the failure.
void parallel_for(size_t count, int threads, const std::function<void(size_t)>& task);

// Number of threads that `threads` stands for, at least 1.
size_t thread_count(int threads);

}  // namespace dcc
#endif  // DCC_PARALLEL_H_
