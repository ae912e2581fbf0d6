// sparse_check.cpp: sparse layers against plain loops, bit for bit, on every kernel set that runs here.
//
//     sparse_check
//
// Does in C++ what tests/kernels does in Python, for processors that are emulated (.ci/run arm).
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "dcc.h"

namespace {

using Floats = std::vector<float>;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "sparse_check: %s on %s\n", what.c_str(), dcc_isa());
  std::exit(1);
}

class Numbers {
 public:
  Floats some(size_t count) {
    Floats values(count);
    for (float& value : values) value = normal_(random_);
    return values;
  }
  // Of which about `kept` in 10 are not zero, and `levels` different (0: all).
  Floats weights(size_t count, unsigned kept, size_t levels) {
    const Floats pool = some(levels == 0 ? count + 1 : levels);
    Floats values(count);
    for (float& value : values) {
      const size_t chosen = random_() % pool.size();
      value = random_() % 10 < kept ? pool[chosen] : 0.0F;
    }
    return values;
  }

 private:
  std::mt19937 random_{1};
  std::normal_distribution<float> normal_;
};

void expect_same(const Floats& actual, const Floats& expected, const std::string& what) {
  if (std::memcmp(actual.data(), expected.data(), expected.size() * sizeof(float)) != 0) fail(what + " differs");
}

void check_matmul(Numbers& numbers, size_t k, size_t n, unsigned kept, size_t levels, size_t usual_m) {
  const Floats w = numbers.weights(k * n, kept, levels);
  const Floats bias = numbers.some(n);
  dcc_sparse_matmul* made = nullptr;
  if (dcc_sparse_matmul_make(w.data(), k, n, 0, usual_m, 2, &made, nullptr, 0) != DCC_OK)
    fail("dcc_sparse_matmul_make");
  for (const size_t m : {0, 1, 2, 5, 16, 41}) {
    const Floats x = numbers.some(m * k);
    Floats expected(m * n), y(m * n);
    for (size_t i = 0; i < m * n; ++i) {
      float sum = bias[i % n];
      for (size_t c = 0; c < k; ++c) {
        const float weight = w[c * n + i % n];
        if (weight != 0) sum = std::fma(x[i / n * k + c], weight, sum);
      }
      expected[i] = sum + 0.0F;
    }
    dcc_sparse_matmul_run(made, x.data(), m, bias.data(), nullptr, y.data(), 2, nullptr, 0);
    expect_same(y, expected, "MatMul " + std::to_string(k) + "x" + std::to_string(n) + ", " + std::to_string(m));
  }
  dcc_sparse_matmul_free(made);
}

// Whole numbers, times a step and a scale, plus a bias, each rounded.
void check_int8(Numbers& numbers, size_t k, size_t n, unsigned kept, size_t levels) {
  const Floats scales = numbers.some(n), bias = numbers.some(n), values = numbers.weights(k * n, kept, levels);
  std::vector<int8_t> w(k * n);
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<int8_t>(std::fmax(-128, std::fmin(127, values[i] * 40)));
  constexpr uint8_t zero = 77;
  constexpr float step = 0.03F;
  dcc_sparse_int8* made = nullptr;
  if (dcc_sparse_int8_make(w.data(), scales.data(), k, n, 0, 2, &made, nullptr, 0) != DCC_OK)
    fail("dcc_sparse_int8_make");
  for (const size_t m : {0, 1, 2, 5, 16, 41}) {
    std::vector<uint8_t> x(m * k);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 37 % 251);
    Floats expected(m * n), y(m * n);
    for (size_t i = 0; i < m * n; ++i) {
      int32_t sum = 0;
      for (size_t c = 0; c < k; ++c) sum += (x[i / n * k + c] - zero) * w[c * n + i % n];
      const float product = static_cast<float>(sum) * (step * scales[i % n]);
      expected[i] = product + bias[i % n];
    }
    dcc_sparse_int8_run(made, x.data(), m, zero, step, bias.data(), nullptr, y.data(), 2, nullptr, 0);
    expect_same(y, expected, "int8 " + std::to_string(k) + "x" + std::to_string(n) + ", " + std::to_string(m));
  }
  dcc_sparse_int8_free(made);
}

// A square image and kernel, with the same stride, dilation and padding on all sides.
void check_conv(Numbers& numbers, size_t outputs, size_t channels, size_t window, size_t size, size_t stride,
                size_t dilation, size_t pad) {
  const Floats w = numbers.weights(outputs * channels * window * window, 3, 0);
  const Floats x = numbers.some(channels * size * size);
  const size_t attributes[] = {window, window, stride, stride, dilation, dilation, pad, pad, pad, pad, 1};
  dcc_sparse_conv* made = nullptr;
  if (dcc_sparse_conv_make(w.data(), outputs, channels, attributes, 2, &made, nullptr, 0) != DCC_OK)
    fail("dcc_sparse_conv_make");
  size_t out[2] = {};
  dcc_sparse_conv_shape(made, size, size, out, nullptr, 0);
  Floats expected(outputs * out[0] * out[1]), y(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const size_t output = i / (out[0] * out[1]), row = i / out[1] % out[0], column = i % out[1];
    float sum = 0;
    for (size_t t = 0; t < channels * window * window; ++t) {
      const float weight = w[output * channels * window * window + t];
      // Beside the image these wrap around and are large.
      const size_t above = row * stride + t / window % window * dilation - pad;
      const size_t left = column * stride + t % window * dilation - pad;
      const bool is_inside = above < size && left < size;
      const float pixel = is_inside ? x[(t / (window * window) * size + above) * size + left] : 0.0F;
      if (weight != 0) sum = std::fma(pixel, weight, sum);
    }
    expected[i] = std::fmax(sum + 0.0F, 0.0F);
  }
  const float relu[] = {0.0F, INFINITY};
  dcc_sparse_conv_run(made, x.data(), 1, size, size, nullptr, relu, y.data(), 2, nullptr, 0);
  expect_same(y, expected, "Conv of " + std::to_string(window) + " over " + std::to_string(size));
  dcc_sparse_conv_free(made);
}

}  // namespace

int main() {
  for (size_t set = 0; const char* isa = dcc_runnable_isa(set); ++set) {
    dcc_select_isa(isa);
    Numbers numbers;
    for (const size_t usual_m : {1, 64}) {
      for (const size_t levels : {20, 200, 0}) {
        check_matmul(numbers, 1, 1, 10, levels, usual_m);
        check_matmul(numbers, 31, 17, 5, levels, usual_m);
        check_matmul(numbers, 300, 131, 1, levels, usual_m);
        check_matmul(numbers, 129, 65, 0, levels, usual_m);
      }
    }
    for (const size_t levels : {20, 0}) {
      check_int8(numbers, 1, 1, 10, levels);
      check_int8(numbers, 127, 17, 5, levels);
      check_int8(numbers, 300, 131, 1, levels);
      check_int8(numbers, 129, 65, 0, levels);
    }
    check_conv(numbers, 3, 2, 1, 9, 1, 1, 0);
    check_conv(numbers, 65, 5, 3, 14, 1, 1, 1);
    check_conv(numbers, 7, 3, 5, 29, 2, 1, 2);
    check_conv(numbers, 4, 2, 3, 23, 3, 2, 4);
    std::printf("%s: sparse layers agree\n", isa);
  }
  return 0;
}
