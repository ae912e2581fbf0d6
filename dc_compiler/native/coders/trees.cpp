// trees.cpp: coder `trees`: the attributes of a tree ensemble (FORMAT.md, section 8.3).
//
// The model is one class for both directions: its coder either writes the bit it is told or reads one.
#include <array>
#include <cmath>
#include <tuple>

#include "base/cancel.h"
#include "coders/binary_coder.h"
#include "coders/coder.h"
#include "coders/forest.h"
#include "coders/tree_values.h"

namespace dcc {

const Coder& text_coder();

namespace {

using Role = ColumnRole;

constexpr int32_t kLeastOfOne = 32;  // of the probability of a bit that one slot predicts
constexpr uint64_t kHashFactor = 0x9E3779B97F4A7C15;

// What a bit is of; the first part of every context.
enum Kind : uint64_t {
  kNumber,
  kIsLeaf,
  kFeature,
  kMode,
  kThreshold,
  kPattern,
  kIsCommon,
  kWeight,
  kSide,  // and kSides - 1 more
};

// Slots by their context, in open addressing.
class SlotTable {
 public:
  // No slot moves before so many are new.
  void make_room(size_t more) {
    if (2 * (used_ + more) > entries_.size()) grow();
  }

  // The caller makes room.
  Bit& at(uint64_t key) {
    Entry& entry = find(key);
    if (entry.key == 0) {
      entry.key = key;
      ++used_;
    }
    return entry.bit;
  }

 private:
  struct Entry {
    uint64_t key = 0;
    Bit bit;
  };
  Entry& find(uint64_t key) {
    size_t at = static_cast<size_t>(key >> 20) & (entries_.size() - 1);
    while (entries_[at].key != 0 && entries_[at].key != key) at = (at + 1) & (entries_.size() - 1);
    return entries_[at];
  }
  void grow() {
    std::vector<Entry> before(entries_.empty() ? 1024 : 2 * entries_.size());
    before.swap(entries_);
    for (const Entry& entry : before)
      if (entry.key != 0) find(entry.key) = entry;
  }
  std::vector<Entry> entries_;
  size_t used_ = 0;
};

uint64_t context(std::initializer_list<uint64_t> parts) {
  uint64_t hash = 0;
  for (const uint64_t part : parts) {
    hash = (hash + part + 1) * kHashFactor;
    hash ^= hash >> 32;
  }
  return hash | 1;
}

unsigned bit_length(uint64_t value) {
  unsigned length = 0;
  for (; value != 0; value >>= 1) ++length;
  return length;
}

// 16 log2(x), roughly.
uint64_t log16(uint64_t x) {
  const unsigned whole = bit_length(x) - 1;
  return 16 * uint64_t{whole} + ((whole >= 4 ? x >> (whole - 4) : x << (4 - whole)) & 15);
}

// An encoder's thresholds lie outside what their branches leave.
struct Outside {};

// What a node's place in the tree tells.
struct Place {
  uint64_t depth = 0;
  uint64_t side = 0;               // 0 root, 1 true, 2 false
  uint64_t parent = 0;             // its feature; the number of features at the root
  uint64_t volume = 0;             // how much its branches have narrowed
  uint64_t width = 0;              // thresholds that are left of the parent's feature
  uint64_t sibling = 0;            // 0 not known, 1 a leaf, 2 a branch
  size_t sibling_leaf = SIZE_MAX;  // the leaf's number
};

template <typename Coder>
class ForestModel {
 public:
  ForestModel(Coder& coder, Forest& forest, bool reads, size_t most)
      : coder_(coder), forest_(forest), reads_(reads), most_(most) {}

  void run() {
    const uint64_t trees = count(0, forest_.roots.size());
    code_tables();
    places_.start(forest_.thresholds);
    Progress at;
    for (uint64_t t = 0; t < trees; ++t) {
      if (reads_) forest_.roots.push_back(at.node);
      code_tree(at);
      if (!forest_.has_leaf_arrays) code_tree_id(static_cast<size_t>(t));
    }
    const ColumnValues places = expected_places(forest_, forest_.places.traversal);
    code_numbers_of(forest_.places, 4, forest_.counted_places(), places);
    const ColumnValues others = expected_others(forest_, forest_.other_numbers.traversal);
    code_numbers_of(forest_.other_numbers, 5, forest_.counted_others(), others);
  }

