// dcc.h: flat C interface of the dcc library (the onnxruntime entry point is RegisterCustomOps).
//
// The frame format is specified in ../codec/FORMAT.md. Every function is thread-safe. Functions that can fail return
// DCC_OK or an error code and, when `error` is not null, write a NUL-terminated sentence of at most `error_size` bytes.
// No function throws, reads outside the given buffers, or allocates more than a small multiple of its input and output.
#ifndef DCC_H_
#define DCC_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(dcc_EXPORTS)  // which CMake defines for the library's own sources
#define DCC_EXPORT __declspec(dllexport)
#elif defined(_WIN32)
#define DCC_EXPORT __declspec(dllimport)
#else
#define DCC_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
  DCC_OK = 0,
  DCC_CORRUPT = 1,
  DCC_BAD_ARGUMENT = 2,
  DCC_OUT_OF_MEMORY = 3,
  DCC_CANCELLED = 4,
  DCC_OVER_LIMIT = 5
};
enum { DCC_MAX_RANK = 32 };
// To encode: the smallest of all coders, or of those that decode fast; the first two may write a codebook as short
// values.
enum { DCC_SMALLEST_FAST = 253, DCC_SMALLEST = 254, DCC_AUTO = 255 };
enum { DCC_CODEBOOK_NONE = 0, DCC_CODEBOOK_VALUES = 1, DCC_CODEBOOK_GRID = 2, DCC_CODEBOOK_SHORT = 3 };
enum { DCC_STORES_INDICES = 0, DCC_STORES_ELEMENTS = 1, DCC_STORES_BYTES = 2 };
enum { DCC_SCALE_NONE = 0, DCC_SCALE_VALUES = 1, DCC_SCALE_LOG = 2 };

// A coder, as FORMAT.md names and numbers it.
typedef struct dcc_coder_info {
  const char* name;
  uint8_t number;   // in headers
  uint8_t stores;   // codebook indices, elements of any type as they are, or elements of uint8 as they are
  uint8_t is_slow;  // to decode, so that auto leaves it out
  uint8_t is_quick;
  // For an element, and more for one that is not zero, roughly: to weigh sizes against load times alike everywhere.
  uint32_t decode_picoseconds, nonzero_picoseconds;
  uint32_t frame_nanoseconds;  // for a frame, whatever it holds
} dcc_coder_info;

// Writes the coder at `index`, 0 for the first; DCC_BAD_ARGUMENT behind the last.
DCC_EXPORT int dcc_coder(size_t index, dcc_coder_info* info);

// Name of the coder of this number, or of the encoder's choice ("smallest_fast", "smallest", "auto"); null when there
// is none.
DCC_EXPORT const char* dcc_coder_name(uint8_t number);

// What a frame says about itself, and where its bytes go. Sizes are bytes of the frame; *_bits are exact bits.
typedef struct dcc_frame_info {
  uint8_t dtype, coder, codebook_kind, scale_kind;
  uint8_t rank, lanes, position_bits, reserved;
  uint32_t codebook_entries;  // k, 0 without a codebook
  uint32_t zero;              // 0, or 1 + index of the entry that is +0.0; of integers, that stands for zero
  int64_t grid_lo;
  uint64_t dims[DCC_MAX_RANK];
  uint64_t elements, nonzero;
  uint64_t channels, inner;  // 0 without scales
  uint64_t chunk_elements, chunks;
  uint64_t entries;       // huffman: coded entries, filler zeros included; otherwise elements
  uint64_t header_bytes;  // header and its CRC
  uint64_t codebook_bytes, scales_bytes, tables_bytes;  // sections with their length and CRC
  uint64_t data_bytes;                                  // DATA or CHUNK sections with their lengths and CRCs
  uint64_t position_bits_total;                         // huffman with position_bits > 0; otherwise 0
  uint64_t index_bits_total;  // huffman: bits of the index streams; others: 8 * payload bytes of DATA / CHUNKs
} dcc_frame_info;

// Parses the header and walks the sections, checking everything but the streams themselves.
DCC_EXPORT int dcc_frame_parse(const uint8_t* frame, size_t size, dcc_frame_info* info, char* error, size_t error_size);

// Decodes a whole frame into `out`, whose size must be exactly elements * element size (elements of 4 bits share bytes,
// the first in the lower half, as in ONNX's raw_data); that is checked before anything is allocated. `threads` <= 0
// means one per processor the process may use. On failure `out` is unspecified.
DCC_EXPORT int dcc_frame_decode(const uint8_t* frame, size_t size, void* out, size_t out_bytes, int threads,
                                char* error, size_t error_size);

