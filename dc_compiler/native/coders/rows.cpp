// rows.cpp: coder `rows`: indices of a matrix whose rows are decoded side by side, each predicted from its columns, its
// row and its neighbours (FORMAT.md, section 5.5).
#include <algorithm>
#include <numeric>

#include "base/cancel.h"
#include "base/log2_fixed.h"
#include "coders/coder.h"
#include "coders/column_layouts.h"
#include "coders/rans_code.h"
#include "coders/rows_model.h"
#include "kernels/isa.h"
#include "kernels/rows_loops.h"

namespace dcc {
namespace {

constexpr uint64_t kChunk = uint64_t{1} << 20;
constexpr uint64_t kLeastColumns = 16;  // fewer take long, as blocks are small
constexpr uint64_t kMostColumns = uint64_t{1} << 16;
constexpr uint64_t kTrial = uint64_t{1} << 15;        // elements that settings are tried on, about
constexpr uint64_t kTrialValues = uint64_t{1} << 12;  // kept elements, the same for values
// The same of tables of integers: they are dense, so that few rows hold many values, but their columns tell much
constexpr uint64_t kTrialOfIntegers = uint64_t{1} << 16;
constexpr uint32_t kLowestState = 1U << 16;

struct RowsTables final : CoderTables {
  explicit RowsTables(RowsModel read) : model(std::move(read)), steps(rows_steps(model)) {}
  RowsModel model;
  std::vector<uint32_t> steps;
};

// The indices of one CHUNK, a block of rows at a time.
class RowsReader final : public IndexReader {
 public:
  RowsReader(const RowsTables& tables, Span bytes, size_t count, const Header& header)
      : is_coded_(header.k > 1),
        end_(bytes.data + bytes.size),
        chunk_(header, tables.model, tables.steps.data(), count / header.columns),
        rows_(static_cast<size_t>(header.lanes * header.columns)) {
    RowsBlock& block = chunk_.block();
    require(bytes.size >= 4U * block.lanes && bytes.size % 2 == 0, "a chunk has a wrong length");
    block.words = bytes.data;
    for (unsigned lane = 0; lane < block.lanes; ++lane, block.words += 4) {
      block.states[lane] = load<uint32_t>(block.words);
      require(block.states[lane] >= kLowestState, "an initial state is below 2^16");
    }
    if (static_cast<size_t>(end_ - block.words) < kRowsReach) {
      take_last_words();
    } else {
      block.limit = end_ - kRowsReach;
    }
    if (!is_coded_) std::fill(rows_.begin(), rows_.end(), block.zero);
  }

  void read(uint16_t* out, size_t count) override {
    for (size_t done = 0; done < count;) {
      if (at_ == ready_) next_block();
      const size_t now = std::min(count - done, ready_ - at_);
      std::memcpy(out + done, rows_.data() + at_, now * sizeof(uint16_t));
      at_ += now;
      done += now;
    }
  }

  void finish() override {
    const RowsBlock& block = chunk_.block();
    require(block.words == (is_last_ ? block.limit : end_), "a chunk has too many words");
    require(std::all_of(block.states, block.states + block.lanes, [](uint32_t state) { return state == kLowestState; }),
            "a final state is not 2^16");
  }

 private:
  // Kernels read ahead: the last words go where zeros follow them.
  void take_last_words() {
    RowsBlock& block = chunk_.block();
    const auto left = static_cast<size_t>(end_ - block.words);
    std::memcpy(last_words_, block.words, left);
    block.words = last_words_;
    block.limit = last_words_ + left;
    is_last_ = true;
  }

  void run(void (*kernel)(RowsBlock&)) {
    RowsBlock& block = chunk_.block();
    kernel(block);
    if (block.column < block.columns && !is_last_) {
      take_last_words();
      kernel(block);
    }
    require(block.column == block.columns && (!is_last_ || block.words <= block.limit), "a chunk has too few words");
  }

