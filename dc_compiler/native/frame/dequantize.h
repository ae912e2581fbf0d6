// dequantize.h: from codebook indices to elements (FORMAT.md, section 2.1).
#ifndef DCC_DEQUANTIZE_H_
#define DCC_DEQUANTIZE_H_

#include <vector>

#include "frame/frame.h"
#include "kernels/kernels.h"

namespace dcc {

constexpr size_t kBlockElements = 4096;  // elements handled at a time, so that they stay in the nearest cache

// Checks the SCALES section as far as it can be without decoding a byte stream, and returns its bytes.
Span checked_scales(const Frame& frame);

// Writes the scales of a frame of f32, of which there are some, to `out` (channels).
void copy_scales(const Frame& frame, float* out);

// Codebook and scales of one frame, ready for use from any number of threads.
class Dequantizer {
 public:
  explicit Dequantizer(const Frame& frame);

  // Writes elements `first` to `first + count` (count <= kBlockElements) to `out`, whatever its alignment.
  void run(const uint16_t* indices, uint64_t first, size_t count, uint8_t* out) const;

 private:
  void run_aligned(const uint16_t* indices, uint64_t first, size_t count, void* out) const;

  // Elements of a byte each: integers and short floats without scales.
  void run_bytes(const uint16_t* indices, size_t count, uint8_t* out) const;
  // Elements of a byte, or scaled integers; those of 4 bits in bytes of their own, and then two in a byte.
  void run_integers(const uint16_t* indices, uint64_t first, size_t count, uint8_t* out) const;
  void run_nibbles(const uint16_t* indices, uint64_t first, size_t count, uint8_t* out) const;

  // Scaled integers.
  template <typename T>
  void round(const uint16_t* indices, uint64_t first, size_t count, T* out) const;

  template <typename T>
  Codebook<T> codebook() const;

  template <typename T>
  void scale(const uint16_t* indices, uint64_t first, size_t count, T* out) const;

  Header header_;
  // Vectors of 8-byte words hold values of any of the types, aligned.
  std::vector<uint64_t>
      table_;  // codebook: in the dtype without scales, else in the compute type; empty for a scaled grid
  std::vector<uint64_t> scales_;  // in the compute type
};

}  // namespace dcc
#endif  // DCC_DEQUANTIZE_H_