// Decodes only the codebook indices (coders that store them): `elements` values. `capacity` is in elements.
DCC_EXPORT int dcc_frame_decode_indices(const uint8_t* frame, size_t size, uint16_t* indices, size_t capacity,
                                        int threads, char* error, size_t error_size);

// Decodes the points of a scaled grid of f32 that fit int8, and its scales: an element is its point times the scale of
// its channel, rounded to f32. `elements` and `channels` must be those of the frame.
DCC_EXPORT int dcc_frame_decode_points(const uint8_t* frame, size_t size, int8_t* points, size_t elements,
                                       float* scales, size_t channels, int threads, char* error, size_t error_size);

// One tensor to encode. Fields that do not apply to the coder are zero / null.
typedef struct dcc_encode_request {
  uint8_t dtype, coder, codebook_kind, scale_kind;
  uint8_t rank;
  uint8_t position_bits;  // huffman: 1..16, or 0 = try all including dense and keep the smallest
  uint8_t only_quick;     // choose among quick coders, where they store indices
  uint8_t reserved;
  uint32_t codebook_entries;
  uint32_t zero;  // as in the header
  int64_t grid_lo;
  uint64_t dims[DCC_MAX_RANK];
  const void* data;         // coders that store elements: these
  const uint16_t* indices;  // coders that store indices: one per element
  const void* codebook;     // codebook kind 1: entries, in dtype or (scales) compute type
  const void* scales;       // kind 1: compute type; kind 2: int32_t q per channel
  uint64_t channels, inner;
  uint64_t chunk_elements;  // 0 = chosen by the encoder
  int32_t threads;          // the bytes written do not depend on it
  int32_t offset;           // integers with scales: what is added to all
} dcc_encode_request;

// Encodes into a buffer that the library allocates; release it with dcc_free. The bytes depend on the request alone,
// not on machine or thread count.
DCC_EXPORT int dcc_frame_encode(const dcc_encode_request* request, uint8_t** frame, size_t* size, char* error,
                                size_t error_size);

// Releases what dcc_frame_encode and dcc_unpack give.
DCC_EXPORT void dcc_free(uint8_t* memory);

// Turns the bytes of a compiled model, of either form, into those of the standard ONNX model that it stands for, in a
// buffer that the library allocates; release it with dcc_free. `max_decoded_bytes` is what the file may decode to; 0
// for 64 MiB and 1,024 bytes for each byte that its packed weights take (DCC_OVER_LIMIT when it would be more). A file
// that dcc did not write is DCC_BAD_ARGUMENT. `threads` as for dcc_frame_decode; the bytes do not depend on it.
DCC_EXPORT int dcc_unpack(const uint8_t* model, size_t size, uint64_t max_decoded_bytes, int threads, uint8_t** out,
                          size_t* out_size, char* error, size_t error_size);

// Checks a decoded topology (FORMAT.md 9.2) as the operator dcc:CompiledModel does: its list of weights, which must be
// of `payloads` payloads, and the inner model, which must name no files and hold no compiled models. `stored_bytes` are
// the bytes of topology and payloads in the file. Holding the parsed model must take no more than about `most_bytes`.
DCC_EXPORT int dcc_check_topology(const uint8_t* topology, size_t size, size_t payloads, uint64_t stored_bytes,
                                  uint64_t most_bytes, char* error, size_t error_size);

// Name of the kernel set in use, such as "avx2" or "portable", and names of those that the processor can run, best
// first (null behind the last). dcc_select_isa forces one ("auto" undoes it) and fails with DCC_BAD_ARGUMENT when the
// processor cannot run it. Also settable with the environment variable DCC_ISA; dcc_check_isa fails with
// DCC_BAD_ARGUMENT when that names none that can run, in which case it is as if it were not set.
DCC_EXPORT const char* dcc_isa(void);
DCC_EXPORT const char* dcc_runnable_isa(size_t index);
DCC_EXPORT int dcc_select_isa(const char* name);
DCC_EXPORT int dcc_check_isa(char* error, size_t error_size);

// Makes the calling thread's float arithmetic treat denormal numbers as zero (on != 0) or obey IEEE 754 again (0),
// where the processor can; returns what held before, 1 or 0. Threads started afterwards inherit it.
DCC_EXPORT int dcc_flush_denormals(int on);

