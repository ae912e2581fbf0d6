// kept_weights.cpp: kept_weights.h.
#include "kernels/kept_weights.h"

#include <cstring>
#include <limits>

#include "base/failure.h"
#include "kernels/isa.h"
#include "kernels/kernels.h"
#include "kernels/sparse_kernels.h"

namespace dcc {
namespace {

size_t count_kept(const float* weights, size_t count) {
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, weights + i, sizeof bits);
    kept += bits << 1 != 0 ? 1 : 0;
  }
  return kept;
}

// The weights of an array [rows, columns] that are not zero, in its order.
KeptWeights kept_in_order(const float* dense, size_t rows, size_t columns) {
  KeptWeights kept;
  kept.k = columns;
  kept.n = rows;
  kept.starts.assign(rows + 1, 0);
  const size_t room = count_kept(dense, rows * columns) + columns + kLine;
  kept.inputs.resize(room);
  kept.values.resize(room);
  size_t at = 0;
  for (size_t r = 0; r < rows; ++r) {
    at += kernels().sparse->keep(dense + r * columns, columns, kept.inputs.data() + at, kept.values.data() + at);
    kept.starts[r + 1] = at;
  }
  kept.inputs.resize(at);
  kept.values.resize(at);
  return kept;
}

KeptWeights transposed_weights(const KeptWeights& kept) {
  KeptWeights turned;
  turned.k = kept.n;
  turned.n = kept.k;
  turned.starts.assign(kept.k + 1, 0);
  for (const uint32_t input : kept.inputs) ++turned.starts[input + 1];
  for (size_t o = 0; o < turned.n; ++o) turned.starts[o + 1] += turned.starts[o];
  turned.inputs.resize(kept.inputs.size());
  turned.values.resize(kept.values.size());
  std::vector<size_t> next(turned.starts.begin(), turned.starts.end() - 1);
  for (size_t r = 0; r < kept.n; ++r) {
    for (size_t i = kept.starts[r]; i < kept.starts[r + 1]; ++i) {
      const size_t at = next[kept.inputs[i]]++;
      turned.inputs[at] = static_cast<uint32_t>(r);
      turned.values[at] = kept.values[i];
    }
  }
  return turned;
}

}  // namespace

KeptWeights kept_weights(const float* dense, size_t k, size_t n, bool transposed) {
  size_t bytes = 0;
  require_argument(!__builtin_mul_overflow(k, n, &bytes) && !__builtin_mul_overflow(bytes, sizeof(float), &bytes) &&
                       k <= std::numeric_limits<uint32_t>::max() && n <= std::numeric_limits<uint32_t>::max(),
                   "the matrix has more than 2^32 rows or columns, or more elements than memory holds");
  return transposed ? kept_in_order(dense, n, k) : transposed_weights(kept_in_order(dense, k, n));
}

Codes find_codes(const LargeArray<float>& values, size_t most) {
  constexpr uint32_t kSlots = 1024;          // a table of hashes, a quarter full at most
  std::vector<uint16_t> code_of(kSlots, 0);  // one more than the code; 0: free
  Codes codes;
  codes.of.reserve(values.size());
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    uint32_t slot = (bits * 0x9E3779B1U) >> 22;
    const auto is_other = [&](uint16_t code) {
      return code != 0 && std::memcmp(&codes.table[code - 1U], &value, sizeof value) != 0;
    };
    while (is_other(code_of[slot])) slot = (slot + 1) % kSlots;
    if (code_of[slot] == 0) {
      if (codes.table.size() == most) return {};
      codes.table.push_back(value);
      code_of[slot] = static_cast<uint16_t>(codes.table.size());
    }
    codes.of.push_back(static_cast<uint8_t>(code_of[slot] - 1));
  }
  return codes;
}

}  // namespace dcc