 private:
  // How many nodes, branches, leaves and weights have been coded.
  struct Progress {
    size_t node = 0, branch = 0, leaf = 0, weight = 0;
  };

  // The thresholds that are left of each feature at the node at hand, and which features have any.
  class Places {
   public:
    void start(const std::vector<ColumnValues>& thresholds) {
      leaves_ = 1;
      while (leaves_ < thresholds.size()) leaves_ *= 2;
      open_.assign(2 * leaves_, 0);
      begin_.assign(thresholds.size(), 0);
      end_.clear();
      for (size_t f = 0; f < thresholds.size(); ++f) {
        end_.push_back(static_cast<uint32_t>(thresholds[f].size()));
        open_[leaves_ + f] = end_[f] > 0 ? 1 : 0;
      }
      for (size_t i = leaves_; i-- > 1;) open_[i] = open_[2 * i] + open_[2 * i + 1];
    }
    uint32_t begin(size_t f) const { return begin_[f]; }
    uint32_t end(size_t f) const { return end_[f]; }
    uint32_t open(size_t node) const { return open_[node]; }
    size_t leaves() const { return leaves_; }
    void set(size_t f, uint32_t begin, uint32_t end) {
      const bool was = end_[f] > begin_[f], is = end > begin;
      begin_[f] = begin;
      end_[f] = end;
      if (was == is) return;
      for (size_t i = leaves_ + f; i > 0; i /= 2) open_[i] += is ? 1U : UINT32_MAX;
    }

   private:
    size_t leaves_ = 1;  // a power of two
    std::vector<uint32_t> begin_, end_, open_;
  };

  // A branch whose children are being coded.
  struct Open {
    uint32_t feature, begin, end, threshold;
    Direction direction;
    bool has_first;  // the true child has been coded
    Place place;     // of the branch
    bool first_is_leaf;
    size_t first_leaf;
  };

  // Bits ------------------------------------------------------------------------------------------------------------

  bool plain_bit(bool known) { return coder_.code(kOne / 2, known); }

  bool slot_bit(uint64_t key, bool known) {
    slots_.make_room(1);
    Bit& slot = slots_.at(key);
    const bool one =
        coder_.code(static_cast<uint32_t>(std::clamp<int32_t>(slot.p(), kLeastOfOne, kOne - kLeastOfOne)), known);
    slot.update(one);
    return one;
  }

  // v + 1 by its bit length, then its lower bits, of which the first three are predicted. `list` and `c` are contexts.
  uint64_t number(uint64_t list, uint64_t c, uint64_t known) {
    stop_if_cancelled(++steps_);
    require_argument(reads_ || known != UINT64_MAX, "the ensemble's numbers are too far apart");
    const unsigned wanted = bit_length(known + 1) - 1;
    unsigned length = 0;
    while (length < 63 && slot_bit(context({kNumber, list, c, length}), length < wanted)) ++length;
    uint64_t value = 1;
    for (unsigned i = length; i-- > 0;) {
      const bool bit = ((known + 1) >> i & 1) != 0;
      const bool is_high = length - i <= 3;
      value = 2 * value + (is_high ? slot_bit(context({kNumber, list, 64 + length, value}), bit) : plain_bit(bit));
    }
    return value - 1;
  }

  static uint64_t zigzag(uint64_t v) { return (v << 1) ^ (0 - (v >> 63)); }
  static uint64_t unzigzag(uint64_t v) { return (v >> 1) ^ (0 - (v & 1)); }

  uint64_t signed_number(uint64_t list, uint64_t c, uint64_t known) { return unzigzag(number(list, c, zigzag(known))); }

  // A number of things that all take bytes of the tensor.
  size_t count(uint64_t list, size_t known) {
    const uint64_t value = number(list, 0, known);
    require(value <= most_, "an ensemble has more parts than bytes");
    return static_cast<size_t>(value);
  }

  // The same of all lists together.
  void add_entries(size_t more) {
    entries_ += more;
    require(entries_ <= most_, "an ensemble has more parts than bytes");
  }

  // One bit by what the contexts have seen, which share the kind and the node.
  template <size_t N>
  bool mixed_bit(Mixer<N>& mixer, const std::array<uint64_t, N>& keys, bool known) {
    std::array<Bit*, N> slots;
    slots_.make_room(N);
    for (size_t i = 0; i < N; ++i) slots[i] = &slots_.at(keys[i]);
    return mixer.code(coder_, slots, kRate, known);
  }

