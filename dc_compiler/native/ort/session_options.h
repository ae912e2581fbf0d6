// session_options.h: entries of session options, and which options an inner session takes over from the outer one.
#ifndef DCC_SESSION_OPTIONS_H_
#define DCC_SESSION_OPTIONS_H_

#include <map>
#include <string>

#include "ort/support.h"

namespace dcc::ort {

using Entries = std::map<std::string, std::string>;

// The entries of a list that a runtime made; frees the list.
Entries read_entries(const Api& api, OrtKeyValuePairs* pairs);

// The value of an entry, or an empty text.
std::string entry_of(const Api& api, const OrtSessionOptions* options, const char* key);

// Options of an inner session: a copy of `registered` without what fits the outer file alone (SECURITY.md): no profile,
// no optimized model, and only entries that are on a list. Entries cannot be taken out, so others are set to what turns
// them off.
Owned<OrtSessionOptions> inner_options(const Api& api, const OrtSessionOptions* registered);

}  // namespace dcc::ort
#endif  // DCC_SESSION_OPTIONS_H_