  void next_block() {
    stop_if_cancelled();
    RowsBlock& block = chunk_.block();
    chunk_.begin_block();
    at_ = 0;
    ready_ = block.rows * block.columns;
    if (is_coded_) {
      chunk_.begin_flags();
      run(kernels().rows_flags);
      chunk_.begin_values();
      run(kernels().rows_values);
      require(!block.is_bad, "an index is not in the codebook");
      kernels().rows_transpose(block.indices, block.columns, block.rows, rows_.data());
    }
    chunk_.end_block();
  }

  const bool is_coded_;
  const uint8_t* const end_;
  RowsChunk chunk_;
  std::vector<uint16_t> rows_;  // of the block
  size_t at_ = 0, ready_ = 0;
  bool is_last_ = false;
  uint8_t last_words_[2 * kRowsReach] = {};
};

// Indices laid out as blocks are.
struct Blocks {
  Blocks(const Header& header, const uint16_t* from, uint64_t count_of_rows)
      : columns(static_cast<size_t>(header.columns)), rows(count_of_rows) {
    const size_t count = static_cast<size_t>((rows + header.lanes - 1) / header.lanes);
    indices.resize(count * columns * kRowsLanes, static_cast<uint16_t>(rows_zero(header)));
    for (size_t r = 0; r < rows; ++r) {
      uint16_t* const to = indices.data() + r / header.lanes * columns * kRowsLanes + r % header.lanes;
      for (size_t c = 0; c < columns; ++c) to[c * kRowsLanes] = from[r * columns + c];
    }
    kept.resize(count * columns);
    for (size_t c = 0; c < kept.size(); ++c) {
      unsigned flags = 0;
      for (unsigned lane = 0; lane < kRowsLanes; ++lane) {
        flags |= unsigned{indices[c * kRowsLanes + lane] != rows_zero(header)} << lane;
      }
      kept[c] = static_cast<uint16_t>(flags);
    }
  }

  size_t columns;
  uint64_t rows;
  std::vector<uint16_t> indices;  // kRowsLanes a column
  std::vector<uint16_t> kept;     // a bit a lane
};

// Feeds known indices to a coder, block by block.
template <typename Coder>
void walk(const Header& header, const RowsModel& model, const Blocks& blocks, Coder& coder, bool flags, bool values) {
  RowsChunk chunk(header, model, nullptr, blocks.rows);
  RowsBlock& block = chunk.block();
  const uint16_t* indices = blocks.indices.data();
  const uint16_t* kept = blocks.kept.data();
  for (; !chunk.is_done(); chunk.end_block(), indices += blocks.columns * kRowsLanes, kept += blocks.columns) {
    stop_if_cancelled();
    chunk.begin_block();
    for (size_t c = 0; c < blocks.columns; ++c) {
      block.flags[c] = static_cast<uint16_t>(block.flipped ? block.active() & ~unsigned{kept[c]} : kept[c]);
    }
    if (flags) {
      chunk.begin_flags();
      rows_flags(block, coder);
    }
    if (values) {
      chunk.begin_values();
      std::memcpy(block.indices, indices, blocks.columns * kRowsLanes * sizeof(uint16_t));
      rows_values(block, coder);
    }
  }
}

// Writes down what the decoder does, to undo it from the last step to the first.
class Recorder {
 public:
  explicit Recorder(const RowsModel& model) : scale_bits_(model.scale_bits()), low_bits_(model.settings[kLowBits]) {
    for (const std::vector<uint32_t>& table : model.frequencies) {
      ranges_.emplace_back();
      uint32_t start = 0;
      for (const uint32_t frequency : table) {
        ranges_.back().push_back({start, frequency});
        start += frequency;
      }
    }
  }

  bool can_step() const { return true; }

  bool bit(unsigned lane, uint32_t p, bool known) {
    add(lane, kRowsBits, known ? Range{0, p} : Range{p, (1U << kRowsBits) - p});
    return known;
  }