  // One of `n` by the bits of its number, the highest first; those that `n` decides are not coded.
  template <size_t N>
  uint32_t index(uint64_t kind, size_t n, const std::array<uint64_t, N>& contexts, uint32_t known) {
    uint64_t node = 1, low = 0;
    for (uint64_t half = (uint64_t{1} << bit_length(n - 1)) / 2; half > 0; half /= 2) {
      bool one = false;
      if (low + half < n) {
        std::array<uint64_t, N> keys;
        for (size_t i = 0; i < N; ++i) keys[i] = context({kind, i, node, contexts[i]});
        one = mixed_bit(mixers<N>(kind, 0), keys, (known & half) != 0);
      }
      low += one ? half : 0;
      node = 2 * node + (one ? 1 : 0);
    }
    return static_cast<uint32_t>(low);
  }

  // Tables ----------------------------------------------------------------------------------------------------------

  void code_tables() {
    const size_t modes = count(1, forest_.modes_count());
    for (size_t i = 0; i < modes && !forest_.has_leaf_arrays; ++i) code_name(i);
    if (forest_.has_leaf_arrays) code_numbers(forest_.mode_numbers, modes);
    forest_.narrows = plain_bit(forest_.narrows);
    code_numbering(forest_.places);
    code_numbering(forest_.other_numbers);
    code_table(forest_.features, 0, 0);
    if (reads_) forest_.thresholds.resize(forest_.features.size());
    for (ColumnValues& own : forest_.thresholds) code_table(own, forest_.threshold_bits, 1);
    for (size_t side = 0; side < kSides; ++side)
      if (forest_.sides[side].is_present) code_table(forest_.sides[side].table, forest_.sides[side].float_bits, 2);
    code_patterns();
    code_table(forest_.weights.table, forest_.weights.float_bits, 3);
    if (!forest_.weights.table.empty()) common_ = code_common();
  }

  void code_name(size_t i) {
    const size_t length = count(2, reads_ ? 0 : forest_.mode_names[i].size());
    add_entries(length);
    std::string name(length, '\0');
    for (size_t at = 0; at < length; ++at) {
      const uint8_t known = reads_ ? 0 : static_cast<uint8_t>(forest_.mode_names[i][at]);
      unsigned byte = 0;
      for (unsigned bit = 8; bit-- > 0;) byte = 2 * byte + (plain_bit((known >> bit & 1) != 0) ? 1 : 0);
      name[at] = static_cast<char>(byte);
    }
    if (reads_) forest_.mode_names.push_back(name);
  }

  void code_numbers(ColumnValues& numbers, size_t n) {
    for (size_t i = 0; i < n; ++i) {
      const uint64_t value = number(3, 0, reads_ ? 0 : numbers[i]);
      if (reads_) numbers.push_back(value);
    }
  }

  void code_numbering(Numbering& numbering) {
    uint64_t known = static_cast<uint64_t>(numbering.traversal) + (numbering.is_corrected ? kTraversals : 0);
    known = number(6, 0, known) % (2 * kTraversals);
    numbering.traversal = static_cast<Traversal>(known % kTraversals);
    numbering.is_corrected = known >= kTraversals;
  }

  // Values that ascend. `list` tells tables apart.
  void code_table(ColumnValues& table, unsigned float_bits, uint64_t list) {
    const size_t size = count(8 + list, table.size());
    add_entries(size);
    if (reads_) table.resize(size);
    if (size == 0) return;
    const bool may_be_decimal = float_bits >= 32;
    const TableForm form = reads_ ? TableForm{} : form_of(table, float_bits);
    const uint64_t digits = may_be_decimal ? number(16 + list, 0, form.digits) % 24 : 0;
    if (digits != 0) return code_decimals(table, float_bits, static_cast<unsigned>(digits - 1), list);
    const auto shift = static_cast<unsigned>(float_bits != 0 ? number(20 + list, 0, form.shift) % float_bits : 0);
    uint64_t key = 0, length = 0;
    for (size_t i = 0; i < size; ++i) {
      const uint64_t wanted = reads_ ? 0 : sort_key(table[i], float_bits, shift);
      if (i == 0) {
        const uint64_t first = float_bits == 0 ? zigzag(wanted ^ kSign) : wanted;
        key = number(24 + list, 64, first);
        if (float_bits == 0) key = unzigzag(key) ^ kSign;
      } else {
        const uint64_t gap = number(24 + list, length, wanted - key - 1);
        length = bit_length(gap);
        key += gap + 1;
      }
      if (reads_) table[i] = value_of_key(key, float_bits, shift);
    }
  }

