// refusal.h: how a file or an option is refused: the codec's exception, with a whole sentence.
#ifndef DCC_REFUSAL_H_
#define DCC_REFUSAL_H_

#include <string>

#include "base/failure.h"

namespace dcc {

[[noreturn]] inline void refuse(const std::string& sentence) { throw Failure(DCC_CORRUPT, sentence); }

}  // namespace dcc
#endif  // DCC_REFUSAL_H_
