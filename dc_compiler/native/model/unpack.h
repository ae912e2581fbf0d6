// unpack.h: the standard ONNX model that a compiled one stands for, of either form (FORMAT.md 9).
#ifndef DCC_UNPACK_H_
#define DCC_UNPACK_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

namespace dcc {

// Writes the dense model's message to the room that `allocate` gives for its size, which is asked for when everything
// but what lies behind the headers of packed weights has been checked. `limit` is what the file may decode to;
// SECURITY.md has the default.
//
// Throws Failure: DCC_BAD_ARGUMENT when dcc did not write the file, DCC_OVER_LIMIT when it would decode to more, else
// DCC_CORRUPT.
void unpack(std::string_view file, std::optional<uint64_t> limit, int threads,
            const std::function<uint8_t*(size_t)>& allocate);

}  // namespace dcc
#endif  // DCC_UNPACK_H_