  // Values near m / 10^digits: m, ascending, and by how many floats they are off.
  void code_decimals(ColumnValues& table, unsigned float_bits, unsigned digits, uint64_t list) {
    uint64_t m = 0, length = 0;
    for (size_t i = 0; i < table.size(); ++i) {
      const uint64_t wanted = reads_ ? 0 : static_cast<uint64_t>(decimal_of(table[i], float_bits, digits));
      if (i == 0) {
        m = signed_number(28 + list, 64, wanted);
      } else {
        const uint64_t gap = number(28 + list, length, wanted - m - 1);
        length = bit_length(gap);
        m += gap + 1;
      }
      const uint64_t near = sort_key(decimal_bits(static_cast<int64_t>(m), digits, float_bits), float_bits);
      const uint64_t off = reads_ ? 0 : sort_key(table[i], float_bits) - near;
      const uint64_t key = near + signed_number(32 + list, 0, off);
      if (reads_) table[i] = value_of_key(key, float_bits);
    }
  }

  void code_patterns() {
    const size_t n = count(36, forest_.patterns.size());
    if (reads_) forest_.patterns.resize(n);
    for (ColumnValues& pattern : forest_.patterns) {
      const size_t size = forest_.has_leaf_arrays ? 1 : count(37, pattern.size());
      add_entries(size);
      if (reads_) pattern.resize(size);
      uint64_t before = UINT64_MAX;
      for (uint64_t& target : pattern) {
        target = before + 1 + signed_number(38, 0, target - before - 1);
        before = target;
      }
    }
  }

  // The weight that occurs most.
  uint32_t code_common() {
    uint32_t best = 0;
    if (!reads_) {
      std::vector<size_t> times(forest_.weights.table.size());
      for (const uint32_t i : forest_.weights.indices) ++times[i];
      best = static_cast<uint32_t>(std::max_element(times.begin(), times.end()) - times.begin());
    }
    return static_cast<uint32_t>(number(39, 0, best) % forest_.weights.table.size());
  }

  // Trees -----------------------------------------------------------------------------------------------------------

  void code_tree(Progress& at) {
    std::vector<Open> open;
    Place place;
    place.parent = forest_.features.size();
    while (true) {
      require(at.node < most_, "an ensemble has more parts than bytes");
      const bool is_leaf = code_is_leaf(at.node++, place);
      if (!is_leaf) {
        open.push_back(code_branch(at.branch++, place));
        place = enter(open.back());
        continue;
      }
      require(!open.empty() || !forest_.has_leaf_arrays, "a root is a leaf, where leaves have arrays of their own");
      const size_t leaf = at.leaf++;
      code_leaf(leaf, at.weight, place);
      bool leaf_is_first = true;
      while (!open.empty() && open.back().has_first) {
        Open& done = open.back();
        if (forest_.narrows) places_.set(done.feature, done.begin, done.end);
        open.pop_back();
        leaf_is_first = false;
      }
      if (open.empty()) return;
      open.back().has_first = true;
      open.back().first_is_leaf = leaf_is_first;
      open.back().first_leaf = leaf;
      place = enter(open.back());
    }
  }

  // The place of the child that comes next, with the thresholds that it has left.
  Place enter(const Open& branch) {
    const bool is_second = branch.has_first;
    uint32_t begin = branch.begin, end = branch.end;
    if (forest_.narrows && branch.direction != Direction::kNone) {
      const bool is_below = (branch.direction == Direction::kTrueBelow) != is_second;
      (is_below ? end : begin) = is_below ? branch.threshold : branch.threshold + 1;
      places_.set(branch.feature, begin, end);
    }
    Place place;
    place.depth = branch.place.depth + 1;
    place.side = is_second ? 2 : 1;
    place.parent = branch.feature;
    place.width = bit_length(end - begin);
    place.volume = branch.place.volume + log16(branch.end - branch.begin + 1) - log16(end - begin + 1);
    place.sibling = !is_second ? 0 : branch.first_is_leaf ? 1 : 2;
    if (place.sibling == 1) place.sibling_leaf = branch.first_leaf;
    return place;
  }

