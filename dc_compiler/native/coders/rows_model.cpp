// rows_model.cpp: how coder `rows` predicts a matrix (FORMAT.md, section 5.5): its settings, and what its columns have
// so far.
#include "coders/rows_model.h"

#include <algorithm>

#include "base/bit_io.h"
#include "frame/number_list.h"
#include "kernels/isa.h"
#include "kernels/kernels.h"
#include "kernels/rows_loops.h"

namespace dcc {

const uint32_t kRowsChances[32] = {16,    23,    32,    45,    64,    90,    127,   179,   252,   354,  496,
                                   693,   964,   1331,  1820,  2461,  3277,  4280,  5461,  6786,  8192, 9598,
                                   10923, 12104, 13107, 13923, 14564, 15053, 15420, 15691, 15888, 16030};
const std::array<uint8_t, kRowsSettings> kMostSettings = {15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15,
                                                          15, 15, 15, 15, 15, 4,  7,  15, 15, 15, 11, 4,  8};

namespace {

// Weights of a setting, in the units of sums.
constexpr int32_t kWeight = 8;           // of log2 in units of 1/64
constexpr int32_t kBaseUnit = 1 << 9;    // an eighth of an octave
constexpr int32_t kNeighbour = 1 << 10;  // a quarter
constexpr int32_t kLeastNeighbour = 3, kLeastSign = 2, kMiddleBase = 8;

}  // namespace

size_t rows_symbols(const Header& header, unsigned low_bits) {
  const uint64_t zero = rows_zero(header);
  const uint64_t most = std::max(zero, header.k - 1 - zero);
  return most == 0 ? 0 : static_cast<size_t>(((most - 1) >> low_bits) + 1);
}

RowsModel read_rows_model(ByteReader& reader, const Header& header) {
  RowsModel model;
  BitReader bits(reader.take(kRowsSettings / 2));
  for (uint8_t& setting : model.settings) setting = static_cast<uint8_t>(bits.take(4));
  for (unsigned i = 0; i < kRowsSettings; ++i) {
    require(model.settings[i] <= kMostSettings[i], "a setting of its rows is out of range");
  }
  const size_t symbols = rows_symbols(header, model.settings[kLowBits]);
  require(symbols <= 256, "its low bits of magnitudes are too few");
  if (symbols == 0) return model;
  for (unsigned table = 0; table < model.all_tables(); ++table) {
    model.frequencies.push_back(read_number_list(reader, symbols));
    uint64_t sum = 0;
    for (const uint32_t frequency : model.frequencies.back()) sum += frequency;
    require(sum == uint64_t{1} << model.scale_bits(), "its frequencies have a wrong sum");
  }
  return model;
}

void append_rows_model(Bytes& out, const RowsModel& model) {
  BitWriter bits;
  for (const uint8_t setting : model.settings) bits.put(setting, 4);
  const Bytes settings = bits.finish();
  append(out, settings.data(), settings.size());
  for (const std::vector<uint32_t>& table : model.frequencies) append_number_list(out, table);
}

std::vector<uint32_t> rows_steps(const RowsModel& model) {
  std::vector<uint32_t> steps;
  steps.reserve(model.frequencies.size() << model.scale_bits());
  for (const std::vector<uint32_t>& table : model.frequencies) {
    for (uint32_t symbol = 0; symbol < table.size(); ++symbol) {
      for (uint32_t offset = 0; offset < table[symbol]; ++offset) {
        steps.push_back(symbol << 24 | offset << 12 | (table[symbol] - 1));
      }
    }
  }
  return steps;
}

RowsChunk::RowsChunk(const Header& header, const RowsModel& model, const uint32_t* steps, uint64_t rows)
    : model_(model), rows_(rows), has_stride_(header.stride != 0), has_group_(header.group < header.columns) {
  const uint64_t zero = rows_zero(header);
  block_.lanes = header.lanes;
  block_.columns = static_cast<size_t>(header.columns);
  block_.group = static_cast<size_t>(header.group);
  if (has_stride_) block_.stride = static_cast<size_t>(header.stride);
  block_.zero = static_cast<uint16_t>(zero);
  block_.most_negative = static_cast<uint16_t>(zero);
  block_.most_positive = static_cast<uint16_t>(header.k - 1 - zero);
  block_.flipped = header.zero != 0 && 2 * header.nnz > header.n;
  const uint64_t set = block_.flipped ? header.n - header.nnz : header.nnz;  // far below 2^47: n indices fit in memory
  overall_ = header.zero == 0 ? 1 << 15 : static_cast<uint32_t>(((2 * set + 1) << 16) / (2 * header.n + 2));

  block_.row_weight = kWeight * setting(kRowWeight);
  block_.group_weight = has_group_ ? kWeight * setting(kGroupWeight) : 0;
  const auto neighbour = [&](RowsSetting which, bool exists) {
    return exists ? kNeighbour * (setting(which) - kLeastNeighbour) : 0;
  };
  block_.left = neighbour(kLeft, true);
  block_.second_left = neighbour(kSecondLeft, true);
  block_.above = neighbour(kAbove, has_stride_);
  block_.above_right = neighbour(kAboveRight, has_stride_);
  block_.above_left = neighbour(kAboveLeft, has_stride_);
  block_.sign_row_weight = kWeight * setting(kSignRow);
  block_.sign_left = kBaseUnit * (setting(kSignLeft) - kLeastSign);
  block_.sign_above = has_stride_ ? kBaseUnit * (setting(kSignAbove) - kLeastSign) : 0;
  block_.sign_beside = has_stride_ ? 2 * kBaseUnit * (setting(kSignBeside) - kLeastSign) : 0;

  block_.tables = model.tables();
  block_.has_sides = model.has_sides();
  block_.table_shift = 9U + model.settings[kTableStep];
  block_.table_offset = static_cast<int32_t>(block_.tables) << (block_.table_shift - 1);
  block_.recent_shift = 1U + model.settings[kRecentShift];
  block_.recent_weight = kWeight * setting(kMagnitudeRow);
  block_.scale_bits = model.scale_bits();
  block_.low_bits = model.settings[kLowBits];
  block_.steps = steps;

  const size_t columns = block_.columns, reach = std::max<size_t>(2, 2 * block_.stride);
  flag_base_.resize(columns);
  sign_base_.resize(columns);
  magnitude_base_.resize(columns);
  flags_.resize(reach + columns);
  signs_.resize(kRowsLanes * (reach + columns));
  indices_.resize(kRowsLanes * columns);
  const size_t beside = std::max<size_t>(1, has_stride_ ? block_.stride : 0);
  flags_of_.resize(columns + 2 * beside);
  chances_.resize(columns);
  expected_.resize(columns);
  positive_of_.resize(columns);
  negative_of_.resize(columns);
  magnitude_of_.resize(columns);
  block_.flag_base = flag_base_.data();
  block_.sign_base = sign_base_.data();
  block_.magnitude_base = magnitude_base_.data();
  block_.flags = flags_.data() + reach;
  block_.signs = signs_.data() + kRowsLanes * reach;
  block_.indices = indices_.data();
  block_.flags_of = flags_of_.data() + beside;
  block_.positive_of = positive_of_.data();
  block_.negative_of = negative_of_.data();
  block_.magnitude_of = magnitude_of_.data();
}

void RowsChunk::begin_flags() {
  prepare_flags();
  std::fill(std::begin(block_.row_count), std::end(block_.row_count), kRowsUnit);
  std::fill(std::begin(block_.group_count), std::end(block_.group_count), kRowsUnit);
  block_.column = 0;
}

void RowsChunk::prepare_flags() {
  RowsColumns of;
  of.columns = block_.columns;
  of.group = block_.group;
  of.stride = has_stride_ ? block_.stride : 0;
  of.rows = static_cast<double>(row_);
  of.column_trust = 1 << setting(kColumnTrust);
  of.near_trust = 1 << setting(kNearTrust);
  of.group_trust = 1 << setting(kGroupTrust);
  of.overall = overall_;
  of.base = kBaseUnit * (setting(kBase) - kMiddleBase);
  of.column_weight = kWeight * setting(kColumnWeight);
  of.row_weight = block_.row_weight;
  of.group_weight = block_.group_weight;
  of.flags_of = block_.flags_of;
  of.chances = chances_.data();
  of.expected = expected_.data();
  of.flag_base = flag_base_.data();
  kernels().rows_columns(of);
}

void RowsChunk::begin_values() {
  std::fill(std::begin(indices_), std::end(indices_), block_.zero);
  std::fill(std::begin(signs_), std::end(signs_), int8_t{0});
  prepare_signs();
  prepare_magnitudes();
  block_.column = 0;
}

void RowsChunk::prepare_signs() {
  uint64_t positive = 0, negative = 0;
  for (size_t c = 0; c < block_.columns; ++c) positive += positive_of_[c], negative += negative_of_[c];
  const uint64_t share =
      std::clamp<uint64_t>(((2 * positive + 1) << 16) / (2 * (positive + negative) + 2), 256, 65536 - 256);
  const uint64_t other = 65536 - share;
  const int32_t all = rows_log2(share) - rows_log2(other);
  const int32_t column_weight = kWeight * setting(kSignColumn);
  const int32_t rest = (64 - column_weight - block_.sign_row_weight) * all;
  for (size_t c = 0; c < block_.columns; ++c) {
    const int32_t of_column = rows_log2((uint64_t{positive_of_[c]} << 8) + (share >> 6)) -
                              rows_log2((uint64_t{negative_of_[c]} << 8) + (other >> 6));
    sign_base_[c] = rest + column_weight * of_column;
  }
  std::fill(std::begin(block_.positive), std::end(block_.positive), static_cast<uint32_t>(share >> 7));
  std::fill(std::begin(block_.negative), std::end(block_.negative), static_cast<uint32_t>(other >> 7));
}

void RowsChunk::prepare_magnitudes() {
  uint64_t total = 0, count = 0;
  for (size_t c = 0; c < block_.columns; ++c) {
    total += magnitude_of_[c];
    count += positive_of_[c] + negative_of_[c];
  }
  const uint64_t mean = count == 0 ? uint64_t{64} << setting(kFirstMean) : 64 * total / count;
  std::fill(std::begin(block_.recent), std::end(block_.recent), static_cast<uint32_t>(mean << 4));
  if (block_.tables == 1) return;
  const int32_t column_weight = kWeight * setting(kMagnitudeColumn);
  const int32_t rest = -block_.recent_weight * rows_log2(mean << 4);
  const uint64_t trust = uint64_t{1} << setting(kMagnitudeTrust);
  for (size_t c = 0; c < block_.columns; ++c) {
    const uint64_t expected = (uint64_t{positive_of_[c]} + negative_of_[c] + trust) * mean;
    const uint64_t found = 64 * magnitude_of_[c] + trust * mean;
    magnitude_base_[c] = rest + column_weight * (rows_log2(found) - rows_log2(expected));
  }
}

}  // namespace dcc
