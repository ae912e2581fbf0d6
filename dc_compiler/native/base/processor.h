// processor.h: which instruction sets of x86-64 the processor has and the operating system lets programs use.
#ifndef DCC_PROCESSOR_H_
#define DCC_PROCESSOR_H_

namespace dcc {

// All false on other processors.
struct Processor {
  bool sse42 = false;
  bool avx2 = false;    // with FMA, BMI2, LZCNT and F16C
  bool avx512 = false;  // F, BW, VL, DQ, VBMI, VBMI2 and VNNI, and all of avx2
};

const Processor& processor();

}  // namespace dcc
#endif  // DCC_PROCESSOR_H_
