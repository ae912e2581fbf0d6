// c_api.cpp: the C interface (dcc.h) over codec.h and the checks of inner models; lets no exception out.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>

#include "base/cancel.h"
#include "base/failure.h"
#include "base/parallel.h"
#include "coders/coder.h"
#include "frame/codec.h"
#include "kernels/isa.h"
#include "kernels/kernels.h"
#include "kernels/sparse_conv.h"
#include "kernels/sparse_gain.h"
#include "kernels/sparse_int8.h"
#include "kernels/sparse_matmul.h"
#include "model/manifest.h"
#include "model/model_check.h"
#include "model/run_layers.h"
#include "model/unpack.h"

struct dcc_sparse_matmul {
  dcc::SparseMatMul matrix;
};

struct dcc_sparse_int8 {
  dcc::SparseInt8MatMul matrix;
};

struct dcc_sparse_conv {
  dcc::SparseConv conv;
};

namespace {

dcc::Bounds bounds_of(const float* bounds) {
  return bounds != nullptr ? dcc::Bounds{bounds[0], bounds[1]} : dcc::Bounds{};
}

// Passes a result on, and its sentence, cut to the caller's buffer.
int report(int code, const std::string& sentence, char* error, size_t error_size) {
  if (code != DCC_OK && error != nullptr && error_size > 0) {
    const size_t length = std::min(sentence.size(), error_size - 1);
    std::memcpy(error, sentence.data(), length);
    error[length] = '\0';
  }
  return code;
}

}  // namespace

int dcc_frame_parse(const uint8_t* frame, size_t size, dcc_frame_info* info, char* error, size_t error_size) {
  std::string sentence;
  return report(dcc::parse_frame(frame, size, *info, sentence), sentence, error, error_size);
}

int dcc_frame_decode(const uint8_t* frame, size_t size, void* out, size_t out_bytes, int threads, char* error,
                     size_t error_size) {
  const dcc::DecodeJob job{frame, size, out, out_bytes};
  std::string sentence;
  size_t failed = 0;
  return report(dcc::decode_all(&job, 1, threads, sentence, &failed), sentence, error, error_size);
}

int dcc_frame_decode_indices(const uint8_t* frame, size_t size, uint16_t* indices, size_t capacity, int threads,
                             char* error, size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] { dcc::decode_indices(frame, size, indices, capacity, threads); });
  return report(code, sentence, error, error_size);
}

int dcc_frame_decode_points(const uint8_t* frame, size_t size, int8_t* points, size_t elements, float* scales,
                            size_t channels, int threads, char* error, size_t error_size) {
  const dcc::DecodeJob job{frame, size, points, elements, scales, channels};
  std::string sentence;
  size_t failed = 0;
  return report(dcc::decode_all(&job, 1, threads, sentence, &failed), sentence, error, error_size);
}

int dcc_frame_encode(const dcc_encode_request* request, uint8_t** frame, size_t* size, char* error, size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] {
    const std::vector<uint8_t> bytes = dcc::encode_frame(*request);
    *frame = static_cast<uint8_t*>(std::malloc(bytes.size()));
    if (*frame == nullptr) throw std::bad_alloc();
    std::memcpy(*frame, bytes.data(), bytes.size());
    *size = bytes.size();
  });
  return report(code, sentence, error, error_size);
}

int dcc_check_topology(const uint8_t* topology, size_t size, size_t payloads, uint64_t stored_bytes,
                       uint64_t most_bytes, char* error, size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] {
    const dcc::Manifest manifest = dcc::read_manifest(topology, size, payloads, stored_bytes);
    dcc::Budget budget(most_bytes, "allow more");
    const std::vector<dcc::RunNode> nodes = dcc::check_inner_model(manifest, budget);
    dcc::FromFrame weights;
    for (const dcc::Payload& payload : manifest.payloads)
      if (payload.may_run_sparse()) weights[payload.weights.front().name] = true;
    dcc::find_run_layers(nodes, weights);
  });
  return report(code, sentence, error, error_size);
}

