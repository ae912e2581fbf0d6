// fuzz_topology.cpp: libFuzzer target for strangers' files and what they hold: topologies (manifest, inner model) and
// frames.
//
// First byte of an input, modulo 3: 0, then a byte that counts payloads and a topology (dcc_check_topology); 1, then a
// frame, parsed and, where it is small, decoded on every kernel set, which must agree; 2, then a compiled model
// (dcc_unpack). Checksums are not compared in this build (crc32c.h), so that changes reach what lies behind them.
// tests/native/fuzz_seeds.py makes inputs to begin with.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "dcc.h"
#include "model/tensor_type.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kMostElements = 1 << 13;  // decoding more teaches nothing new
constexpr uint64_t kMostModel = uint64_t{64} << 20;
constexpr uint64_t kMostUnpacked = uint64_t{1} << 20;
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

bool unpack(const uint8_t* model, size_t size, uint8_t*& dense, size_t& dense_size) {
  char error[256] = "";
  return is_ok(dcc_unpack(model, size, kMostUnpacked, 1, &dense, &dense_size, error, sizeof error), error);
}

// What a model expands to is a plain one, not to be expanded once more, and no larger than the bound and the file.
void check_model(const uint8_t* model, size_t size) {
  uint8_t* dense = nullptr;
  size_t dense_size = 0;
  if (!unpack(model, size, dense, dense_size)) return;
  uint8_t* again = nullptr;
  size_t again_size = 0;
  if (dense_size > kMostUnpacked + 2 * size || unpack(dense, dense_size, again, again_size)) fail();
  dcc_free(dense);
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
  size_t bytes = 0;
  if (!dcc::bytes_of_elements(info.dtype, info.elements, bytes)) fail();
  Bytes wanted(bytes);
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
  switch (data[0] % 3) {
    case 0: check_topology(data + 1, size - 1); break;
    case 1: check_frame(data + 1, size - 1); break;
    default: check_model(data + 1, size - 1);
  }
  return 0;
}
