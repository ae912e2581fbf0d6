// processor.cpp: what cpuid says. Compilers' own __builtin_cpu_supports needs a runtime library that not all of them
// bring (that of Zig has a stub which knows nothing).
#include "base/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace dcc {

#if defined(__x86_64__)
namespace {

struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

// All zero when the processor has no such leaf.
Leaf leaf(unsigned number) {
  Leaf found;
  if (__get_cpuid_count(number, 0, &found.a, &found.b, &found.c, &found.d) == 0) return Leaf{};
  return found;
}

bool has_all(unsigned value, unsigned bits) { return (value & bits) == bits; }

// XCR0: the registers that the system saves when it switches threads. Needs OSXSAVE.
unsigned saved_registers() {
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

Processor find() {
  constexpr unsigned kYmm = 0x06, kZmm = 0xE6;  // XMM and YMM; with mask registers and both parts of ZMM
  // Compilers' headers have different names for these
  constexpr unsigned kVbmi = 1U << 1, kVbmi2 = 1U << 6, kVnni = 1U << 11, kLzcnt = 1U << 5;
  const Leaf first = leaf(1), seventh = leaf(7), extended = leaf(0x80000001);
  Processor found;
  found.sse42 = has_all(first.c, bit_SSE4_2);
  if (!has_all(first.c, bit_OSXSAVE)) return found;
  const unsigned saved = saved_registers();
  found.avx2 = has_all(saved, kYmm) && has_all(first.c, bit_AVX | bit_FMA | bit_F16C) &&
               has_all(seventh.b, bit_AVX2 | bit_BMI2) && has_all(extended.c, kLzcnt);
  found.avx512 = found.avx2 && has_all(saved, kZmm) &&
                 has_all(seventh.b, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ) &&
                 has_all(seventh.c, kVbmi | kVbmi2 | kVnni);
  return found;
}

}  // namespace
#else
namespace {
Processor find() { return {}; }
}  // namespace
#endif

const Processor& processor() {
  static const Processor found = find();
  return found;
}

}  // namespace dcc