int dcc_unpack(const uint8_t* model, size_t size, uint64_t max_decoded_bytes, int threads, uint8_t** out,
               size_t* out_size, char* error, size_t error_size) {
  std::string sentence;
  uint8_t* memory = nullptr;
  const int code = dcc::guarded(sentence, [&] {
    const std::optional<uint64_t> limit =
        max_decoded_bytes != 0 ? std::optional<uint64_t>(max_decoded_bytes) : std::nullopt;
    dcc::unpack({reinterpret_cast<const char*>(model), size}, limit, threads, [&](size_t dense_size) {
      memory = static_cast<uint8_t*>(std::malloc(dense_size));
      if (memory == nullptr) throw std::bad_alloc();
      *out_size = dense_size;
      return memory;
    });
    *out = memory;
  });
  if (code != DCC_OK) std::free(memory);
  return report(code, sentence, error, error_size);
}

void dcc_free(uint8_t* memory) { std::free(memory); }

int dcc_coder(size_t index, dcc_coder_info* info) {
  if (index >= dcc::coders().size()) return DCC_BAD_ARGUMENT;
  const dcc::Coder& coder = *dcc::coders()[index];
  const dcc::CoderTraits& traits = coder.traits;
  *info = {traits.name,
           traits.number,
           static_cast<uint8_t>(traits.stores),
           uint8_t{coder.is_slow()},
           uint8_t{coder.is_quick()},
           traits.decode_picoseconds,
           traits.nonzero_picoseconds,
           traits.frame_nanoseconds};
  return DCC_OK;
}

const char* dcc_coder_name(uint8_t number) {
  if (number == DCC_AUTO) return "auto";
  if (number == DCC_SMALLEST) return "smallest";
  if (number == DCC_SMALLEST_FAST) return "smallest_fast";
  const dcc::Coder* const coder = dcc::find_coder(number);
  return coder == nullptr ? nullptr : coder->traits.name;
}

void dcc_struct_sizes(size_t* frame_info, size_t* encode_request, size_t* coder_info) {
  *coder_info = sizeof(dcc_coder_info);
  *frame_info = sizeof(dcc_frame_info);
  *encode_request = sizeof(dcc_encode_request);
}

int dcc_check_isa(char* error, size_t error_size) {
  const std::string& problem = dcc::isa_problem();
  return report(problem.empty() ? DCC_OK : DCC_BAD_ARGUMENT, problem, error, error_size);
}

const char* dcc_isa(void) { return dcc::kernels().name; }

const char* dcc_runnable_isa(size_t index) { return dcc::runnable_isa(index); }

int dcc_select_isa(const char* name) { return dcc::select_isa(name) ? DCC_OK : DCC_BAD_ARGUMENT; }

const int32_t* dcc_set_cancel_flag(const int32_t* flag) { return dcc::set_cancel_flag(flag); }

int dcc_runs_sparse(const char* isa, int layer, uint64_t inputs, uint64_t elements, double kept, double* gain) {
  static_assert(static_cast<int>(dcc::LayerKind::kKernel) == DCC_LAYER_KERNEL);
  static_assert(static_cast<int>(dcc::LayerKind::kInt8) == DCC_LAYER_INT8);
  const char* const name = isa != nullptr ? isa : dcc::kernels().name;
  *gain = dcc::sparse_gain(name, {static_cast<dcc::LayerKind>(layer), inputs, elements, kept});
  return dcc::runs_sparse(*gain) ? 1 : 0;
}

int dcc_sparse_matmul_make(const float* dense, size_t k, size_t n, int transposed, size_t usual_m, int threads,
                           dcc_sparse_matmul** made, char* error, size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] {
    *made = new dcc_sparse_matmul{
        dcc::SparseMatMul(dcc::kept_weights(dense, k, n, transposed != 0, threads), usual_m, threads)};
  });
  return report(code, sentence, error, error_size);
}

