// rows_model.h: how coder `rows` predicts a matrix (FORMAT.md, section 5.5): its settings, and what its columns have so
// far.
#ifndef DCC_ROWS_MODEL_H_
#define DCC_ROWS_MODEL_H_

#include <algorithm>
#include <array>
#include <vector>

#include "base/byte_io.h"
#include "frame/frame.h"
#include "kernels/rows_block.h"

namespace dcc {

// TABLES begins with these numbers of 4 bits each, in this order.
enum RowsSetting : unsigned {
  kColumnTrust,
  kNearTrust,
  kGroupTrust,
  kColumnWeight,
  kRowWeight,
  kGroupWeight,
  kLeft,
  kSecondLeft,
  kAbove,
  kAboveRight,
  kAboveLeft,
  kBase,
  kSignColumn,
  kSignRow,
  kSignLeft,
  kSignAbove,
  kSignBeside,
  kTables,
  kTableStep,
  kRecentShift,
  kMagnitudeTrust,
  kMagnitudeColumn,
  kMagnitudeRow,
  kFirstMean,
  kScaleBits,
  kLowBits,
  kRowsSettings
};

// The largest value of each that is allowed.
extern const std::array<uint8_t, kRowsSettings> kMostSettings;

struct RowsModel {
  std::array<uint8_t, kRowsSettings> settings{};
  std::vector<std::vector<uint32_t>> frequencies;  // of magnitudes, a table each

  unsigned tables() const { return (settings[kTables] & 7U) + 1; }
  bool has_sides() const { return settings[kTables] >= 8; }
  unsigned all_tables() const { return tables() * (has_sides() ? 2 : 1); }
  unsigned scale_bits() const { return settings[kScaleBits] + 8U; }
};

// The index that stands for an element that is not kept.
inline uint64_t rows_zero(const Header& header) { return header.zero != 0 ? header.zero - 1 : header.k / 2; }

// Symbols of a table of magnitudes.
size_t rows_symbols(const Header& header, unsigned low_bits);

RowsModel read_rows_model(ByteReader& reader, const Header& header);
void append_rows_model(Bytes& out, const RowsModel& model);

// For each slot of each table: symbol << 24 | (slot - start) << 12 | frequency - 1.
std::vector<uint32_t> rows_steps(const RowsModel& model);

// A chunk of `rows` rows, block by block: begin_block, begin_flags, all flags, begin_values, all values, end_block.
class RowsChunk {
 public:
  // `settings` and `steps` (null where no symbols are read) must outlive it.
  RowsChunk(const Header& header, const RowsModel& model, const uint32_t* steps, uint64_t rows);
  RowsChunk(const RowsChunk&) = delete;
  RowsChunk& operator=(const RowsChunk&) = delete;

  RowsBlock& block() { return block_; }
  uint64_t row() const { return row_; }  // the block's first
  bool is_done() const { return row_ >= rows_; }

  void begin_block() { block_.rows = static_cast<unsigned>(std::min<uint64_t>(block_.lanes, rows_ - row_)); }
  void begin_flags();
  void begin_values();
  void end_block() { row_ += block_.lanes; }

 private:
  int32_t setting(RowsSetting which) const { return model_.settings[which]; }
  void prepare_flags();
  void prepare_signs();
  void prepare_magnitudes();

  const RowsModel& model_;
  const uint64_t rows_;
  const bool has_stride_, has_group_;
  uint32_t overall_;  // share of flags that are set, in units of 2^-16
  uint64_t row_ = 0;
  RowsBlock block_;
  std::vector<int32_t> flag_base_, sign_base_, magnitude_base_;
  std::vector<uint16_t> flags_, indices_;
  std::vector<int8_t> signs_;
  std::vector<uint32_t> flags_of_, positive_of_, negative_of_, chances_, expected_;
  std::vector<uint64_t> magnitude_of_;
};

}  // namespace dcc
#endif  // DCC_ROWS_MODEL_H_
