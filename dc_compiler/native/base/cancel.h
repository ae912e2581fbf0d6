// cancel.h: how a caller stops a long call (dcc_set_cancel_flag of dcc.h).
#ifndef DCC_CANCEL_H_
#define DCC_CANCEL_H_

#include <cstddef>
#include <cstdint>

namespace dcc {

// The flag that this thread's calls obey; null when there is none.
const int32_t* cancel_flag();

// Sets this thread's flag; returns the one before.
const int32_t* set_cancel_flag(const int32_t* flag);

// A flag for a while: what a call starts on other threads obeys its caller's.
class CancelScope {
 public:
  explicit CancelScope(const int32_t* flag) : before_(set_cancel_flag(flag)) {}
  ~CancelScope() { set_cancel_flag(before_); }
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

 private:
  const int32_t* before_;
};

// Throws Failure(DCC_CANCELLED) when this thread's flag is set. Costs some nanoseconds: call it once in thousands of
// bytes.
void stop_if_cancelled();

// For loops over bytes or elements: stops at every 2^12th.
inline void stop_if_cancelled(size_t at) {
  if ((at & 0xFFF) == 0) stop_if_cancelled();
}

}  // namespace dcc
#endif  // DCC_CANCEL_H_