  bool code_is_leaf(size_t node, const Place& place) {
    bool is_leaf = true;
    if (!reads_ && forest_.is_leaf[node] == 0 && places_.open(1) == 0) throw Outside{};
    if (places_.open(1) > 0) {
      const uint64_t volume = std::min<uint64_t>(place.volume / 4, 255), depth = std::min<uint64_t>(place.depth, 63);
      const uint64_t near = 64 * place.sibling + place.width;
      const std::array<uint64_t, 4> keys{
          context({kIsLeaf, 0, depth, place.sibling}), context({kIsLeaf, 1, near, place.side}),
          context({kIsLeaf, 2, volume, place.sibling}), context({kIsLeaf, 3, place.parent, near, volume / 8})};
      is_leaf = mixed_bit(mixers<4>(kIsLeaf, place.sibling), keys, !reads_ && forest_.is_leaf[node] != 0);
    }
    if (reads_) forest_.is_leaf.push_back(is_leaf ? 1 : 0);
    return is_leaf;
  }

  Open code_branch(size_t branch, const Place& place) {
    stop_if_cancelled(branch);
    const uint32_t feature = code_feature(reads_ ? 0 : forest_.feature[branch], place);
    const std::array<uint64_t, 2> contexts{0, 1 + uint64_t{feature}};
    require(forest_.modes_count() > 0, "a branch has no mode");
    const uint32_t mode = index(kMode, forest_.modes_count(), contexts, reads_ ? 0 : forest_.modes[branch]);
    const uint32_t begin = places_.begin(feature), end = places_.end(feature);
    const uint32_t threshold = code_threshold(feature, begin, end, place, reads_ ? 0 : forest_.threshold[branch]);
    if (reads_) {
      forest_.feature.push_back(feature);
      forest_.modes.push_back(mode);
      forest_.threshold.push_back(threshold);
    }
    for (size_t side = 0; side < kBranchSides; ++side) code_side(side, branch, feature);
    return {feature, begin, end, threshold, forest_.direction(mode), false, place, false, 0};
  }

  // One that has thresholds left.
  uint32_t code_feature(uint32_t known, const Place& place) {
    if (!reads_ && places_.begin(known) == places_.end(known)) throw Outside{};
    size_t node = 1;
    const uint64_t depth = std::min<uint64_t>(place.depth, 15);
    for (size_t half = places_.leaves() / 2; half > 0; half /= 2) {
      const uint32_t zeros = places_.open(2 * node), ones = places_.open(2 * node + 1);
      bool one = zeros == 0;
      if (zeros > 0 && ones > 0) {
        const std::array<uint64_t, 3> keys{context({kFeature, 0, node}),
                                           context({kFeature, 1, node, place.parent, place.side}),
                                           context({kFeature, 2, node, depth})};
        one = mixed_with(ones, zeros + ones, mixers<4>(kFeature, 0), keys, (known & half) != 0);
      }
      node = 2 * node + (one ? 1 : 0);
    }
    return static_cast<uint32_t>(node - places_.leaves());
  }

  // One of those from `begin` to `end` (exclusive), by halves of all thresholds of the feature.
  uint32_t code_threshold(uint32_t feature, uint32_t begin, uint32_t end, const Place& place, uint32_t known) {
    if (!reads_ && (known < begin || known >= end)) throw Outside{};
    uint64_t node = 1, low = 0, step = 0;
    const uint64_t depth = std::min<uint64_t>(place.depth / 4, 7);
    const uint64_t all = forest_.thresholds[feature].size();
    for (uint64_t half = (uint64_t{1} << bit_length(all - 1)) / 2; half > 0; half /= 2) {
      const uint64_t middle = low + half, first = std::max<uint64_t>(begin, low),
                     last = std::min(end + uint64_t{0}, middle + half);
      bool one = middle <= first;
      if (!one && middle < last) {
        const uint64_t width = bit_length(last - first);
        const std::array<uint64_t, 3> keys{context({kThreshold, 0, node, feature}),
                                           context({kThreshold, 1, std::min<uint64_t>(step, 3), width}),
                                           context({kThreshold, 2, std::min<uint64_t>(step, 3), width, depth})};
        one = mixed_with(last - middle, last - first, mixers<4>(kThreshold, std::min<uint64_t>(step, 3)), keys,
                         (known & half) != 0);
        ++step;
      }
      low += one ? half : 0;
      node = 2 * node + (one ? 1 : 0);
    }
    return static_cast<uint32_t>(low);
  }