  uint32_t symbol(unsigned lane, unsigned table, uint32_t known) {
    add(lane, scale_bits_, ranges_[table][known]);
    return known;
  }

  uint32_t low(unsigned lane, uint32_t known) {
    add(lane, low_bits_, {known, 1});
    return known;
  }

  Bytes finish(unsigned lanes) const {
    std::vector<uint32_t> states(lanes, kLowestState);
    std::vector<uint16_t> words;  // last first
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
      uint32_t& state = states[step->lane];
      if (state >> (32 - step->scale_bits) >= step->frequency) {
        words.push_back(static_cast<uint16_t>(state));
        state >>= 16;
      }
      state = ((state / step->frequency) << step->scale_bits) + state % step->frequency + step->start;
    }
    std::reverse(words.begin(), words.end());
    Bytes out;
    append(out, states.data(), 4 * lanes);
    append(out, words.data(), 2 * words.size());
    return out;
  }

 private:
  struct Range {
    uint32_t start, frequency;
  };
  struct Step {
    uint16_t start, frequency;
    uint8_t lane, scale_bits;
  };

  void add(unsigned lane, unsigned scale_bits, Range range) {
    steps_.push_back({static_cast<uint16_t>(range.start), static_cast<uint16_t>(range.frequency),
                      static_cast<uint8_t>(lane), static_cast<uint8_t>(scale_bits)});
  }

  const unsigned scale_bits_, low_bits_;
  std::vector<std::vector<Range>> ranges_;
  std::vector<Step> steps_;
};

// What flags and signs take, in units of 2^-16 bits, and how often each magnitude is in each table.
class Meter {
 public:
  Meter(const Header& header, const RowsModel& model)
      : counts_(model.all_tables(), Counts(std::max<size_t>(1, rows_symbols(header, model.settings[kLowBits])))) {}

  bool can_step() const { return true; }

  bool bit(unsigned /*lane*/, uint32_t p, bool known) {
    bits_ += costs()[known ? p : (1U << kRowsBits) - p];
    return known;
  }

  uint32_t symbol(unsigned /*lane*/, unsigned table, uint32_t known) {
    ++counts_[table][known];
    return known;
  }

  uint32_t low(unsigned /*lane*/, uint32_t known) { return known; }

  uint64_t bits() const { return bits_; }
  const std::vector<Counts>& counts() const { return counts_; }

 private:
  static const std::vector<uint32_t>& costs() {
    static const std::vector<uint32_t> table = [] {
      std::vector<uint32_t> made(1U << kRowsBits, 0);
      for (uint32_t p = 1; p < made.size(); ++p) made[p] = (kRowsBits << kLog2FractionBits) - log2_fixed(p);
      return made;
    }();
    return table;
  }

