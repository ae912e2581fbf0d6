// kept_weights.h: the weights of a matrix that are not zero, from which the layouts of sparse kernels are made.
#ifndef DCC_KEPT_WEIGHTS_H_
#define DCC_KEPT_WEIGHTS_H_

#include <cstddef>
#include <cstdint>

#include "base/large_array.h"

namespace dcc {

// Weights by output, each output's by input.
struct KeptWeights {
  size_t k = 0, n = 0;          // inputs, outputs
  LargeArray<size_t> starts;    // [n + 1]: the first weight of an output
  LargeArray<uint32_t> inputs;  // of a weight
  LargeArray<float> values;
};

// `dense` is [k, n], or [n, k] if `transposed`. -0.0 is zero. Throws Failure when the sizes are those of no array.
// `threads` as in parallel.h.
KeptWeights kept_weights(const float* dense, size_t k, size_t n, bool transposed, int threads = 1);

// The same for int8: their values as floats.
KeptWeights kept_points(const int8_t* dense, size_t k, size_t n, bool transposed, int threads = 1);

// Values as a number each: values[i] = table[of[i]]. All empty when there are more than `most` (up to 256) different
// ones.
struct Codes {
  LargeArray<float> table;
  LargeArray<uint8_t> of;
};
Codes find_codes(const LargeArray<float>& values, size_t most);

}  // namespace dcc
#endif  // DCC_KEPT_WEIGHTS_H_