  // One bit by contexts and by how many of what is left have a one.
  bool mixed_with(uint64_t ones, uint64_t both, Mixer<4>& mixer, const std::array<uint64_t, 3>& keys, bool known) {
    slots_.make_room(keys.size());
    Bit prior = Bit::of(static_cast<uint16_t>(std::clamp<uint64_t>((ones << 16) / both, 16, kOne - 16)), 0);
    return mixer.code(coder_, {&prior, &slots_.at(keys[0]), &slots_.at(keys[1]), &slots_.at(keys[2])}, kRate, known);
  }

  void code_side(size_t side, size_t at, uint64_t feature) {
    Coded& column = forest_.sides[side];
    if (!column.is_present) return;
    require(!column.table.empty(), "a column has no values");
    uint64_t& last = last_sides_[side];
    const std::array<uint64_t, 2> contexts{last, feature};
    const uint32_t value = index(kSide + side, column.table.size(), contexts, reads_ ? 0 : column.indices[at]);
    last = 1 + uint64_t{value};
    if (reads_) column.indices.push_back(value);
  }

  void code_leaf(size_t leaf, size_t& weight, const Place& place) {
    stop_if_cancelled(leaf);
    for (size_t side = kBranchSides; side < kSides; ++side) code_side(side, leaf, 0);
    require(!forest_.patterns.empty(), "a column has no values");
    const std::array<uint64_t, 2> contexts{last_pattern_, place.side == 0 ? 1U : 0U};
    const uint32_t pattern = index(kPattern, forest_.patterns.size(), contexts, reads_ ? 0 : forest_.pattern[leaf]);
    last_pattern_ = 1 + uint64_t{pattern};
    if (reads_) forest_.pattern.push_back(pattern);
    first_weight_.push_back(weight);
    const size_t size = forest_.patterns[pattern].size();
    require(size <= most_ - weight, "an ensemble has more parts than bytes");
    require(size == 0 || !forest_.weights.table.empty(), "a column has no values");
    for (size_t i = 0; i < size; ++i) code_weight(weight, i, pattern, place);
    weight += size;
  }

  // Weight `i` of a leaf, of whose weights the first has the number `first`.
  void code_weight(size_t first, size_t i, uint64_t pattern, const Place& place) {
    Coded& weights = forest_.weights;
    const uint64_t none = weights.table.size();
    const auto before = [&](size_t distance) { return i >= distance ? weights.indices[first + i - distance] : none; };
    uint64_t beside = none;  // of the leaf that is the sibling
    if (place.sibling_leaf != SIZE_MAX) {
      const size_t sibling = first_weight_[place.sibling_leaf];
      if (sibling + i < first) beside = weights.indices[sibling + i];
    }
    uint64_t others = 0;
    for (size_t j = 0; j < i && others < 3; ++j) others += weights.indices[first + j] != common_ ? 1U : 0U;
    const std::array<uint64_t, 4> contexts{context({i, pattern, others}), context({i, pattern, before(1), before(2)}),
                                           context({i, pattern, beside, others}),
                                           context({i, place.parent, place.side, others})};
    const uint32_t known = reads_ ? 0 : weights.indices[first + i];
    uint32_t value = common_;
    std::array<uint64_t, 4> keys;
    for (size_t j = 0; j < 4; ++j) keys[j] = context({kIsCommon, j, contexts[j]});
    const bool may_differ = weights.table.size() > 1;
    if (may_differ && !mixed_bit(mixers<4>(kIsCommon, std::min<uint64_t>(others, 1)), keys, known == common_))
      value = index(kWeight, weights.table.size(), contexts, known);
    if (reads_) weights.indices.push_back(value);
  }

  void code_tree_id(size_t tree) {
    const uint64_t expected = tree == 0 ? 0 : forest_.tree_ids[tree - 1] + 1;
    const uint64_t id = expected + signed_number(40, 0, reads_ ? 0 : forest_.tree_ids[tree] - expected);
    if (reads_) forest_.tree_ids.push_back(id);
  }

