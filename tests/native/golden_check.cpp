// golden_check.cpp: decodes the golden frames with every kernel set that runs here, where there is no Python to do it.
//
//     dcc_golden_check <tests/codec/golden>
//
// Exit code 1 when the bytes of a frame's values are not those of the .npy file beside it.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "dcc.h"

namespace {

using Bytes = std::vector<uint8_t>;
constexpr size_t kRoom = 1 << 20;  // bytes that no golden frame decodes to

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

// The data of an array file of version 1: behind a magic of 8 bytes, two of the header's length, and the header.
Bytes array_data(const std::filesystem::path& path) {
  const Bytes file = read(path);
  if (file.size() < 10) throw std::runtime_error(path.string() + " is cut short");
  const size_t start = 10 + file[8] + 256U * file[9];
  return {file.begin() + static_cast<std::ptrdiff_t>(std::min(start, file.size())), file.end()};
}

// The bytes of a frame's values, where the array has them: elements of 4 bits have a byte each there, and share one
// here.
Bytes wanted_of(const Bytes& frame, const Bytes& array) {
  dcc_frame_info info;
  char error[256];
  const bool is_parsed = dcc_frame_parse(frame.data(), frame.size(), &info, error, sizeof error) == DCC_OK;
  if (!is_parsed || info.dtype < 21 || info.dtype > 23) return array;
  Bytes packed((array.size() + 1) / 2);
  for (size_t i = 0; i < array.size(); ++i) packed[i / 2] |= static_cast<uint8_t>((array[i] & 15) << (i % 2 * 4));
  return packed;
}

// Whether the frame decodes to these bytes on `threads` threads.
bool decodes_to(const Bytes& frame, const Bytes& wanted, int threads) {
  Bytes values(std::max<size_t>(wanted.size(), 1));
  char error[256] = "other values";
  const bool is_right = wanted.size() < kRoom &&
                        dcc_frame_decode(frame.data(), frame.size(), values.data(), wanted.size(), threads, error,
                                         sizeof error) == DCC_OK &&
                        std::equal(wanted.begin(), wanted.end(), values.begin());
  if (!is_right) std::printf("%s: %s\n", dcc_isa(), error);
  return is_right;
}

int check(const char* folder) {
  size_t frames = 0, wrong = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::filesystem::path path = entry.path();
    if (path.extension() != ".dccw") continue;
    const Bytes frame = read(path);
    const Bytes wanted = wanted_of(frame, array_data(path.replace_extension(".npy")));
    ++frames;
    for (size_t i = 0; const char* isa = dcc_runnable_isa(i); ++i) {
      dcc_select_isa(isa);
      for (const int threads : {1, 2}) {
        if (decodes_to(frame, wanted, threads)) continue;
        std::printf("%s is not decoded as it should be\n", path.stem().c_str());
        ++wrong;
      }
    }
  }
  std::printf("%zu golden frames, %zu decoded wrongly; best kernels: %s\n", frames, wrong, dcc_runnable_isa(0));
  return frames == 0 || wrong > 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s <folder of golden frames>\n", argv[0]);
    return 2;
  }
  try {
    return check(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
