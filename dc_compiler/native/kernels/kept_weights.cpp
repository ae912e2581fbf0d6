// kept_weights.cpp: kept_weights.h.
#include "kernels/kept_weights.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/failure.h"
#include "base/parallel.h"
#include "kernels/isa.h"
#include "kernels/kernels.h"
#include "kernels/sparse_kernels.h"

namespace dcc {
namespace {

size_t divided_up(size_t a, size_t b) { return a / b + (a % b != 0 ? 1 : 0); }

size_t is_kept(const float& weight) {  // of the bits: a thread may treat subnormal numbers as zero
  uint32_t bits;
  std::memcpy(&bits, &weight, sizeof bits);
  return bits << 1 != 0 ? 1 : 0;
}

// What SparseKernels::keep() writes for up to `count` weights.
struct Row {
  explicit Row(size_t count) : inputs(count + kLine), values(count + kLine) {}
  size_t fill(const float* weights, size_t count) {
    return kernels().sparse->keep(weights, count, inputs.data(), values.data());
  }
  LargeArray<uint32_t> inputs;
  LargeArray<float> values;
};

// `dense` is [n, k]: a row is an output.
void keep_rows(KeptWeights& kept, const float* dense, int threads) {
  constexpr size_t kRows = 64;  // of a task
  const size_t tasks = divided_up(kept.n, kRows);
  parallel_for(tasks, threads, [&](size_t task) {
    for (size_t o = task * kRows; o < std::min((task + 1) * kRows, kept.n); ++o) {
      const float* const weights = dense + o * kept.k;
      size_t count = 0;
      for (size_t c = 0; c < kept.k; ++c) count += is_kept(weights[c]);
      kept.starts[o + 1] = count;
    }
  });
  for (size_t o = 0; o < kept.n; ++o) kept.starts[o + 1] += kept.starts[o];
  kept.inputs.resize(kept.starts[kept.n]);
  kept.values.resize(kept.starts[kept.n]);
  parallel_for(tasks, threads, [&](size_t task) {
    Row row(kept.k);
    for (size_t o = task * kRows; o < std::min((task + 1) * kRows, kept.n); ++o) {
      const size_t count = row.fill(dense + o * kept.k, kept.k);
      std::copy_n(row.inputs.data(), count, kept.inputs.data() + kept.starts[o]);
      std::copy_n(row.values.data(), count, kept.values.data() + kept.starts[o]);
    }
  });
}

// Some rows of `dense` [k, n], a column of which is an output: the weights that are not zero in their order, and where
// the next one of an output belongs.
struct Rows {
  LargeArray<size_t> ends;  // of each row: behind its last weight
  LargeArray<uint32_t> outputs;
  LargeArray<float> values;
  LargeArray<size_t> next;

  void fill(const float* dense, size_t rows, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < rows * n; ++i) count += is_kept(dense[i]);
    outputs.resize(count + n + kLine);
    values.resize(count + n + kLine);
    next.assign(n, 0);
    size_t at = 0;
    for (size_t r = 0; r < rows; ++r) {
      const size_t before = at;
      at += kernels().sparse->keep(dense + r * n, n, outputs.data() + at, values.data() + at);
      ends.push_back(at);
      for (size_t i = before; i < at; ++i) ++next[outputs[i]];
    }
  }
};

// `dense` is [k, n]: what each thread finds in its rows goes to places that it has to itself.
void keep_columns(KeptWeights& kept, const float* dense, int threads) {
  const size_t parts = std::max<size_t>(std::min(thread_count(threads), kept.k), 1);
  const auto first_row = [&](size_t part) { return kept.k * part / parts; };
  std::vector<Rows> found(parts);
  parallel_for(parts, threads, [&](size_t part) {
    const size_t row = first_row(part);
    found[part].fill(dense + row * kept.n, first_row(part + 1) - row, kept.n);
  });
  size_t at = 0;
  for (size_t o = 0; o < kept.n; ++o) {
    kept.starts[o] = at;
    for (Rows& rows : found) at += std::exchange(rows.next[o], at);
  }
  kept.starts[kept.n] = at;
  kept.inputs.resize(at);
  kept.values.resize(at);
  parallel_for(parts, threads, [&](size_t part) {
    Rows& rows = found[part];
    size_t i = 0;
    for (size_t r = 0; r < rows.ends.size(); ++r) {
      for (; i < rows.ends[r]; ++i) {
        const size_t to = rows.next[rows.outputs[i]]++;
        kept.inputs[to] = static_cast<uint32_t>(first_row(part) + r);
        kept.values[to] = rows.values[i];
      }
    }
  });
}

}  // namespace

KeptWeights kept_weights(const float* dense, size_t k, size_t n, bool transposed, int threads) {
  size_t bytes = 0;
  require_argument(!__builtin_mul_overflow(k, n, &bytes) && !__builtin_mul_overflow(bytes, sizeof(float), &bytes) &&
                       k <= std::numeric_limits<uint32_t>::max() && n <= std::numeric_limits<uint32_t>::max(),
                   "the matrix has more than 2^32 rows or columns, or more elements than memory holds");
  KeptWeights kept;
  kept.k = k;
  kept.n = n;
  kept.starts.assign(n + 1, 0);
  (transposed ? keep_rows : keep_columns)(kept, dense, threads);
  return kept;
}

KeptWeights kept_points(const int8_t* dense, size_t k, size_t n, bool transposed, int threads) {
  size_t size = 0;
  require_argument(!__builtin_mul_overflow(k, n, &size), "the matrix has more elements than memory holds");
  return kept_weights(LargeArray<float>(dense, dense + size).data(), k, n, transposed, threads);
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
