// isa.cpp: which kernel set runs (kernels.h), chosen by what the processor and the operating system support.
#include "kernels/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "base/processor.h"
#include "kernels/kernels.h"

namespace dcc {
namespace {

struct Choice {
  const Kernels* kernels;
  bool (*can_run)();
};

// Best first
constexpr Choice kChoices[] = {
#if defined(__x86_64__)
    {&kAvx512Kernels, [] { return processor().avx512; }},
    {&kAvx2Kernels, [] { return processor().avx2; }},
#elif defined(__aarch64__) || defined(__wasm_simd128__)
    {&kSimd128Kernels, [] { return true; }},
#endif
    {&kPortableKernels, [] { return true; }},
};

// Null when the name is unknown or the set cannot run.
const Kernels* find(const char* name) {
  for (const Choice& choice : kChoices) {
    if ((std::strcmp(name, "auto") == 0 || std::strcmp(name, choice.kernels->name) == 0) && choice.can_run()) {
      return choice.kernels;
    }
  }
  return nullptr;
}

std::string find_problem() {
  const char* wanted = std::getenv("DCC_ISA");
  if (wanted == nullptr || find(wanted) != nullptr) return {};
  std::string known = "auto";
  for (const Choice& choice : kChoices) {
    if (std::strcmp(wanted, choice.kernels->name) == 0) {
      return std::string("the environment variable DCC_ISA asks for ") + wanted +
             ", which this processor cannot run; unset it";
    }
    known += std::string(", ") + choice.kernels->name;
  }
  return std::string("the environment variable DCC_ISA is '") + wanted + "'; known are " + known;
}

// DCC_ISA where it names a set that can run, otherwise the best.
const Kernels* initial() {
  const char* wanted = std::getenv("DCC_ISA");
  const Kernels* forced = wanted != nullptr ? find(wanted) : nullptr;
  return forced != nullptr ? forced : find("auto");
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> chosen{initial()};
  return chosen;
}

}  // namespace

const std::string& isa_problem() {
  static const std::string problem = find_problem();
  return problem;
}

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

const char* runnable_isa(size_t index) {
  for (const Choice& choice : kChoices) {
    if (choice.can_run() && index-- == 0) return choice.kernels->name;
  }
  return nullptr;
}

bool select_isa(const char* name) {
  const Kernels* wanted = find(name);
  if (wanted != nullptr) current() = wanted;
  return wanted != nullptr;
}

}  // namespace dcc