  uint64_t bits_ = 0;
  std::vector<Counts> counts_;
};

// Tables of magnitudes of the least total size, of the smallest scale that comes within 0.05 % of it. Gives back their
// bits and those of their symbols.
uint64_t make_tables(RowsModel& model, const std::vector<Counts>& counts) {
  constexpr unsigned kScales = 5;
  uint64_t bits[kScales] = {};
  std::vector<std::vector<uint32_t>> frequencies[kScales];
  for (unsigned scale = 0; scale < kScales; ++scale) {
    for (const Counts& table : counts) {
      const RansModel rans{scale + 8, rans_frequencies(table, scale + 8)};
      bits[scale] += rans_stream_bits(table, rans) + 8 * number_list_size(rans.frequencies);
      frequencies[scale].push_back(rans.frequencies);
    }
  }
  const uint64_t least = *std::min_element(bits, bits + kScales);
  unsigned scale = 0;
  while (bits[scale] - least > least / 2000) ++scale;
  model.settings[kScaleBits] = static_cast<uint8_t>(scale);
  model.frequencies = std::move(frequencies[scale]);
  return bits[scale];
}

// Bits that magnitudes take with tables of their own, about.
uint64_t table_bits(const std::vector<Counts>& counts) {
  constexpr uint64_t kTableBits = 8, kSymbolBits = 6;
  uint64_t bits = 0;
  for (const Counts& table : counts) {
    const uint64_t total = std::accumulate(table.begin(), table.end(), uint64_t{0});
    bits += kTableBits << kLog2FractionBits;
    for (const uint64_t count : table) {
      if (count == 0) continue;
      bits += count * (log2_fixed(total) - log2_fixed(count)) + (kSymbolBits << kLog2FractionBits);
    }
  }
  return bits >> kLog2FractionBits;
}

RowsModel first_model(const Header& header) {
  RowsModel model;
  const bool has_group = header.group < header.columns;
  const std::pair<RowsSetting, uint8_t> first[] = {
      {kColumnTrust, 4},  {kNearTrust, 5},      {kGroupTrust, 5},
      {kColumnWeight, 8}, {kRowWeight, 6},      {kGroupWeight, has_group ? 4 : 0},
      {kLeft, 5},         {kSecondLeft, 3},     {kAbove, 5},
      {kAboveRight, 3},   {kAboveLeft, 3},      {kBase, 7},
      {kSignColumn, 3},   {kSignRow, 1},        {kSignLeft, 4},
      {kSignAbove, 4},    {kSignBeside, 2},     {kTableStep, 2},
      {kRecentShift, 2},  {kMagnitudeTrust, 2}, {kMagnitudeColumn, 6},
      {kMagnitudeRow, 6},
  };
  for (const auto& [setting, value] : first) model.settings[setting] = value;
  while (rows_symbols(header, model.settings[kLowBits]) > 256) ++model.settings[kLowBits];
  return model;
}

// As many whole rows as are wanted, and no fewer than the lanes.
uint64_t whole_rows(uint64_t columns, uint64_t rows, uint64_t elements, uint64_t lanes) {
  const uint64_t wanted = std::max(elements / columns / lanes, uint64_t{4}) * lanes;
  return std::min(rows, wanted);
}

// The first rows of a tensor of `all_rows`: some to try flags on, and those that hold values enough to try these on.
struct Sample {
  Sample(const Header& header, const uint16_t* indices, uint64_t rows, uint64_t all_rows)
      : flags(header, indices, rows), values(header, indices, rows_of_values(header, all_rows)) {
    for (const uint16_t column : flags.kept) kept += static_cast<unsigned>(__builtin_popcount(column));
    for (const uint16_t column : values.kept) kept_values += static_cast<unsigned>(__builtin_popcount(column));
  }

  // Bits of all its rows.
  uint64_t of_all(uint64_t flag_bits, uint64_t value_bits) const {
    return flag_bits + (kept_values == 0 ? 0 : value_bits * kept / kept_values);
  }

  Blocks flags;
  uint64_t kept = 0, kept_values = 0;
  Blocks values;

 private:
  uint64_t rows_of_values(const Header& header, uint64_t all_rows) const {
    uint64_t found = 0, rows = 0;
    if (header.is_integer()) return whole_rows(header.columns, all_rows, kTrialOfIntegers, header.lanes);
    for (const uint16_t* column = flags.kept.data(); rows < flags.rows && found < kTrialValues; rows += header.lanes) {
      for (size_t c = 0; c < flags.columns; ++c) found += static_cast<unsigned>(__builtin_popcount(*column++));
    }
    return std::min(rows, flags.rows);
  }
};

// Looks for the settings that make some rows smallest, one after the other.
class Search {
 public:
  Search(const Header& header, const Sample& sample) : header_(header), sample_(sample), model_(first_model(header)) {}

  const RowsModel& model() const { return model_; }

  // All that the sample takes, about.
  uint64_t bits() const { return sample_.of_all(measure(model_, true), measure(model_, false)); }

  // Looks at neighbours, roughly: enough to compare layouts.
  void look() {
    climb({kLeft, kAbove}, true);
    climb({kSignLeft, kSignAbove}, false);
  }

