// isa.h: which kernel set runs (kernels.h), chosen by what the processor and the operating system support.
#ifndef DCC_ISA_H_
#define DCC_ISA_H_

#include <cstddef>
#include <string>

namespace dcc {

struct Kernels;

// What is wrong with the environment variable DCC_ISA, as a sentence; empty when it is not set or names a set that can
// run.
const std::string& isa_problem();

// The kernel set in use: the best that can run, or the one forced by DCC_ISA or select_isa.
const Kernels& kernels();

// Names of the sets that can run here, best first; null behind the last.
const char* runnable_isa(size_t index);

// Forces the named set; "auto" undoes that. False when it is unknown or cannot run here.
bool select_isa(const char* name);

}  // namespace dcc
#endif  // DCC_ISA_H_
