// sparse_layouts.cpp: makes the layouts of sparse_kernels.h from kept weights.
#include "kernels/sparse_layouts.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "base/parallel.h"

namespace dcc {
namespace {

template <typename T>
size_t bytes_of(const LargeArray<T>& array) {
  return array.capacity() * sizeof(T);
}

size_t divided_up(size_t a, size_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace

RowLayout::RowLayout(const KeptWeights& kept, int threads) : k_(kept.k), n_(kept.n) {
  Codes codes = find_codes(kept.values, 256);
  const size_t blocks = divided_up(k_, kColumnsInBlock);
  const size_t chunks = divided_up(n_, kRowsInChunk);
  starts_.resize(chunks * blocks);
  counts_.resize(blocks * n_);
  outputs_.resize(blocks * n_);
  positions_.resize(kept.values.size());
  if (codes.table.empty()) {
    values_.resize(kept.values.size());
  } else {
    codes_.resize(kept.values.size());
  }
  parallel_for(chunks, threads, [&](size_t chunk) { add_chunk(kept, codes, chunk); });
  table_ = std::move(codes.table);
}

void RowLayout::add_chunk(const KeptWeights& kept, const Codes& codes, size_t chunk) {
  const bool coded = !codes.table.empty();
  const size_t blocks = divided_up(k_, kColumnsInBlock);
  const size_t from = chunk * kRowsInChunk;
  const size_t outputs = std::min(kRowsInChunk, n_ - from);
  size_t next[kRowsInChunk];
  std::copy_n(kept.starts.data() + from, outputs, next);
  size_t to = kept.starts[from];  // chunks stand in the same order in both
  for (size_t block = 0; block < blocks; ++block) {
    starts_[chunk * blocks + block] = to;
    size_t ends[kRowsInChunk];
    for (size_t o = 0; o < outputs; ++o) {
      ends[o] = next[o];
      while (ends[o] < kept.starts[from + o + 1] && kept.inputs[ends[o]] / kColumnsInBlock == block) ++ends[o];
    }
    uint8_t* const order = outputs_.data() + block * n_ + from;
    std::iota(order, order + outputs, uint8_t{0});
    const auto count = [&](uint8_t o) { return ends[o] - next[o]; };
    std::sort(order, order + outputs,
              [&](uint8_t a, uint8_t b) { return count(a) != count(b) ? count(a) > count(b) : a < b; });
    for (size_t visit = 0; visit < outputs; ++visit) {
      const uint8_t o = order[visit];
      counts_[block * n_ + from + visit] = static_cast<uint8_t>(count(o));
      for (size_t at = next[o]; at < ends[o]; ++at, ++to) {
        positions_[to] = static_cast<uint8_t>(kept.inputs[at] % kColumnsInBlock);
        if (coded) {
          codes_[to] = codes.of[at];
        } else {
          values_[to] = kept.values[at];
        }
      }
      next[o] = ends[o];
    }
  }
}

RowWeights RowLayout::view() const {
  RowWeights view;
  view.k = k_;
  view.n = n_;
  view.starts = starts_.data();
  view.counts = counts_.data();
  view.outputs = outputs_.data();
  view.positions = positions_.data();
  view.codes = table_.empty() ? nullptr : codes_.data();
  view.table = table_.data();
  view.values = values_.data();
  return view;
}

size_t RowLayout::bytes() const {
  return bytes_of(starts_) + bytes_of(counts_) + bytes_of(outputs_) + bytes_of(positions_) + bytes_of(codes_) +
         bytes_of(table_) + bytes_of(values_);
}

namespace {

// Outputs by falling number of weights, filled up to whole groups.
LargeArray<uint32_t> grouped_outputs(const KeptWeights& kept) {
  LargeArray<uint32_t> outputs(divided_up(kept.n, kLanes) * kLanes);
  std::iota(outputs.begin(), outputs.end(), 0U);
  const auto count = [&](uint32_t output) { return kept.starts[output + 1] - kept.starts[output]; };
  std::stable_sort(outputs.begin(), outputs.begin() + static_cast<ptrdiff_t>(kept.n),
                   [&](uint32_t a, uint32_t b) { return count(a) > count(b); });
  return outputs;
}

// Layouts of consecutive groups of the outputs, made side by side: add(part, outputs, used) adds a group to one.
template <class Layout, class Add>
std::vector<Layout> made_in_parts(const LargeArray<uint32_t>& outputs, size_t n, int threads, Add add) {
  const size_t groups = outputs.size() / kLanes;
  const size_t parts = std::max<size_t>(std::min(groups, 4 * thread_count(threads)), 1);
  std::vector<Layout> made(parts);
  parallel_for(parts, threads, [&](size_t part) {
    for (size_t group = groups * part / parts; group < groups * (part + 1) / parts; ++group) {
      add(made[part], outputs.data() + group * kLanes, std::min(kLanes, n - group * kLanes));
    }
  });
  return made;
}

// Fills an array with those of the parts, one behind the other.
template <class Layout, typename T>
void join(const std::vector<Layout>& parts, LargeArray<T> Layout::* array, Layout& whole) {
  size_t size = 0;
  for (const Layout& part : parts) size += (part.*array).size();
  (whole.*array).reserve(size);
  for (const Layout& part : parts) {
    (whole.*array).insert((whole.*array).end(), (part.*array).begin(), (part.*array).end());
  }
}

// The weights of a group's lanes, in the order of inputs, as a window moves over these.
class Group {
 public:
  Group(const KeptWeights& kept, const uint32_t* outputs, size_t used, size_t window)
      : kept_(kept), used_(used), window_(window), last_(kept.k < window ? 0 : kept.k - window) {
    for (size_t lane = 0; lane < used; ++lane) {
      next_[lane] = kept.starts[outputs[lane]];
      ends_[lane] = kept.starts[outputs[lane] + 1];
    }
  }

  // Moves the window to the first weight that is left, but by no more than 16 bits say; false when none is left.
  bool move(LargeArray<uint16_t>& advances) {
    size_t wanted = std::numeric_limits<size_t>::max();
    for (size_t lane = 0; lane < used_; ++lane) {
      if (next_[lane] < ends_[lane]) wanted = std::min<size_t>(wanted, kept_.inputs[next_[lane]]);
    }
    if (wanted == std::numeric_limits<size_t>::max()) return false;
    const size_t before = at_;
    at_ = std::min({wanted, last_, before + std::numeric_limits<uint16_t>::max()});
    advances.push_back(static_cast<uint16_t>(at_ - before));
    return true;
  }

  // Takes the lane's next weight if it lies in the window: its number, and its input within the window.
  bool take(size_t lane, size_t& weight, uint32_t& input) {
    if (next_[lane] == ends_[lane] || kept_.inputs[next_[lane]] >= at_ + window_) return false;
    weight = next_[lane]++;
    input = kept_.inputs[weight] - static_cast<uint32_t>(at_);
    return true;
  }

 private:
  const KeptWeights& kept_;
  size_t used_, window_, last_;  // last_: where a window may begin
  size_t at_ = 0;
  size_t next_[kLanes] = {}, ends_[kLanes] = {};
};

}  // namespace

LaneLayout::LaneLayout(const KeptWeights& kept, int threads) : k_(kept.k), n_(kept.n), outputs_(grouped_outputs(kept)) {
  const Codes codes = find_codes(kept.values, 31);
  if (!codes.table.empty()) {
    table_.assign(32, 0.0F);
    std::copy(codes.table.begin(), codes.table.end(), table_.begin() + 1);
  }
  const auto add = [&](LaneLayout& part, const uint32_t* outputs, size_t used) {
    part.add_group(kept, codes, outputs, used);
  };
  const std::vector<LaneLayout> made = made_in_parts<LaneLayout>(outputs_, n_, threads, add);
  size_t rounds = 0, values = 0;
  for (const LaneLayout& part : made) {
    for (const size_t start : part.starts_) starts_.push_back(rounds + start);
    for (const size_t start : part.value_starts_) value_starts_.push_back(values + start);
    rounds += part.advances_.size();
    values += part.values_.size();
  }
  starts_.push_back(rounds);
  join(made, &LaneLayout::words_, *this);
  join(made, &LaneLayout::advances_, *this);
  join(made, &LaneLayout::positions_, *this);
  join(made, &LaneLayout::masks_, *this);
  join(made, &LaneLayout::values_, *this);
}

void LaneLayout::add_group(const KeptWeights& kept, const Codes& codes, const uint32_t* outputs, size_t used) {
  const bool coded = !codes.table.empty();
  starts_.push_back(advances_.size());
  value_starts_.push_back(values_.size());
  Group group(kept, outputs, used, kWindow);
  while (group.move(advances_)) {
    uint32_t words[kLanes] = {};
    for (unsigned step = 0; step < kSteps; ++step) {
      unsigned mask = 0;
      for (size_t lane = 0; lane < kLanes; ++lane) {
        size_t weight = 0;
        uint32_t input = 0;
        if (!group.take(lane, weight, input)) continue;
        mask |= 1U << lane;
        if (coded) {
          words[lane] |= (input | (codes.of[weight] + 1U) << 5) << (10 * step);
        } else {
          words[lane] |= input << (5 * step);
          values_.push_back(kept.values[weight]);
        }
      }
      if (!coded) masks_.push_back(static_cast<uint16_t>(mask));
    }
    if (coded) {
      words_.insert(words_.end(), words, words + kLanes);
    } else {
      for (const uint32_t word : words) positions_.push_back(static_cast<uint16_t>(word));
    }
  }
}

LaneWeights LaneLayout::view() const {
  LaneWeights view;
  view.k = k_;
  view.n = n_;
  view.outputs = outputs_.data();
  view.starts = starts_.data();
  view.advances = advances_.data();
  view.words = table_.empty() ? nullptr : words_.data();
  view.table = table_.data();
  view.positions = positions_.data();
  view.masks = masks_.data();
  view.value_starts = value_starts_.data();
  view.values = values_.data();
  return view;
}

size_t LaneLayout::bytes() const {
  return bytes_of(outputs_) + bytes_of(starts_) + bytes_of(advances_) + bytes_of(words_) + bytes_of(table_) +
         bytes_of(positions_) + bytes_of(masks_) + bytes_of(value_starts_) + bytes_of(values_);
}

ByteLayout::ByteLayout(const KeptWeights& kept, const float* scales, int threads)
    : k_(kept.k), n_(kept.n), outputs_(grouped_outputs(kept)) {
  const Codes codes = find_codes(kept.values, 31);
  if (!codes.table.empty()) {
    table_.assign(64, 0);
    for (size_t half = 0; half < 64; half += 32) {
      std::transform(codes.table.begin(), codes.table.end(), table_.begin() + static_cast<ptrdiff_t>(half) + 1,
                     [](float value) { return static_cast<int8_t>(value); });
    }
  }
  const auto add = [&](ByteLayout& part, const uint32_t* outputs, size_t used) {
    part.add_group(kept, codes, outputs, used);
  };
  const std::vector<ByteLayout> made = made_in_parts<ByteLayout>(outputs_, n_, threads, add);
  size_t rounds = 0;
  for (const ByteLayout& part : made) {
    for (const size_t start : part.starts_) starts_.push_back(rounds + start);
    rounds += part.advances_.size();
  }
  starts_.push_back(rounds);
  join(made, &ByteLayout::advances_, *this);
  join(made, &ByteLayout::rounds_, *this);
  join(made, &ByteLayout::sums_, *this);
  scales_.assign(outputs_.size(), 0.0F);
  for (size_t i = 0; i < n_; ++i) scales_[i] = scales[outputs_[i]];
}

void ByteLayout::add_group(const KeptWeights& kept, const Codes& codes, const uint32_t* outputs, size_t used) {
  const bool coded = !codes.table.empty();
  starts_.push_back(advances_.size());
  uint32_t sums[kLanes] = {};  // modulo 2^32
  Group group(kept, outputs, used, kByteWindow);
  while (group.move(advances_)) {
    uint8_t positions[kBytesOfSlots] = {}, numbers[kBytesOfSlots] = {};
    for (size_t lane = 0; lane < kLanes; ++lane) {
      for (size_t slot = lane * kByteSlots; slot < (lane + 1) * kByteSlots; ++slot) {
        size_t weight = 0;
        uint32_t input = 0;
        if (!group.take(lane, weight, input)) break;
        const auto value = static_cast<int8_t>(kept.values[weight]);
        sums[lane] += static_cast<uint32_t>(static_cast<int32_t>(value));
        numbers[slot] = static_cast<uint8_t>(coded ? codes.of[weight] + 1 : value);
        positions[slot] = static_cast<uint8_t>(input | (coded ? uint32_t{numbers[slot]} >> 4U << 7U : 0U));
      }
    }
    rounds_.insert(rounds_.end(), std::begin(positions), std::end(positions));
    if (coded) {
      for (size_t i = 0; i < kBytesOfSlots; i += 2) {
        rounds_.push_back(static_cast<uint8_t>((numbers[i] & 15U) | (numbers[i + 1] & 15U) << 4U));
      }
    } else {
      rounds_.insert(rounds_.end(), std::begin(numbers), std::end(numbers));
    }
  }
  for (const uint32_t sum : sums) sums_.push_back(static_cast<int32_t>(sum));
}

ByteWeights ByteLayout::view() const {
  ByteWeights view;
  view.k = k_;
  view.n = n_;
  view.outputs = outputs_.data();
  view.starts = starts_.data();
  view.advances = advances_.data();
  view.rounds = rounds_.data();
  view.table = table_.empty() ? nullptr : table_.data();
  view.sums = sums_.data();
  view.scales = scales_.data();
  return view;
}

size_t ByteLayout::bytes() const {
  return bytes_of(outputs_) + bytes_of(starts_) + bytes_of(advances_) + bytes_of(rounds_) + bytes_of(table_) +
         bytes_of(sums_) + bytes_of(scales_);
}

}  // namespace dcc