  void run() {
    climb({kColumnTrust, kNearTrust, kColumnWeight, kRowWeight, kGroupWeight, kGroupTrust, kLeft, kSecondLeft, kAbove,
           kAboveRight, kAboveLeft, kBase},
          true);
    climb({kColumnTrust, kColumnWeight, kRowWeight, kLeft, kAbove, kBase}, true);
    climb({kSignColumn, kSignRow, kSignLeft, kSignAbove, kSignBeside}, false);
    if (header_.k > 3) find_tables();
  }

 private:
  uint64_t measure(const RowsModel& model, bool flags) const {
    Meter meter(header_, model);
    walk(header_, model, flags ? sample_.flags : sample_.values, meter, flags, !flags);
    return (meter.bits() >> kLog2FractionBits) + (flags ? 0 : table_bits(meter.counts()));
  }

  bool does_nothing(RowsSetting setting) const {
    switch (setting) {
      case kAbove:
      case kAboveRight:
      case kAboveLeft:
      case kSignAbove:
      case kSignBeside: return header_.stride == 0;
      case kGroupWeight:
      case kGroupTrust: return header_.group == header_.columns;
      default: return false;
    }
  }

  void climb(const std::vector<RowsSetting>& settings, bool flags) {
    uint64_t best = measure(model_, flags);
    for (const RowsSetting setting : settings) {
      if (does_nothing(setting)) continue;
      for (const int step : {2, -2, 1, -1}) {
        for (;;) {
          RowsModel changed = model_;
          const int value = changed.settings[setting] + step;
          if (value < 0 || value > kMostSettings[setting]) break;
          changed.settings[setting] = static_cast<uint8_t>(value);
          const uint64_t bits = measure(changed, flags);
          if (bits >= best) break;
          best = bits;
          model_ = changed;
        }
      }
    }
  }

  void find_tables() {
    set_first_mean();
    uint64_t best = measure(model_, false);
    RowsModel best_model = model_;
    for (const uint8_t tables : {uint8_t{1}, uint8_t{3}, uint8_t{7}}) {
      model_.settings[kTables] = tables;
      climb({kMagnitudeColumn, kMagnitudeRow, kTableStep, kRecentShift}, false);
      const uint64_t bits = measure(model_, false);
      if (bits >= best) break;
      best = bits;
      best_model = model_;
    }
    model_ = best_model;
    RowsModel sides = model_;
    sides.settings[kTables] |= 8;
    if (measure(sides, false) < best) model_ = sides;
  }

  void set_first_mean() {
    uint64_t total = 0, count = 0;
    const uint64_t zero = rows_zero(header_);
    for (const uint16_t index : sample_.values.indices) {
      total += index > zero ? index - zero : zero - index;
      count += index != zero ? 1U : 0U;
    }
    uint8_t& mean = model_.settings[kFirstMean];
    while (count > 0 && mean < 11 && (count << (2 * mean + 1)) < total * total / count) ++mean;
  }

