// number_list.h: lists of code lengths and frequencies (FORMAT.md, section 4).
#ifndef DCC_NUMBER_LIST_H_
#define DCC_NUMBER_LIST_H_

#include <vector>

#include "base/byte_io.h"

namespace dcc {

std::vector<uint32_t> read_number_list(ByteReader& reader, size_t length);
void append_number_list(Bytes& out, const std::vector<uint32_t>& values);
size_t number_list_size(const std::vector<uint32_t>& values);

}  // namespace dcc
#endif  // DCC_NUMBER_LIST_H_
