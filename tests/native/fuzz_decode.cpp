// fuzz_decode.cpp: corrupts frames in every simple way and checks that the decoder refuses or changes nothing.
//
//     dcc_fuzz FRAME... [--mutations N]
//
// For each file: the frame itself must decode; every truncation, and every byte changed by several masks, must be
// refused or decode to the same values; N random changes (default 2000) get their CRCs recomputed, so that the checks
// behind the CRCs are met: those may decode to anything, and the sanitizers watch. Every decoding runs on each kernel
// set.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "dcc.h"
#include "model/tensor_type.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kMostOutput = uint64_t{1} << 24;  // larger claims are left to the caller's own limit
const char* const kIsas[] = {"portable", "avx2", "avx512"};

// Parses and decodes a copy of exactly the frame's size. True when it decodes; then `out` holds the values.
bool decodes(const Bytes& frame, Bytes& out) {
  const Bytes exact(frame.begin(), frame.end());
  char error[128];
  dcc_frame_info info;
  if (dcc_frame_parse(exact.data(), exact.size(), &info, error, sizeof error) != DCC_OK) return false;
  size_t bytes = 0;
  if (!dcc::bytes_of_elements(info.dtype, info.elements, bytes) || bytes > kMostOutput) return false;
  if (info.codebook_entries > 0) {
    std::vector<uint16_t> indices(info.elements);
    dcc_frame_decode_indices(exact.data(), exact.size(), indices.data(), indices.size(), 1, error, sizeof error);
  }
  out.assign(bytes, 0xA5);
  return dcc_frame_decode(exact.data(), exact.size(), out.data(), out.size(), 1, error, sizeof error) == DCC_OK;
}

// Length of a varint at `at`, 0 when there is none; its value goes to `value`.
size_t read_varint(const Bytes& frame, size_t at, uint64_t& value) {
  value = 0;
  for (size_t i = 0; i < 10 && at + i < frame.size(); ++i) {
    value |= static_cast<uint64_t>(frame[at + i] & 0x7F) << (7 * i);
    if (frame[at + i] < 0x80) return i + 1;
  }
  return 0;
}

void write_crc(Bytes& frame, size_t first, size_t last) {
  const uint32_t crc = dcc::crc32c(frame.data() + first, last - first);
  std::memcpy(frame.data() + last, &crc, sizeof crc);
}

// Recomputes the CRCs of the header, of `header_size` bytes with its CRC, and of the sections as their lengths now say.
void repair_crcs(Bytes& frame, size_t header_size) {
  write_crc(frame, 0, header_size - 4);
  for (size_t at = header_size; at < frame.size();) {
    uint64_t length = 0;
    const size_t prefix = read_varint(frame, at, length);
    if (prefix == 0 || length > frame.size() || at + prefix + length + 4 > frame.size()) return;
    at += prefix + static_cast<size_t>(length);
    write_crc(frame, at - static_cast<size_t>(length), at);
    at += 4;
  }
}

int fail(const std::string& file, const char* what, size_t where) {
  std::fprintf(stderr, "%s: %s (%zu)\n", file.c_str(), what, where);
  return 1;
}

// Counts what happened, so that a run that never got past the CRCs shows.
struct Tally {
  size_t refused = 0, decoded = 0;
};

int fuzz(const std::string& file, const Bytes& frame, size_t mutations, Tally& tally) {
  Bytes wanted;
  Bytes got;
  if (!decodes(frame, wanted)) return fail(file, "the frame itself is refused", 0);

  for (size_t size = 0; size < frame.size(); ++size) {
    if (decodes(Bytes(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(size)), got)) {
      return fail(file, "a truncation is accepted", size);
    }
  }
  Bytes changed = frame;
  changed.push_back(0);
  if (decodes(changed, got)) return fail(file, "a byte too many is accepted", frame.size());

  for (size_t at = 0; at < frame.size(); ++at) {
    for (const unsigned mask : {0x01U, 0x10U, 0x80U, 0x55U, 0xFFU}) {
      changed = frame;
      changed[at] = static_cast<uint8_t>(changed[at] ^ mask);
      if (decodes(changed, got) && got != wanted) return fail(file, "a changed byte changes values", at);
    }
  }

  dcc_frame_info info;
  dcc_frame_parse(frame.data(), frame.size(), &info, nullptr, 0);
  std::mt19937_64 random(12345);
  for (size_t i = 0; i < mutations; ++i) {
    changed = frame;
    const size_t first = i % 4 == 0 ? 4 : info.header_bytes;  // a quarter of the changes may hit the header
    for (size_t count = 1 + random() % 4; count > 0; --count) {
      changed[first + random() % (frame.size() - first)] = static_cast<uint8_t>(random());
    }
    repair_crcs(changed, info.header_bytes);
    ++(decodes(changed, got) ? tally.decoded : tally.refused);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  size_t mutations = 2000;
  std::vector<std::string> files;
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(arguments[i], "--mutations") == 0 && i + 1 < count) {
      mutations = std::strtoul(arguments[++i], nullptr, 10);
    } else {
      files.emplace_back(arguments[i]);
    }
  }
  if (files.empty()) {
    std::fprintf(stderr, "usage: dcc_fuzz FRAME... [--mutations N]\n");
    return 2;
  }
  for (const char* isa : kIsas) {
    if (dcc_select_isa(isa) != DCC_OK) continue;
    Tally tally;
    for (const std::string& file : files) {
      std::ifstream stream(file, std::ios::binary);
      const Bytes frame{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
      if (fuzz(file, frame, mutations, tally) != 0) return 1;
    }
    std::printf("%s: %zu frames; changed behind right CRCs: %zu refused, %zu decoded\n", isa, files.size(),
                tally.refused, tally.decoded);
  }
  return 0;
}
