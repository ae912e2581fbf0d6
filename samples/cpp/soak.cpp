// soak.cpp: opens a compiled model, runs it and closes it again, many times: a server whose sessions come and go.
//
//     dcc_soak <model.onnx> [sessions, 5000] [most MiB of growth, 8]
//
// Prints the resident memory after a tenth of the sessions, when caches are filled, and after each further tenth. Exit
// code 1 when it grew by more than allowed in between, or when an output changed.
#include <dcc_ort.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "inputs.h"

namespace {

// Resident memory of this process in MiB (Linux).
double resident() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::strtod(line.c_str() + 6, nullptr) / 1024;
  }
  throw std::runtime_error("/proc/self/status tells no VmRSS");
}

std::vector<float> first_output(const Ort::Env& env, const char* model) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  dcc::register_operators(options);
  Ort::Session session(env, model, options);
  const Feed feed(session, 0.5F);
  const auto outputs = feed.run(session);
  const float* values = outputs[0].GetTensorData<float>();
  return {values, values + outputs[0].GetTensorTypeAndShapeInfo().GetElementCount()};
}

int soak(const char* model, int sessions, double most) {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "dcc_soak");
  const std::vector<float> expected = first_output(env, model);
  const int tenth = sessions / 10;
  double filled = 0, now = 0;
  for (int i = 1; i <= sessions; ++i) {
    if (first_output(env, model) != expected) {
      std::printf("session %d gives another output\n", i);
      return 1;
    }
    if (i % tenth != 0) continue;
    now = resident();
    if (i == tenth) filled = now;
    std::printf("%d sessions: %.1f MiB\n", i, now);
  }
  std::printf("grew by %.1f MiB from session %d to %d\n", now - filled, tenth, sessions);
  return now - filled > most ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int sessions = argc > 2 ? std::atoi(argv[2]) : 5000;
  if (argc < 2 || argc > 4 || sessions < 10) {
    std::fprintf(stderr, "usage: %s <model.onnx> [sessions, at least 10] [most MiB of growth]\n", argv[0]);
    return 2;
  }
  try {
    return soak(argv[1], sessions, argc > 3 ? std::strtod(argv[3], nullptr) : 8.0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
