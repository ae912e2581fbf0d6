// sparse_layouts.cpp: makes the layouts of sparse_kernels.h from kept weights.
#include "kernels/sparse_layouts.h"

#include <algorithm>
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

LaneLayout::LaneLayout(const KeptWeights& kept, int threads) : k_(kept.k), n_(kept.n) {
  const size_t groups = divided_up(n_, kLanes);
  outputs_.resize(groups * kLanes);
  std::iota(outputs_.begin(), outputs_.end(), 0U);
  const auto count = [&](uint32_t output) { return kept.starts[output + 1] - kept.starts[output]; };
  std::stable_sort(outputs_.begin(), outputs_.begin() + static_cast<ptrdiff_t>(n_),
                   [&](uint32_t a, uint32_t b) { return count(a) > count(b); });
  const Codes codes = find_codes(kept.values, 31);
  if (!codes.table.empty()) {
    table_.assign(32, 0.0F);
    std::copy(codes.table.begin(), codes.table.end(), table_.begin() + 1);
  }
  const size_t parts = std::max<size_t>(std::min(groups, 4 * thread_count(threads)), 1);
  std::vector<LaneLayout> made(parts);
  parallel_for(parts, threads, [&](size_t part) {
    const size_t first = groups * part / parts * kLanes;
    const size_t last = std::min(groups * (part + 1) / parts * kLanes, n_);
    made[part].k_ = k_;
    made[part].add_groups(kept, codes, outputs_.data() + first, last - first);
  });
  size_t rounds = 0, values = 0;
  for (const LaneLayout& part : made) {
    for (const size_t start : part.starts_) starts_.push_back(rounds + start);
    for (const size_t start : part.value_starts_) value_starts_.push_back(values + start);
    rounds += part.advances_.size();
    values += part.values_.size();
  }
  starts_.push_back(rounds);
  join(made, &LaneLayout::words_);
  join(made, &LaneLayout::advances_);
  join(made, &LaneLayout::positions_);
  join(made, &LaneLayout::masks_);
  join(made, &LaneLayout::values_);
}

// Fills an array with those of the parts, one behind the other.
template <typename T>
void LaneLayout::join(const std::vector<LaneLayout>& parts, LargeArray<T> LaneLayout::* array) {
  size_t size = 0;
  for (const LaneLayout& part : parts) size += (part.*array).size();
  (this->*array).reserve(size);
  for (const LaneLayout& part : parts) {
    (this->*array).insert((this->*array).end(), (part.*array).begin(), (part.*array).end());
  }
}

void LaneLayout::add_groups(const KeptWeights& kept, const Codes& codes, const uint32_t* outputs, size_t count) {
  for (size_t first = 0; first < count; first += kLanes) {
    add_group(kept, codes, outputs + first, std::min(kLanes, count - first));
  }
}

void LaneLayout::add_group(const KeptWeights& kept, const Codes& codes, const uint32_t* outputs, size_t used) {
  constexpr size_t kFarthest = std::numeric_limits<uint16_t>::max();
  starts_.push_back(advances_.size());
  value_starts_.push_back(values_.size());
  size_t next[kLanes] = {};
  size_t ends[kLanes] = {};
  for (size_t lane = 0; lane < used; ++lane) {
    next[lane] = kept.starts[outputs[lane]];
    ends[lane] = kept.starts[outputs[lane] + 1];
  }
  const size_t last = k_ < kWindow ? 0 : k_ - kWindow;  // where a window may begin
  for (size_t at = 0;;) {
    size_t wanted = std::numeric_limits<size_t>::max();
    for (size_t lane = 0; lane < used; ++lane) {
      if (next[lane] < ends[lane]) wanted = std::min<size_t>(wanted, kept.inputs[next[lane]]);
    }
    if (wanted == std::numeric_limits<size_t>::max()) return;
    const size_t before = at;
    at = std::min({wanted, last, before + kFarthest});
    advances_.push_back(static_cast<uint16_t>(at - before));
    add_round(kept, codes, at, next, ends);
  }
}

void LaneLayout::add_round(const KeptWeights& kept, const Codes& codes, size_t at, size_t* next, const size_t* ends) {
  const bool coded = !codes.table.empty();
  uint32_t words[kLanes] = {};
  for (unsigned step = 0; step < kSteps; ++step) {
    unsigned mask = 0;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      if (next[lane] == ends[lane] || kept.inputs[next[lane]] >= at + kWindow) continue;
      const size_t weight = next[lane]++;
      const uint32_t input = kept.inputs[weight] - static_cast<uint32_t>(at);
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

}  // namespace dcc
