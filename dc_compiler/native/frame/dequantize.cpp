// dequantize.cpp: from codebook indices to elements (FORMAT.md, section 2.1).
#include "frame/dequantize.h"

#include <algorithm>
#include <new>

#include "coders/byte_stream.h"
#include "kernels/isa.h"
#include "kernels/kernels.h"

namespace dcc {
namespace {

// 2^(j/8) rounded to f32, FORMAT.md section 3.
constexpr uint32_t kScaleSteps[8] = {0x3f800000, 0x3f8b95c2, 0x3f9837f0, 0x3fa5fed7,
                                     0x3fb504f3, 0x3fc5672a, 0x3fd744fd, 0x3feac0c7};
constexpr int64_t kLeastLogScale = -1008;
constexpr int64_t kMostLogScale = 1015;

std::vector<uint64_t> words_for(uint64_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();  // where size_t has 32 bits, scales can be larger than the tensor
  return std::vector<uint64_t>(static_cast<size_t>((bytes + 7) / 8));
}

// The same for a table that kernels look up in.
std::vector<uint64_t> table_for(uint64_t bytes) { return words_for(std::max<uint64_t>(bytes, kTableBytes)); }

void narrow(const Header& header, const float* values, uint16_t* out, size_t count) {
  (header.dtype == kFloat16 ? kernels().to_float16 : kernels().to_bfloat16)(values, out, count);
}

template <typename T>
void grid_values(const Header& header, T* out) {
  for (size_t j = 0; j < header.k; ++j) out[j] = static_cast<T>(header.lo + static_cast<int64_t>(j));
}

// The table of an unscaled grid, in the dtype.
std::vector<uint64_t> grid_table(const Header& header) {
  std::vector<uint64_t> table = table_for(header.k * 8);
  if (header.is_integer()) {
    if (header.element_size() == 1) return {};  // added, not looked up
    if (header.element_size() == 2)
      grid_values(header, reinterpret_cast<uint16_t*>(table.data()));
    else
      grid_values(header, reinterpret_cast<uint32_t*>(table.data()));
    return table;
  }
  switch (header.dtype) {
    case kFloat64: grid_values(header, reinterpret_cast<double*>(table.data())); break;
    case kFloat32: grid_values(header, reinterpret_cast<float*>(table.data())); break;
    default: {
      std::vector<float> values(header.k);
      grid_values(header, values.data());
      narrow(header, values.data(), reinterpret_cast<uint16_t*>(table.data()), header.k);
    }
  }
  return table;
}

// By their bits, as a caller's thread may take subnormal numbers for zero: those of 0 < x < infinity lie in between.
template <typename Bits>
void check_scale_values(Span bytes, Bits infinity) {
  for (size_t at = 0; at < bytes.size; at += sizeof(Bits)) {
    const Bits scale = load<Bits>(bytes.data + at);
    require(scale > 0 && scale < infinity, "a scale is not finite and above zero");
  }
}

// All are normal numbers: T[q mod 8] with its exponent moved by floor(q / 8).
template <typename T>
void log_scale_values(Span section, size_t channels, T* out) {
  ByteReader reader(section);
  const int64_t base = reader.svarint();
  require(base >= kLeastLogScale - 255 && base <= kMostLogScale, "a logarithmic scale is out of range");
  const Bytes steps = read_byte_stream(reader, channels);
  reader.finish("bytes follow the scales");
  for (size_t c = 0; c < channels; ++c) {
    const int64_t q = base + steps[c];
    require(q >= kLeastLogScale && q <= kMostLogScale, "a logarithmic scale is out of range");
    const uint32_t exponent = static_cast<uint32_t>((q + 1024) / 8 - 128);  // floor(q / 8), modulo 2^32
    const uint32_t bits = kScaleSteps[q & 7] + (exponent << 23);
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    out[c] = scale;
  }
}

template <typename T>
std::vector<uint64_t> read_scales(const Frame& frame) {
  std::vector<uint64_t> scales = words_for(frame.header.channels * sizeof(T));
  const size_t channels = static_cast<size_t>(frame.header.channels);
  const Span bytes = checked_scales(frame);
  if (frame.header.scale_kind == DCC_SCALE_LOG) {
    log_scale_values(bytes, channels, reinterpret_cast<T*>(scales.data()));
  } else {
    std::memcpy(scales.data(), bytes.data, bytes.size);
  }
  return scales;
}

}  // namespace

Span checked_scales(const Frame& frame) {
  const Header& header = frame.header;
  if (!header.has_scales()) return {};
  const Span bytes = checked(frame.scales);
  if (header.scale_kind == DCC_SCALE_VALUES) {
    require(bytes.size % header.compute_size() == 0 && bytes.size / header.compute_size() == header.channels,
            "its scales have a wrong length");
    if (header.compute_size() == 8) {
      check_scale_values<uint64_t>(bytes, 0x7FF0000000000000);
    } else {
      check_scale_values<uint32_t>(bytes, 0x7F800000);
    }
  }
  return bytes;
}

void copy_scales(const Frame& frame, float* out) {
  const std::vector<uint64_t> scales = read_scales<float>(frame);
  std::memcpy(out, scales.data(), static_cast<size_t>(frame.header.channels) * sizeof(float));
}

Dequantizer::Dequantizer(const Frame& frame) : header_(frame.header) {
  const Bytes codebook = checked_codebook(frame);
  if (header_.has_codebook_section()) {
    table_ = table_for(codebook.size());
    std::memcpy(table_.data(), codebook.data(), codebook.size());
  } else if (!header_.has_scales()) {
    table_ = grid_table(header_);
  }
  if (header_.has_scales())
    scales_ = header_.compute_size() == 8 ? read_scales<double>(frame) : read_scales<float>(frame);
}

template <typename T>
void Dequantizer::scale(const uint16_t* indices, uint64_t first, size_t count, T* out) const {
  const T* const scales = reinterpret_cast<const T*>(scales_.data());
  const Codebook<T> codebook = this->codebook<T>();
  const auto kernel = [&](auto... arguments) {
    if constexpr (sizeof(T) == 8) {
      kernels().scale64(codebook, arguments...);
    } else {
      kernels().scale32(codebook, arguments...);
    }
  };
  uint64_t channel = first / header_.inner % header_.channels;
  uint64_t within = first % header_.inner;
  for (size_t at = 0; at < count;) {
    size_t run;
    if (header_.inner == 1) {  // a scale an element, up to the last channel
      run = static_cast<size_t>(std::min<uint64_t>(count - at, header_.channels - channel));
      kernel(indices + at, scales + channel, size_t{1}, out + at, run);
      channel = 0;
    } else {
      run = static_cast<size_t>(std::min<uint64_t>(count - at, header_.inner - within));
      kernel(indices + at, scales + channel, size_t{0}, out + at, run);
      within = 0;
      channel = channel + 1 == header_.channels ? 0 : channel + 1;
    }
    at += run;
  }
}

template <typename T>
Codebook<T> Dequantizer::codebook() const {
  return {table_.empty() ? nullptr : reinterpret_cast<const T*>(table_.data()), static_cast<size_t>(header_.k),
          static_cast<int32_t>(header_.lo)};
}

void Dequantizer::run(const uint16_t* indices, uint64_t first, size_t count, uint8_t* out) const {
  const size_t width = header_.element_size();
  if (reinterpret_cast<uintptr_t>(out) % width == 0) {
    run_aligned(indices, first, count, out);
    return;
  }
  alignas(64) uint64_t block[kBlockElements];
  run_aligned(indices, first, count, block);
  std::memcpy(out, block, static_cast<size_t>(header_.bytes_of(count)));
}

void Dequantizer::run_bytes(const uint16_t* indices, size_t count, uint8_t* out) const {
  if (table_.empty()) {  // modulo 256, which is exact for numbers that fit
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(indices[i] + static_cast<unsigned>(header_.lo));
    return;
  }
  const auto* const table = reinterpret_cast<const uint8_t*>(table_.data());
  for (size_t i = 0; i < count; ++i) out[i] = table[indices[i]];
}

template <typename T>
void Dequantizer::round(const uint16_t* indices, uint64_t first, size_t count, T* out) const {
  // Added to a smaller number it leaves no bits for a fraction: the sum is rounded to nearest, ties to even.
  constexpr float kRounding = 12582912.0F;  // 1.5 * 2^23
  constexpr float kMost = 1 << 20;          // beyond which every number is out of range
  alignas(64) float values[kBlockElements];
  scale(indices, first, count, values);
  const auto offset = static_cast<int32_t>(header_.offset);
  const auto least = static_cast<int32_t>(header_.type().least);
  const auto most = static_cast<int32_t>(header_.type().most);
  for (size_t i = 0; i < count; ++i) {
    const float bounded = std::min(std::max(values[i], -kMost), kMost);
    const int32_t rounded = static_cast<int32_t>((bounded + kRounding) - kRounding) + offset;
    out[i] = static_cast<T>(std::min(std::max(rounded, least), most));
  }
}

void Dequantizer::run_integers(const uint16_t* indices, uint64_t first, size_t count, uint8_t* out) const {
  if (header_.element_size() == 2)
    round(indices, first, count, reinterpret_cast<uint16_t*>(out));
  else if (header_.has_scales())
    round(indices, first, count, out);
  else
    run_bytes(indices, count, out);
}

void Dequantizer::run_nibbles(const uint16_t* indices, uint64_t first, size_t count, uint8_t* out) const {
  uint8_t elements[kBlockElements + 1];
  run_integers(indices, first, count, elements);
  elements[count] = 0;
  for (size_t i = 0; i < count; i += 2)
    out[i / 2] = static_cast<uint8_t>((elements[i] & 15) | (elements[i + 1] & 15) << 4);
}

void Dequantizer::run_aligned(const uint16_t* indices, uint64_t first, size_t count, void* out) const {
  if (header_.is_nibbles()) {
    run_nibbles(indices, first, count, static_cast<uint8_t*>(out));
  } else if (header_.element_size() == 1 || (header_.is_integer() && header_.has_scales())) {
    run_integers(indices, first, count, static_cast<uint8_t*>(out));
  } else if (header_.has_scales() && header_.element_size() == 2) {
    alignas(64) float values[kBlockElements];
    scale(indices, first, count, values);
    narrow(header_, values, static_cast<uint16_t*>(out), count);
  } else if (header_.has_scales() && header_.dtype == kFloat64) {
    scale(indices, first, count, static_cast<double*>(out));
  } else if (header_.has_scales()) {
    scale(indices, first, count, static_cast<float*>(out));
  } else if (header_.element_size() == 2) {
    kernels().lookup16(codebook<uint16_t>(), indices, static_cast<uint16_t*>(out), count);
  } else if (header_.element_size() == 4) {
    kernels().lookup32(codebook<uint32_t>(), indices, static_cast<uint32_t*>(out), count);
  } else {
    kernels().lookup64(codebook<uint64_t>(), indices, static_cast<uint64_t*>(out), count);
  }
}

}  // namespace dcc