int dcc_sparse_matmul_run(const dcc_sparse_matmul* matrix, const float* x, size_t m, const float* bias,
                          const float bounds[2], float* y, int threads, char* error, size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] {
    const dcc::SparseMatMul& layer = matrix->matrix;
    dcc::parallel_for(layer.tasks(m), threads, [&](size_t task) { layer.run(task, x, m, bias, y, bounds_of(bounds)); });
  });
  return report(code, sentence, error, error_size);
}

size_t dcc_sparse_matmul_bytes(const dcc_sparse_matmul* matrix) { return matrix->matrix.bytes(); }

void dcc_sparse_matmul_free(dcc_sparse_matmul* matrix) { delete matrix; }

int dcc_sparse_int8_make(const int8_t* dense, const float* scales, size_t k, size_t n, int transposed, int threads,
                         dcc_sparse_int8** made, char* error, size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] {
    const dcc::KeptWeights kept = dcc::kept_points(dense, k, n, transposed != 0, threads);
    *made = new dcc_sparse_int8{dcc::SparseInt8MatMul(kept, scales, threads)};
  });
  return report(code, sentence, error, error_size);
}

int dcc_sparse_int8_run(const dcc_sparse_int8* matrix, const uint8_t* x, size_t m, uint8_t zero, float step,
                        const float* bias, const float bounds[2], float* y, int threads, char* error,
                        size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] {
    const dcc::SparseInt8MatMul& layer = matrix->matrix;
    dcc::parallel_for(layer.tasks(m), threads,
                      [&](size_t task) { layer.run(task, {x, m, zero, step}, bias, y, bounds_of(bounds)); });
  });
  return report(code, sentence, error, error_size);
}

size_t dcc_sparse_int8_bytes(const dcc_sparse_int8* matrix) { return matrix->matrix.bytes(); }

void dcc_sparse_int8_free(dcc_sparse_int8* matrix) { delete matrix; }

int dcc_sparse_conv_make(const float* dense, size_t outputs, size_t channels, const size_t attributes[11], int threads,
                         dcc_sparse_conv** made, char* error, size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] {
    dcc::ConvAttributes a;
    a.outputs = outputs;
    a.channels = channels;
    std::copy_n(attributes, 2, a.kernel);
    std::copy_n(attributes + 2, 2, a.strides);
    std::copy_n(attributes + 4, 2, a.dilations);
    std::copy_n(attributes + 6, 4, a.pads);
    a.groups = attributes[10];
    *made = new dcc_sparse_conv{dcc::SparseConv(dense, a, threads)};
  });
  return report(code, sentence, error, error_size);
}

int dcc_sparse_conv_shape(const dcc_sparse_conv* conv, size_t height, size_t width, size_t out_shape[2], char* error,
                          size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] { conv->conv.out_shape(height, width, out_shape); });
  return report(code, sentence, error, error_size);
}

int dcc_sparse_conv_run(const dcc_sparse_conv* conv, const float* x, size_t images, size_t height, size_t width,
                        const float* bias, const float bounds[2], float* y, int threads, char* error,
                        size_t error_size) {
  std::string sentence;
  const int code = dcc::guarded(sentence, [&] {
    const dcc::SparseConv& layer = conv->conv;
    const dcc::ConvPlan plan = layer.plan(height, width);
    const std::unique_ptr<char[]> memory(new char[plan.scratch_bytes + 64]);
    char* const scratch = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64;
    const size_t image = layer.attributes().channels * height * width;
    const size_t out = layer.attributes().outputs * plan.out_height * plan.out_width;
    for (size_t i = 0; i < images; ++i, x += image, y += out) {
      dcc::parallel_for(plan.prepare_tasks, threads, [&](size_t task) { layer.prepare(plan, task, x, scratch); });
      dcc::parallel_for(plan.tasks, threads,
                        [&](size_t task) { layer.run(plan, task, scratch, bias, y, bounds_of(bounds)); });
    }
  });
  return report(code, sentence, error, error_size);
}

size_t dcc_sparse_conv_bytes(const dcc_sparse_conv* conv) { return conv->conv.bytes(); }

void dcc_sparse_conv_free(dcc_sparse_conv* conv) { delete conv; }

const char* dcc_version(void) { return DCC_VERSION; }