  // By what they differ from what is expected: a false child follows the true one, others are as far off as those
  // before.
  void code_numbers_of(Numbering& numbering, uint64_t list, Counted counted, const ColumnValues& expected) {
    if (reads_) numbering.numbers = expected;
    if (!numbering.is_corrected) return;
    const std::vector<uint32_t> second = false_children(forest_);
    std::vector<uint64_t> of_true(second.size(), kNoNumber);  // by false child: the number of its sibling
    uint64_t off = 0;
    for (size_t node = 0, i = 0; node < second.size(); ++node) {
      if (!forest_.is_counted(node, counted)) continue;
      const bool has_sibling = of_true[node] != kNoNumber;
      const uint64_t near = has_sibling ? of_true[node] + 1 : expected[i] + off;
      const uint64_t number = near + signed_number(list, has_sibling ? 1 : 0, reads_ ? 0 : numbering.numbers[i] - near);
      if (reads_) numbering.numbers[i] = number;
      if (!has_sibling) off = number - expected[i];
      if (node > 0 && forest_.is_leaf[node - 1] == 0) of_true[second[node - 1]] = number;
      ++i;
    }
  }

  // Encoding --------------------------------------------------------------------------------------------------------

  struct TableForm {
    uint64_t digits = 0;  // 1 more than those behind the point, or 0
    uint64_t shift = 0;
  };

  // The number of floats that a value is off its decimal, or that there is none.
  static int64_t decimal_of(uint64_t value, unsigned float_bits, unsigned digits) {
    double number = 0;
    if (float_bits == 32) {
      float single = 0;
      std::memcpy(&single, &value, sizeof single);
      number = single;
    } else {
      std::memcpy(&number, &value, sizeof number);
    }
    for (unsigned i = 0; i < digits; ++i) number *= 10;
    return number > -kMostDecimal && number < kMostDecimal ? std::llround(number) : INT64_MAX;
  }

  // The form in which the numbers of a table are shortest.
  static TableForm form_of(const ColumnValues& table, unsigned float_bits) {
    TableForm best;
    if (float_bits == 0) return best;
    best.shift = float_bits - 1;
    for (const uint64_t value : table)
      while (best.shift > 0 && (value & ((uint64_t{1} << best.shift) - 1)) != 0) --best.shift;
    if (float_bits < 32) return best;
    const auto shift = static_cast<unsigned>(best.shift);
    uint64_t least = bit_length(sort_key(table[0], float_bits, shift));
    for (size_t i = 1; i < table.size(); ++i)
      least += bit_length(sort_key(table[i], float_bits, shift) - sort_key(table[i - 1], float_bits, shift));
    for (unsigned digits = 0; digits <= kMostDigits; ++digits) {
      const uint64_t bits = decimal_cost(table, float_bits, digits);
      if (bits >= least) continue;
      least = bits;
      best.digits = digits + 1;
    }
    return best;
  }

  static uint64_t decimal_cost(const ColumnValues& table, unsigned float_bits, unsigned digits) {
    uint64_t bits = 0;
    int64_t before = 0;
    for (size_t i = 0; i < table.size(); ++i) {
      const int64_t m = decimal_of(table[i], float_bits, digits);
      if (m == INT64_MAX || (i > 0 && m <= before)) return UINT64_MAX;
      const uint64_t off = sort_key(table[i], float_bits) - sort_key(decimal_bits(m, digits, float_bits), float_bits);
      if (zigzag(off) > 4) return UINT64_MAX;
      bits += bit_length(static_cast<uint64_t>(i > 0 ? m - before : std::abs(m))) + (off != 0 ? 1U : 0U);
      before = m;
    }
    return bits;
  }

  // Mixers by kind and what else tells them apart.
  template <size_t N>
  Mixer<N>& mixers(uint64_t kind, uint64_t selector) {
    std::vector<Mixer<N>>& all = std::get<std::vector<Mixer<N>>>(mixers_);
    if (all.empty()) all.assign(4 * (kSide + kSides), Mixer<N>(kOne * 12 / (10 * static_cast<int32_t>(N))));
    return all[4 * kind + selector];
  }

  static constexpr int64_t kRate = 200;
  static constexpr uint64_t kNoNumber = UINT64_MAX;
  static constexpr uint64_t kSign = uint64_t{1} << 63;
  static constexpr double kMostDecimal = 9e15;
  static constexpr unsigned kMostDigits = 9;

