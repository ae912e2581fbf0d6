// failure.h: the one exception of the codec, and the checks that throw it.
#ifndef DCC_FAILURE_H_
#define DCC_FAILURE_H_

#include <stdexcept>
#include <string>

#include "dcc.h"

namespace dcc {

struct Failure : std::runtime_error {
  Failure(int failure_code, const std::string& sentence) : std::runtime_error(sentence), code(failure_code) {}
  int code;
};

// Refuses a frame; `rule` completes "the frame is corrupt: ...".
[[noreturn]] inline void corrupt(const char* rule) {
  throw Failure(DCC_CORRUPT, std::string("the frame is corrupt: ") + rule);
}

inline void require(bool condition, const char* rule) {
  if (!condition) corrupt(rule);
}

// Refuses an argument of the caller with a whole sentence.
inline void require_argument(bool condition, const char* sentence) {
  if (!condition) throw Failure(DCC_BAD_ARGUMENT, sentence);
}

// Runs `work` and turns what it throws into an error code and a sentence.
template <typename Work>
int guarded(std::string& error, Work&& work) noexcept {
  try {
    work();
    return DCC_OK;
  } catch (const Failure& failure) {
    error = failure.what();
    return failure.code;
  } catch (const std::bad_alloc&) {
    error.assign("out of memory");
    return DCC_OUT_OF_MEMORY;
  } catch (const std::exception& unexpected) {
    error = unexpected.what();
    return DCC_OUT_OF_MEMORY;  // std::length_error and std::system_error: the system gave less than was asked for
  }
}

}  // namespace dcc
#endif  // DCC_FAILURE_H_
