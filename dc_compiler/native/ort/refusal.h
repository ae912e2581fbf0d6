// refusal.h: how this folder refuses a file or an option: the codec's exception, with a whole sentence.
#ifndef DCC_REFUSAL_H_
#define DCC_REFUSAL_H_

#include <string>

#include "base/failure.h"

namespace dcc::ort {

[[noreturn]] inline void refuse(const std::string& sentence) { throw Failure(DCC_CORRUPT, sentence); }

}  // namespace dcc::ort
#endif  // DCC_REFUSAL_H_
