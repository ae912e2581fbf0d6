// dcc_ort.h: the library's entry point for onnxruntime, for C++ programs that link it. Programs that load the library
// by its path need no header of it: their onnxruntime's RegisterCustomOpsLibrary finds the entry point by its name.
#ifndef DCC_ORT_H_
#define DCC_ORT_H_

#include <onnxruntime_cxx_api.h>

#include "dcc.h"

extern "C" DCC_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

namespace dcc {

// Makes sessions with these options open compiled models. Set everything else on the options first.
inline void register_operators(Ort::SessionOptions& options) {
  Ort::ThrowOnError(RegisterCustomOps(options, OrtGetApiBase()));
}

}  // namespace dcc
#endif  // DCC_ORT_H_