  const Header& header_;
  const Sample& sample_;
  RowsModel model_;
};

// Columns of the matrix: what follows the first extent. Where that is too few or too many, as of vectors, as many rows
// as fill the lanes, of columns that are few enough.
uint64_t matrix_columns(const Header& header, uint64_t chunk) {
  uint64_t columns = header.rank < 2 ? header.n : header.n / header.dims[0];
  if (columns < kLeastColumns || columns > kMostColumns || header.rank < 2) {
    columns = header.n;
    for (unsigned rows = 1; rows < kRowsLanes && columns % 2 == 0; rows *= 2) columns /= 2;
    for (uint64_t factor = 2; columns > kMostColumns && factor < kRowsLanes; ++factor) {
      while (columns > kMostColumns && columns % factor == 0) columns /= factor;
    }
    if (columns > kMostColumns) columns = 1;
  }
  return chunk < header.n ? std::gcd(columns, chunk) : columns;
}

// One header for each way in which columns may lie near each other; of integers, of which none is zero far more often
// than others, the first.
std::vector<Header> possible_layouts(Header header) {
  std::vector<Header> layouts;
  for (const auto& [group, stride] : column_layouts(header.rank, header.dims, header.columns)) {
    header.group = group;
    header.stride = stride;
    layouts.push_back(header);
    if (header.is_integer()) break;
  }
  return layouts;
}

// A layout and settings.
struct Choice {
  Header header;
  RowsModel model;
  bool is_promising;  // smaller than what coders without a model make of it
};

// Bits of a sample without any model.
uint64_t plain_bits(const Header& header, const Blocks& blocks) {
  Counts counts(static_cast<size_t>(header.k), 0);
  for (const uint16_t index : blocks.indices) ++counts[index];
  counts[rows_zero(header)] -= blocks.indices.size() - blocks.rows * blocks.columns;  // of lanes without rows
  return table_bits({counts});
}

// Fewer lanes learn faster and take less room, which counts in small tensors; more decode faster.
void choose_lanes(Choice& choice, const uint16_t* indices, uint64_t rows, const Sample& sample) {
  constexpr uint64_t kMostBytes = 8192;
  constexpr uint64_t kLaneBits = 20;
  const auto bits_with = [&](uint8_t lanes) {
    Header header = choice.header;
    header.lanes = lanes;
    const Sample own(header, indices, sample.flags.rows, rows);
    Meter flags(header, choice.model), values(header, choice.model);
    walk(header, choice.model, own.flags, flags, true, false);
    walk(header, choice.model, own.values, values, false, true);
    const uint64_t bits = own.of_all(flags.bits() >> kLog2FractionBits,
                                     (values.bits() >> kLog2FractionBits) + table_bits(values.counts()));
    return bits * rows / own.flags.rows + kLaneBits * lanes;
  };
  uint64_t least = bits_with(choice.header.lanes);
  if (least / 8 > kMostBytes) return;
  for (uint8_t lanes = choice.header.lanes / 2; lanes >= 2; lanes /= 2) {
    const uint64_t bits = bits_with(lanes);
    if (bits > least - least / 128) break;
    least = bits;
    choice.header.lanes = lanes;
  }
}

Choice choose(const Header& header, const dcc_encode_request& request) {
  const uint64_t rows = std::min(header.n, header.chunk) / header.columns;
  const Sample sample(header, request.indices, whole_rows(header.columns, rows, kTrial, header.lanes), rows);
  const uint64_t plain = plain_bits(header, sample.flags);
  const std::vector<Header> layouts = possible_layouts(header);
  Choice best{layouts[0], {}, false};
  uint64_t least = UINT64_MAX;
  for (const Header& layout : layouts) {
    Search search(layout, sample);
    search.look();
    const uint64_t bits = search.bits();
    if (bits >= least) continue;
    least = bits;
    best.header = layout;
    best.model = search.model();
  }
  if (least > plain + plain / 50) return best;
  Search search(best.header, sample);
  search.run();
  best.model = search.model();
  best.is_promising = header.columns >= kLeastColumns && search.bits() < plain - plain / 512;
  choose_lanes(best, request.indices, rows, sample);
  return best;
}

class Rows final : public Coder {
 public:
  Rows() : Coder({"rows", 8, Stores::kIndices, Layout::kChunks, true, 2'500, 2'000, 15'000}) {}

  void read_fields(ByteReader& reader, Header& header) const override {
    header.lanes = reader.u8();
    header.columns = reader.varint();
    header.group = reader.varint();
    header.stride = reader.varint();
  }

  void append_fields(Bytes& out, const Header& header) const override {
    out.push_back(header.lanes);
    for (const uint64_t field : {header.columns, header.group, header.stride}) append_varint(out, field);
  }

  void check_fields(const Header& header) const override {
    require_lanes(header.lanes, kRowsLanes);
    require(header.columns >= 1 && header.columns <= kMostColumns, "its columns are out of range");
    require(header.n % header.columns == 0 && (header.chunk >= header.n || header.chunk % header.columns == 0),
            "its chunks are not whole rows");
    require(header.group >= 1 && header.group <= header.columns, "its group of columns is out of range");
    require(header.stride != 1 && header.stride <= header.columns, "its stride is out of range");
  }

  std::unique_ptr<CoderTables> read_tables(ByteReader& reader, const Header& header) const override {
    return std::make_unique<RowsTables>(read_rows_model(reader, header));
  }

  std::unique_ptr<IndexReader> open(const CoderTables* tables, Span bytes, uint64_t /*first*/, size_t count,
                                    const Header& header) const override {
    return std::make_unique<RowsReader>(static_cast<const RowsTables&>(*tables), bytes, count, header);
  }

  EncodePlan plan(const IndexTensor& tensor) const override {
    const dcc_encode_request& request = tensor.request;
    Header header = tensor.header;
    header.chunk = request.chunk_elements != 0 ? request.chunk_elements : header.n;
    header.columns = matrix_columns(header, header.chunk);
    header.lanes = kRowsLanes;
    const uint64_t rows = header.n / header.columns;
    if (request.chunk_elements == 0 && header.n > kChunk) {
      header.chunk = header.columns * whole_rows(header.columns, rows, kChunk, header.lanes);
    }
    Choice choice = header.k > 1 ? choose(header, request) : Choice{possible_layouts(header)[0], {}, false};
    header = choice.header;
    // Without promise it is written where it is asked for.
    uint64_t bytes = UINT64_MAX - 1;
    if (choice.is_promising) {
      const uint64_t bits = complete(header, choice.model, request);
      bytes =
          kRowsSettings / 2 + kSectionOverhead + bits / 8 + header.chunks() * (kSectionOverhead + 3U * header.lanes);
    }
    return {header, bytes, [choice = std::move(choice), &request](Bytes& frame) mutable {
              if (!choice.is_promising) complete(choice.header, choice.model, request);
              Bytes tables;
              append_rows_model(tables, choice.model);
              append_section(frame, tables);
              append_chunks(frame, choice.header, request.threads, [&](size_t first, size_t count) {
                return encode_chunk(choice.header, choice.model, request.indices + first, count);
              });
            }};
  }

 private:
  // Gives the model its tables; returns the bits of all.
  static uint64_t complete(const Header& header, RowsModel& model, const dcc_encode_request& request) {
    if (header.k == 1) return 0;
    std::vector<Meter> meters(static_cast<size_t>(header.chunks()), Meter(header, model));
    parallel_for(meters.size(), request.threads, [&](size_t c) {
      const Blocks blocks(header, request.indices + c * header.chunk, chunk_elements(header, c) / header.columns);
      walk(header, model, blocks, meters[c], true, true);
    });
    uint64_t bits = 0;
    std::vector<Counts> counts = meters[0].counts();
    for (size_t c = 0; c < meters.size(); ++c) {
      bits += meters[c].bits();
      if (c == 0) continue;
      for (size_t table = 0; table < counts.size(); ++table) {
        for (size_t j = 0; j < counts[table].size(); ++j) counts[table][j] += meters[c].counts()[table][j];
      }
    }
    const uint64_t low = header.nnz * model.settings[kLowBits];
    return (bits >> kLog2FractionBits) + low + make_tables(model, counts);
  }

  static Bytes encode_chunk(const Header& header, const RowsModel& model, const uint16_t* indices, size_t count) {
    Recorder recorder(model);
    if (header.k > 1) {
      const Blocks blocks(header, indices, count / header.columns);
      walk(header, model, blocks, recorder, true, true);
    }
    return recorder.finish(header.lanes);
  }
};

}  // namespace

const Coder& rows_coder() {
  static const Rows coder;
  return coder;
}

}  // namespace dcc