  Coder& coder_;
  Forest& forest_;
  const bool reads_;
  const size_t most_;
  SlotTable slots_;
  std::tuple<std::vector<Mixer<2>>, std::vector<Mixer<4>>> mixers_;
  Places places_;
  size_t entries_ = 0;  // of tables so far
  size_t steps_ = 0;
  uint32_t common_ = 0;
  uint64_t last_sides_[kSides] = {};
  uint64_t last_pattern_ = 0;
  std::vector<size_t> first_weight_;  // of each leaf
};

Bytes encode_forest(Forest& forest) {
  for (const bool narrows : {true, false}) {
    try {
      forest.narrows = narrows;
      BinaryEncoder coder;
      ForestModel<BinaryEncoder>(coder, forest, false, SIZE_MAX).run();
      return coder.finish();
    } catch (const Outside&) {
    }
  }
  throw std::logic_error("thresholds lie outside of their table");
}

// What columns tell of a forest before it is read.
void prepare(Forest& forest, const TreeColumns& columns) {
  forest.has_leaf_arrays = columns.has_column(Role::kRoots);
  forest.threshold_bits = columns.float_bits(Role::kThresholds);
  forest.weights.is_present = true;
  forest.weights.float_bits = columns.float_bits(Role::kWeights);
  const Role roles[kSides] = {Role::kTracks,  Role::kHitrates, Role::kFeatures, Role::kThresholds,
                              Role::kTrueIds, Role::kFalseIds, Role::kTracks,   Role::kHitrates};
  for (size_t side = 0; side < (forest.has_leaf_arrays ? kBranchSides : kSides); ++side) {
    forest.sides[side].is_present = columns.has_column(roles[side]);
    forest.sides[side].float_bits = columns.float_bits(roles[side]);
  }
}

Bytes decode_bytes(Span chunk, size_t count) {
  ByteReader reader(chunk);
  const uint64_t size = reader.varint();
  require(size <= count, "an ensemble has more parts than bytes");
  const Span packed = reader.take(reader.varint());
  Bytes list(static_cast<size_t>(size));
  if (size > 0) text_coder().decode(packed, 0, list.size(), {}, list.data());
  TreeColumns columns = read_attribute_list({list.data(), list.size()});
  Forest forest;
  prepare(forest, columns);
  BinaryDecoder coder(reader.rest());
  ForestModel<BinaryDecoder>(coder, forest, true, count).run();
  coder.finish();
  fill_columns(forest, columns);
  return join_attributes(columns, count);
}

class Trees final : public Coder {
 public:
  Trees() : Coder({"trees", 9, Stores::kBytes, Layout::kOneChunk, false, 50'000, 0}) {}

  void decode(Span chunk, uint64_t /*first*/, size_t count, const Header& /*header*/, uint8_t* out) const override {
    const Bytes bytes = decode_bytes(chunk, count);
    require(bytes.size() == count, "its attributes are shorter than the tensor");
    std::memcpy(out, bytes.data(), count);
  }

  Bytes encode(const uint8_t* elements, size_t count, const Header& /*header*/) const override {
    const TreeColumns columns = split({elements, count});
    Forest forest = forest_of(columns);
    check_comes_back(forest, columns, {elements, count});
    const Bytes list = write_attribute_list(columns);
    const Bytes text = text_coder().encode(list.data(), list.size(), {});
    Bytes out;
    append_varint(out, list.size());
    append_varint(out, text.size());
    append(out, text.data(), text.size());
    const Bytes coded = encode_forest(forest);
    append(out, coded.data(), coded.size());
    return out;
  }

  static TreeColumns split(Span bytes) {
    try {
      return split_attributes(bytes);
    } catch (const Failure&) {
      throw Failure(DCC_BAD_ARGUMENT, "the tensor does not hold the attributes of a tree ensemble");
    }
  }

  static void check_comes_back(const Forest& forest, const TreeColumns& columns, Span elements) {
    TreeColumns again = columns;
    for (ColumnValues& values : again.values) values.clear();
    fill_columns(forest, again);
    const Bytes bytes = join_attributes(again, elements.size);
    require_argument(bytes.size() == elements.size && std::equal(bytes.begin(), bytes.end(), elements.data),
                     "the ensemble's arrays hold more than trees tell");
  }

  // It is for what is known to be an ensemble.
  bool is_worth_trying(const Header& /*header*/) const override { return false; }
};

}  // namespace

const Coder& trees_coder() {
  static const Trees coder;
  return coder;
}

}  // namespace dcc
