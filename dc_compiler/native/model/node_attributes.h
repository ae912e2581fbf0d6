// node_attributes.h: packed attributes put back into the nodes of an inner model (FORMAT.md 9.2, execution
// `attributes`). Needs no onnxruntime.
#ifndef DCC_NODE_ATTRIBUTES_H_
#define DCC_NODE_ATTRIBUTES_H_

#include <string>
#include <vector>

#include "model/budget.h"
#include "model/payload_decoding.h"

namespace dcc {

// Takes payloads of attributes out of the manifest, and their frames out of `frames`, which are those of all payloads
// and fit them; what they decode to is spent already. With such payloads, the manifest's model then lies in `filled`,
// with the attributes in place. Throws Failure.
void put_attributes_back(Manifest& manifest, std::vector<StoredFrame>& frames, int threads, Budget& budget,
                         std::string& filled);

}  // namespace dcc
#endif  // DCC_NODE_ATTRIBUTES_H_
