// parallel.cpp: spreads independent tasks over threads.
#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/cancel.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace dcc {
namespace {

// A caller may flush subnormals to zero or round otherwise; decoded values must not depend on that (FORMAT.md 2.1).
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  std::fenv_t saved_;
};

size_t processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<size_t>(std::max(CPU_COUNT(&set), 1));
#endif
  return std::max(std::thread::hardware_concurrency(), 1U);
}

}  // namespace

size_t thread_count(int threads) { return threads > 0 ? static_cast<size_t>(threads) : processors(); }

TaskFailure try_parallel(size_t count, int threads, const std::function<void(size_t)>& task) {
  std::atomic<size_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  TaskFailure failure;

  const int32_t* const flag = cancel_flag();
  const auto work = [&] {
    const DefaultFloatEnvironment environment;
    const CancelScope scope(flag);
    while (!stop.load(std::memory_order_relaxed)) {
      const size_t index = next.fetch_add(1, std::memory_order_relaxed);
      if (index >= count) return;
      try {
        stop_if_cancelled();
        task(index);
      } catch (...) {
        stop = true;
        const std::lock_guard<std::mutex> lock(mutex);
        if (!failure.error || index < failure.task) failure = {index, std::current_exception()};
      }
    }
  };

  std::vector<std::thread> others;
  const size_t wanted = std::min(thread_count(threads), count);
  try {
    for (size_t i = 1; i < wanted; ++i) others.emplace_back(work);
  } catch (const std::exception&) {
    // The system refuses more threads: those that started, and this one, do the work.
  }
  work();
  for (std::thread& other : others) other.join();
  return failure;
}

void parallel_for(size_t count, int threads, const std::function<void(size_t)>& task) {
  const TaskFailure failure = try_parallel(count, threads, task);
  if (failure.error) std::rethrow_exception(failure.error);
}

}  // namespace dcc
