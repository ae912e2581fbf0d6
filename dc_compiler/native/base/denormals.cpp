// Whether this thread's float arithmetic treats denormal numbers as zero; training does, for they cost 10 to 100 times
// more.
#include "dcc.h"

#if defined(__SSE2__)
#include <xmmintrin.h>

namespace {
constexpr unsigned kFlush = 0x8040;  // MXCSR: results (bit 15, FTZ) and operands (bit 6, DAZ)
}  // namespace

int dcc_flush_denormals(int on) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(on != 0 ? before | kFlush : before & ~kFlush);
  return (before & kFlush) == kFlush ? 1 : 0;
}
#elif defined(__aarch64__)
int dcc_flush_denormals(int on) {
  constexpr uint64_t kFlush = uint64_t{1} << 24;  // FPCR.FZ: operands and results
  uint64_t before = 0;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  const uint64_t after = on != 0 ? before | kFlush : before & ~kFlush;
  __asm__ volatile("msr fpcr, %0" : : "r"(after));
  return (before & kFlush) != 0 ? 1 : 0;
}
#else
int dcc_flush_denormals(int) { return 0; }
#endif