// Lets others stop the calling thread's calls: from now on they end with DCC_CANCELLED soon after `*flag` becomes
// non-zero, which any thread may do; null undoes it. The flag must live as long as it is set here. Returns the flag set
// before.
DCC_EXPORT const int32_t* dcc_set_cancel_flag(const int32_t* flag);

// Whether a layer of a packed weight runs from what is kept of it (1) or dense (0) with a kernel set, null for the one
// in use; and how many times as fast as dense it is expected to be so, 0 where that is not known. `inputs` are those of
// an output, `kept` is the share of the elements that is not zero (kernels/sparse_gain.h).
enum { DCC_LAYER_MATRIX = 0, DCC_LAYER_KERNEL = 1, DCC_LAYER_INT8 = 2 };
DCC_EXPORT int dcc_runs_sparse(const char* isa, int layer, uint64_t inputs, uint64_t elements, double kept,
                               double* gain);

// For tests and benchmarks: layers that run from their kept weights (kernels/sparse_matmul.h) with the kernel set
// that is in use when they are made. `dense` is [k, n], or [n, k] if `transposed`; `usual_m` may be 0. A run writes
// y [m, n] from x [m, k] and bias [n] (or null), brought into `bounds` at last (or null).
typedef struct dcc_sparse_matmul dcc_sparse_matmul;
DCC_EXPORT int dcc_sparse_matmul_make(const float* dense, size_t k, size_t n, int transposed, size_t usual_m,
                                      int threads, dcc_sparse_matmul** made, char* error, size_t error_size);
DCC_EXPORT int dcc_sparse_matmul_run(const dcc_sparse_matmul* matrix, const float* x, size_t m, const float* bias,
                                     const float bounds[2], float* y, int threads, char* error, size_t error_size);
DCC_EXPORT size_t dcc_sparse_matmul_bytes(const dcc_sparse_matmul* matrix);
DCC_EXPORT void dcc_sparse_matmul_free(dcc_sparse_matmul* matrix);

// The same for int8 weights, each times its output's of `scales` [n], and rows of uint8, for which x[i, c] stands for
// (x[i, c] - zero) * step (kernels/sparse_int8.h).
typedef struct dcc_sparse_int8 dcc_sparse_int8;
DCC_EXPORT int dcc_sparse_int8_make(const int8_t* dense, const float* scales, size_t k, size_t n, int transposed,
                                    int threads, dcc_sparse_int8** made, char* error, size_t error_size);
DCC_EXPORT int dcc_sparse_int8_run(const dcc_sparse_int8* matrix, const uint8_t* x, size_t m, uint8_t zero, float step,
                                   const float* bias, const float bounds[2], float* y, int threads, char* error,
                                   size_t error_size);
DCC_EXPORT size_t dcc_sparse_int8_bytes(const dcc_sparse_int8* matrix);
DCC_EXPORT void dcc_sparse_int8_free(dcc_sparse_int8* matrix);

// The same for 2-D convolutions (kernels/sparse_conv.h). `dense` is [M, C / groups, kernel rows, kernel columns];
// attributes are kernel, strides, dilations (2 each: rows, columns), pads (top, left, bottom, right) and groups. A run
// writes y [images, M, OH, OW] from x [images, C, height, width] and bias [M] (or null), brought into `bounds` (or
// null).
typedef struct dcc_sparse_conv dcc_sparse_conv;
DCC_EXPORT int dcc_sparse_conv_make(const float* dense, size_t outputs, size_t channels, const size_t attributes[11],
                                    int threads, dcc_sparse_conv** made, char* error, size_t error_size);
DCC_EXPORT int dcc_sparse_conv_shape(const dcc_sparse_conv* conv, size_t height, size_t width, size_t out_shape[2],
                                     char* error, size_t error_size);
DCC_EXPORT int dcc_sparse_conv_run(const dcc_sparse_conv* conv, const float* x, size_t images, size_t height,
                                   size_t width, const float* bias, const float bounds[2], float* y, int threads,
                                   char* error, size_t error_size);
DCC_EXPORT size_t dcc_sparse_conv_bytes(const dcc_sparse_conv* conv);
DCC_EXPORT void dcc_sparse_conv_free(dcc_sparse_conv* conv);

// Version of the library, "major.minor.patch".
DCC_EXPORT const char* dcc_version(void);

// Sizes of the structures above, for bindings to compare with what they were written for.
DCC_EXPORT void dcc_struct_sizes(size_t* frame_info, size_t* encode_request, size_t* coder_info);

#ifdef __cplusplus
}
#endif
#endif  // DCC_H_
