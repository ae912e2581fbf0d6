// fuzz_topology.cpp: libFuzzer target for what strangers' files hold: topologies (manifest, inner model) and frames.
//
// First byte of an input: even, then a byte that counts payloads and a topology (dcc_check_topology); odd, then a
// frame, parsed and, where it is small, decoded on every kernel set, which must agree. Checksums are not compared in
// this build (crc32c.h), so that changes reach what lies behind them. tests/native/fuzz_seeds.py makes inputs to begin
// with.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "dcc.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kMostElements = 1 << 13;  // decoding more teaches nothing new
constexpr uint64_t kMostModel = uint64_t{64} << 20;
const char* const kIsas[] = {"portable", "avx2", "avx512"};

[[noreturn]] void fail() { std::abort(); }

// A refusal comes with a sentence.
bool is_ok(int code, const char* error) {
  if (code != DCC_OK && error[0] == '\0') fail();
  return code == DCC_OK;
}

void check_topology(const uint8_t* data, size_t size) {
  if (size == 0) return;
  char error[256] = "";
  is_ok(dcc_check_topology(data + 1, size - 1, data[0], size, kMostModel, error, sizeof error), error);
}

bool decode(const uint8_t* frame, size_t size, Bytes& out) {
  char error[256] = "";
  return is_ok(dcc_frame_decode(frame, size, out.data(), out.size(), 1, error, sizeof error), error);
}

void check_frame(const uint8_t* frame, size_t size) {
  char error[256] = "";
  dcc_frame_info info;
  if (!is_ok(dcc_frame_parse(frame, size, &info, error, sizeof error), error)) return;
  if (info.elements > kMostElements) return;
  static const size_t kWidths[] = {0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 2, 8, 0, 0, 0, 0, 2};  // by dtype
  Bytes wanted(info.elements * kWidths[info.dtype]);
  dcc_select_isa(kIsas[0]);
  const bool decodes = decode(frame, size, wanted);
  for (const char* isa : kIsas) {
    if (dcc_select_isa(isa) != DCC_OK) continue;
    Bytes got(wanted.size());
    if (decode(frame, size, got) != decodes || (decodes && got != wanted)) fail();
  }
  if (info.codebook_entries == 0) return;
  std::vector<uint16_t> indices(info.elements);
  const int code = dcc_frame_decode_indices(frame, size, indices.data(), indices.size(), 1, error, sizeof error);
  if (!is_ok(code, error) && decodes) fail();  // the other way round, codebook or scales may be bad
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  if (data[0] % 2 == 0)
    check_topology(data + 1, size - 1);
  else
    check_frame(data + 1, size - 1);
  return 0;
}
