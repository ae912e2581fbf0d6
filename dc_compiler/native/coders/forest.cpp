// forest.cpp: forest.h.
#include "coders/forest.h"

#include <algorithm>
#include <deque>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/cancel.h"
#include "coders/tree_values.h"

namespace dcc {
namespace {

using Role = ColumnRole;

constexpr std::string_view kLeafMode = "LEAF";

// Columns whose values a side has, of branches and of leaves.
constexpr Role kSideRoles[kSides] = {Role::kTracks,  Role::kHitrates, Role::kFeatures, Role::kThresholds,
                                     Role::kTrueIds, Role::kFalseIds, Role::kTracks,   Role::kHitrates};

// What is in the order of the arrays, as the forest's nodes find it.
struct Found {
  Forest forest;
  std::vector<size_t> place;  // in the arrays of nodes; of a leaf in those of leaves, where it has such
};

void require_size(const TreeColumns& columns, Role role, size_t size) {
  require_argument(columns.has_column(role) && columns.column(role).size() == size,
                   "the ensemble's arrays are missing or differ in length");
}

void require_optional(const TreeColumns& columns, Role role, size_t size) {
  if (columns.has_column(role)) require_size(columns, role, size);
}

[[noreturn]] void no_trees() {
  throw Failure(DCC_BAD_ARGUMENT, "the ensemble's nodes are not trees, each with every node once");
}

// Follows the branches from a root, true ones first. `children` gives both of a branch; a node is its place, and with
// `kLeaf` added a leaf. Every node may be reached but once.
constexpr size_t kLeaf = SIZE_MAX / 4 + 1;

template <typename Children>
void add_tree(Found& found, size_t root, const Children& children, std::vector<uint8_t>& seen_branch,
              std::vector<uint8_t>& seen_leaf) {
  found.forest.roots.push_back(found.forest.is_leaf.size());
  std::vector<size_t> stack{root};
  while (!stack.empty()) {
    const size_t node = stack.back();
    stack.pop_back();
    const bool is_leaf = (node & kLeaf) != 0;
    const size_t place = node & ~kLeaf;
    std::vector<uint8_t>& seen = is_leaf ? seen_leaf : seen_branch;
    if (place >= seen.size() || seen[place] != 0) no_trees();
    seen[place] = 1;
    found.forest.is_leaf.push_back(is_leaf ? 1 : 0);
    found.place.push_back(place);
    if (is_leaf) continue;
    const std::pair<size_t, size_t> both = children(place);
    stack.push_back(both.second);
    stack.push_back(both.first);
  }
}

bool all(const std::vector<uint8_t>& seen) { return std::find(seen.begin(), seen.end(), 0) == seen.end(); }

// Trees whose leaves are nodes, too: one tree after another, which nodes are named by number within.
Found find_trees(const TreeColumns& columns) {
  const ColumnValues &trees = columns.column(Role::kTreeIds), &ids = columns.column(Role::kNodeIds);
  const ColumnValues &yes = columns.column(Role::kTrueIds), &no = columns.column(Role::kFalseIds);
  const ColumnValues& modes = columns.column(Role::kModes);
  const size_t nodes = ids.size();
  for (const Role role :
       {Role::kTreeIds, Role::kFeatures, Role::kModes, Role::kThresholds, Role::kTrueIds, Role::kFalseIds})
    require_size(columns, role, nodes);
  require_argument(columns.kinds[static_cast<size_t>(Role::kModes)] == ColumnKind::kStrings, "modes are no strings");
  const auto leaf_mode = static_cast<uint64_t>(std::find(columns.strings.begin(), columns.strings.end(), kLeafMode) -
                                               columns.strings.begin());
  Found found;
  std::unordered_set<uint64_t> numbers;
  std::vector<uint8_t> seen(nodes), reached(nodes);
  for (size_t first = 0, last = 0; first < nodes; first = last) {
    std::unordered_map<uint64_t, size_t> place;
    for (last = first; last < nodes && trees[last] == trees[first]; ++last)
      if (!place.emplace(ids[last], last).second) no_trees();
    if (!numbers.insert(trees[first]).second) no_trees();
    const auto place_of = [&](uint64_t id) {
      const auto at = place.find(id);
      if (at == place.end()) no_trees();
      return at->second;
    };
    const auto node = [&](size_t at) { return modes[at] == leaf_mode ? at | kLeaf : at; };
    for (size_t at = first; at < last; ++at) {
      if (modes[at] == leaf_mode) continue;
      reached[place_of(yes[at])] = reached[place_of(no[at])] = 1;
    }
    const auto root = std::find(reached.begin() + static_cast<std::ptrdiff_t>(first),
                                reached.begin() + static_cast<std::ptrdiff_t>(last), 0);
    const auto at = static_cast<size_t>(root - reached.begin());
    if (at == last) no_trees();
    const auto children = [&](size_t branch) {
      return std::pair(node(place_of(yes[branch])), node(place_of(no[branch])));
    };
    add_tree(found, node(at), children, seen, seen);
    if (found.place.size() != last) no_trees();
    found.forest.tree_ids.push_back(trees[first]);
  }
  return found;
}

// Trees whose leaves have arrays of their own.
Found find_trees_apart(const TreeColumns& columns) {
  const ColumnValues &yes = columns.column(Role::kTrueIds), &no = columns.column(Role::kFalseIds);
  const ColumnValues &yes_leaf = columns.column(Role::kTrueLeaves), &no_leaf = columns.column(Role::kFalseLeaves);
  const size_t nodes = columns.column(Role::kThresholds).size(), leaves = columns.column(Role::kWeights).size();
  for (const Role role :
       {Role::kFeatures, Role::kModes, Role::kTrueIds, Role::kFalseIds, Role::kTrueLeaves, Role::kFalseLeaves})
    require_size(columns, role, nodes);
  require_size(columns, Role::kTargets, leaves);
  for (size_t at = 0; at < nodes; ++at)
    if (yes_leaf[at] > 1 || no_leaf[at] > 1 || yes[at] >= kLeaf || no[at] >= kLeaf) no_trees();
  Found found;
  found.forest.has_leaf_arrays = true;
  std::vector<uint8_t> branches(nodes), ends(leaves);
  const auto children = [&](size_t at) {
    return std::pair(static_cast<size_t>(yes[at]) | (yes_leaf[at] != 0 ? kLeaf : 0),
                     static_cast<size_t>(no[at]) | (no_leaf[at] != 0 ? kLeaf : 0));
  };
  for (const uint64_t root : columns.column(Role::kRoots)) {
    if (root >= nodes) no_trees();
    add_tree(found, static_cast<size_t>(root), children, branches, ends);
  }
  if (!all(branches) || !all(ends)) no_trees();
  return found;
}

Coded coded(const ColumnValues& values, unsigned float_bits) {
  Coded result;
  result.is_present = true;
  result.float_bits = float_bits;
  result.table = values;
  sort_values(result.table, float_bits);
  std::unordered_map<uint64_t, uint32_t> index;
  for (size_t i = 0; i < result.table.size(); ++i) index.emplace(result.table[i], static_cast<uint32_t>(i));
  result.indices.reserve(values.size());
  for (const uint64_t value : values) result.indices.push_back(index.at(value));
  return result;
}

// The nodes of a tree, first to last (exclusive), in another order.
std::vector<uint32_t> traverse(Traversal traversal, const Forest& forest, const std::vector<uint32_t>& false_child,
                               size_t first, size_t last) {
  std::vector<uint32_t> order;
  std::deque<uint32_t> waiting{static_cast<uint32_t>(first)};
  while (order.size() < last - first) {
    const bool is_queue = traversal == Traversal::kBreadthFirst;
    const uint32_t node = is_queue ? waiting.front() : waiting.back();
    if (is_queue)
      waiting.pop_front();
    else
      waiting.pop_back();
    order.push_back(node);
    if (forest.is_leaf[node] != 0) continue;
    const bool is_false_last = traversal == Traversal::kFalseFirst || is_queue;  // of the two that are put in
    waiting.push_back(is_false_last ? node + 1 : false_child[node]);
    waiting.push_back(is_false_last ? false_child[node] : node + 1);
  }
  return order;
}

size_t end_of_tree(const Forest& forest, size_t tree) {
  return tree + 1 < forest.roots.size() ? forest.roots[tree + 1] : forest.is_leaf.size();
}

// The rank of each counted node in a traversal, of all trees together or of its own.
ColumnValues ranks(const Forest& forest, Traversal traversal, Counted counted, bool is_of_tree) {
  const std::vector<uint32_t> second = false_children(forest);
  ColumnValues rank(forest.is_leaf.size()), result;
  uint64_t next = 0;
  for (size_t tree = 0; tree < forest.roots.size(); ++tree) {
    if (is_of_tree) next = 0;
    for (const uint32_t node : traverse(traversal, forest, second, forest.roots[tree], end_of_tree(forest, tree)))
      if (forest.is_counted(node, counted)) rank[node] = next++;
  }
  for (size_t node = 0; node < rank.size(); ++node)
    if (forest.is_counted(node, counted)) result.push_back(rank[node]);
  return result;
}

// The traversal that most numbers follow.
template <typename Expected>
Numbering numbering_of(ColumnValues numbers, const Expected& expected) {
  Numbering best;
  size_t least = SIZE_MAX;
  for (uint64_t t = 0; t < kTraversals && least != 0; ++t) {
    const ColumnValues wanted = expected(static_cast<Traversal>(t));
    size_t differ = 0;
    for (size_t i = 0; i < numbers.size(); ++i) differ += numbers[i] != wanted[i] ? 1U : 0U;
    if (differ >= least) continue;
    least = differ;
    best.traversal = static_cast<Traversal>(t);
    best.is_corrected = differ != 0;
  }
  best.numbers = std::move(numbers);
  return best;
}

// Chooses how places and the other numbers are coded.
void set_numbers(Forest& forest, ColumnValues places, ColumnValues others) {
  forest.places =
      numbering_of(std::move(places), [&](Traversal traversal) { return expected_places(forest, traversal); });
  forest.other_numbers =
      numbering_of(std::move(others), [&](Traversal traversal) { return expected_others(forest, traversal); });
}

// Places among as many as there are numbers.
void require_places(const ColumnValues& places) {
  std::vector<uint8_t> seen(places.size());
  for (const uint64_t place : places) {
    require(place < seen.size() && seen[static_cast<size_t>(place)] == 0, "two nodes of an ensemble have one place");
    seen[static_cast<size_t>(place)] = 1;
  }
}

// Values of the places of branches or leaves, in the order of the forest.
ColumnValues values_at(const Forest& forest, const ColumnValues& column, const std::vector<size_t>& place,
                       bool leaves) {
  ColumnValues values;
  for (size_t node = 0; node < place.size(); ++node)
    if ((forest.is_leaf[node] != 0) == leaves) values.push_back(column[place[node]]);
  return values;
}

void add_modes(Forest& forest, const TreeColumns& columns, const std::vector<size_t>& place) {
  Coded modes = coded(values_at(forest, columns.column(Role::kModes), place, false), 0);
  forest.modes = std::move(modes.indices);
  forest.mode_numbers = std::move(modes.table);
  if (forest.has_leaf_arrays) return;
  for (const uint64_t name : forest.mode_numbers)
    forest.mode_names.push_back(columns.strings[static_cast<size_t>(name)]);
}

void add_thresholds(Forest& forest, const TreeColumns& columns, const std::vector<size_t>& place) {
  Coded features = coded(values_at(forest, columns.column(Role::kFeatures), place, false), 0);
  forest.threshold_bits = columns.float_bits(Role::kThresholds);
  const ColumnValues values = values_at(forest, columns.column(Role::kThresholds), place, false);
  std::vector<ColumnValues> of_feature(features.table.size());
  for (size_t i = 0; i < values.size(); ++i) of_feature[features.indices[i]].push_back(values[i]);
  std::vector<Coded> tables;
  for (const ColumnValues& own : of_feature) tables.push_back(coded(own, forest.threshold_bits));
  std::vector<size_t> next(tables.size());
  for (const uint32_t feature : features.indices) forest.threshold.push_back(tables[feature].indices[next[feature]++]);
  for (Coded& table : tables) forest.thresholds.push_back(std::move(table.table));
  forest.features = std::move(features.table);
  forest.feature = std::move(features.indices);
}

// Weights that name their leaf: those of a leaf one after another, leaves in the order of the arrays.
void add_weights(Forest& forest, const TreeColumns& columns, const std::vector<size_t>& place) {
  const ColumnValues &trees = columns.column(Role::kTreeIds), &ids = columns.column(Role::kNodeIds);
  const ColumnValues &leaf_trees = columns.column(Role::kLeafTreeIds), &leaf_ids = columns.column(Role::kLeafNodeIds);
  const ColumnValues &targets = columns.column(Role::kTargets), &weights = columns.column(Role::kWeights);
  for (const Role role : {Role::kLeafTreeIds, Role::kLeafNodeIds, Role::kTargets})
    require_size(columns, role, weights.size());
  std::vector<size_t> node_at(place.size());
  for (size_t node = 0; node < place.size(); ++node) node_at[place[node]] = node;
  std::vector<std::pair<size_t, size_t>> range(place.size());  // of the weights, by node
  size_t next = 0;
  for (size_t at = 0; at < place.size(); ++at) {
    const size_t first = next;
    while (next < weights.size() && leaf_trees[next] == trees[at] && leaf_ids[next] == ids[at]) ++next;
    range[node_at[at]] = {first, next};
    require_argument(next == first || forest.is_leaf[node_at[at]] != 0, "a branch of the ensemble has a weight");
  }
  require_argument(next == weights.size(), "the ensemble's weights are in another order than its leaves");
  std::map<ColumnValues, uint32_t> patterns;
  ColumnValues in_order;
  for (size_t node = 0; node < place.size(); ++node) {
    if (forest.is_leaf[node] == 0) continue;
    const auto [first, last] = range[node];
    const ColumnValues own(targets.begin() + static_cast<std::ptrdiff_t>(first),
                           targets.begin() + static_cast<std::ptrdiff_t>(last));
    const auto [at, is_new] = patterns.emplace(own, static_cast<uint32_t>(patterns.size()));
    if (is_new) forest.patterns.push_back(own);
    forest.pattern.push_back(at->second);
    in_order.insert(in_order.end(), weights.begin() + static_cast<std::ptrdiff_t>(first),
                    weights.begin() + static_cast<std::ptrdiff_t>(last));
  }
  forest.weights = coded(in_order, columns.float_bits(Role::kWeights));
  ColumnValues own_ids;
  for (const size_t at : place) own_ids.push_back(ids[at]);
  set_numbers(forest, {place.begin(), place.end()}, std::move(own_ids));
}

// Leaves with arrays of their own have a target and a weight each.
void add_leaf_arrays(Forest& forest, const TreeColumns& columns, const std::vector<size_t>& place) {
  std::map<uint64_t, uint32_t> patterns;
  for (const uint64_t target : values_at(forest, columns.column(Role::kTargets), place, true)) {
    const auto [at, is_new] = patterns.emplace(target, static_cast<uint32_t>(patterns.size()));
    if (is_new) forest.patterns.push_back({target});
    forest.pattern.push_back(at->second);
  }
  forest.weights =
      coded(values_at(forest, columns.column(Role::kWeights), place, true), columns.float_bits(Role::kWeights));
  ColumnValues branches, leaves;
  for (size_t node = 0; node < place.size(); ++node)
    (forest.is_leaf[node] != 0 ? leaves : branches).push_back(place[node]);
  set_numbers(forest, std::move(branches), std::move(leaves));
}

// Sets the values of a column, which is as long as `places`' arrays.
class Filler {
 public:
  explicit Filler(TreeColumns& columns) : columns_(columns) {}
  void resize(Role role, size_t size) { columns_.column(role).assign(size, 0); }
  void set(Role role, uint64_t place, uint64_t value) { columns_.column(role)[static_cast<size_t>(place)] = value; }

 private:
  TreeColumns& columns_;
};

void require_different(ColumnValues numbers) {
  std::sort(numbers.begin(), numbers.end());
  require(std::adjacent_find(numbers.begin(), numbers.end()) == numbers.end(),
          "two of an ensemble's parts have one number");
}

// Numbers say which node is whose child, so each means one node.
void require_numbers(const Forest& forest, const ColumnValues& ids) {
  require_different(forest.tree_ids);
  const auto at = [&](size_t node) { return ids.begin() + static_cast<std::ptrdiff_t>(node); };
  for (size_t tree = 0; tree < forest.roots.size(); ++tree)
    require_different({at(forest.roots[tree]), at(end_of_tree(forest, tree))});
}

void fill_nodes(const Forest& forest, TreeColumns& columns) {
  const size_t nodes = forest.is_leaf.size();
  const ColumnValues &places = forest.places.numbers, &ids = forest.other_numbers.numbers;
  require_places(places);
  require_numbers(forest, ids);
  Filler out(columns);
  for (const Role role : {Role::kTreeIds, Role::kNodeIds, Role::kFeatures, Role::kModes, Role::kThresholds,
                          Role::kTrueIds, Role::kFalseIds, Role::kHitrates, Role::kTracks})
    out.resize(role, nodes);
  columns.strings = forest.mode_names;
  columns.strings.emplace_back(kLeafMode);
  const std::vector<uint32_t> second = false_children(forest);
  std::vector<std::pair<size_t, size_t>> weights(nodes);  // by place: the first of a leaf's, and its pattern
  size_t tree = 0, branch = 0, leaf = 0, weight = 0;
  for (size_t node = 0; node < nodes; ++node) {
    if (tree < forest.roots.size() && forest.roots[tree] == node) ++tree;
    const uint64_t at = places[node];
    const bool is_leaf = forest.is_leaf[node] != 0;
    out.set(Role::kTreeIds, at, forest.tree_ids[tree - 1]);
    out.set(Role::kNodeIds, at, ids[node]);
    const size_t index = is_leaf ? leaf : branch;
    for (size_t side = is_leaf ? kBranchSides : 0; side < (is_leaf ? kSides : kBranchSides); ++side) {
      const Coded& column = forest.sides[side];
      if (column.is_present) out.set(kSideRoles[side], at, column.table[column.indices[index]]);
    }
    if (is_leaf) {
      out.set(Role::kModes, at, forest.mode_names.size());
      weights[static_cast<size_t>(at)] = {weight, forest.pattern[leaf]};
      weight += forest.patterns[forest.pattern[leaf++]].size();
      continue;
    }
    const uint32_t feature = forest.feature[branch];
    out.set(Role::kModes, at, forest.modes[branch]);
    out.set(Role::kFeatures, at, forest.features[feature]);
    out.set(Role::kThresholds, at, forest.thresholds[feature][forest.threshold[branch++]]);
    out.set(Role::kTrueIds, at, ids[node + 1]);
    out.set(Role::kFalseIds, at, ids[second[node]]);
  }
  for (size_t at = 0; at < nodes; ++at) {
    if (columns.column(Role::kModes)[at] != forest.mode_names.size()) continue;
    const ColumnValues& targets = forest.patterns[weights[at].second];
    for (size_t i = 0; i < targets.size(); ++i) {
      columns.column(Role::kLeafTreeIds).push_back(columns.column(Role::kTreeIds)[at]);
      columns.column(Role::kLeafNodeIds).push_back(columns.column(Role::kNodeIds)[at]);
      columns.column(Role::kTargets).push_back(targets[i]);
      columns.column(Role::kWeights).push_back(forest.weights.table[forest.weights.indices[weights[at].first + i]]);
    }
  }
}

void fill_apart(const Forest& forest, TreeColumns& columns) {
  const size_t nodes = forest.is_leaf.size(), branches = forest.modes.size(), leaves = nodes - branches;
  const ColumnValues &branch_places = forest.places.numbers, &leaf_places = forest.other_numbers.numbers;
  require_places(branch_places);
  require_places(leaf_places);
  Filler out(columns);
  for (const Role role : {Role::kFeatures, Role::kModes, Role::kThresholds, Role::kTrueIds, Role::kFalseIds,
                          Role::kTrueLeaves, Role::kFalseLeaves, Role::kHitrates, Role::kTracks})
    out.resize(role, branches);
  out.resize(Role::kTargets, leaves);
  out.resize(Role::kWeights, leaves);
  ColumnValues place(nodes);
  for (size_t node = 0, branch = 0, leaf = 0; node < nodes; ++node)
    place[node] = forest.is_leaf[node] != 0 ? leaf_places[leaf++] : branch_places[branch++];
  for (const size_t root : forest.roots) columns.column(Role::kRoots).push_back(place[root]);
  const std::vector<uint32_t> second = false_children(forest);
  for (size_t node = 0, branch = 0, leaf = 0; node < nodes; ++node) {
    const uint64_t at = place[node];
    if (forest.is_leaf[node] != 0) {
      out.set(Role::kTargets, at, forest.patterns[forest.pattern[leaf]][0]);
      out.set(Role::kWeights, at, forest.weights.table[forest.weights.indices[leaf++]]);
      continue;
    }
    for (size_t side = 0; side < kBranchSides; ++side) {
      const Coded& column = forest.sides[side];
      if (column.is_present) out.set(kSideRoles[side], at, column.table[column.indices[branch]]);
    }
    const uint32_t feature = forest.feature[branch];
    out.set(Role::kModes, at, forest.mode_numbers[forest.modes[branch]]);
    out.set(Role::kFeatures, at, forest.features[feature]);
    out.set(Role::kThresholds, at, forest.thresholds[feature][forest.threshold[branch++]]);
    out.set(Role::kTrueIds, at, place[node + 1]);
    out.set(Role::kFalseIds, at, place[second[node]]);
    out.set(Role::kTrueLeaves, at, forest.is_leaf[node + 1]);
    out.set(Role::kFalseLeaves, at, forest.is_leaf[second[node]]);
  }
}

}  // namespace

Direction Forest::direction(uint32_t mode) const {
  if (has_leaf_arrays) {
    const uint64_t number = mode_numbers[mode];
    return number < 2 ? Direction::kTrueBelow : number < 4 ? Direction::kTrueAbove : Direction::kNone;
  }
  const std::string& name = mode_names[mode];
  if (name == "BRANCH_LEQ" || name == "BRANCH_LT") return Direction::kTrueBelow;
  if (name == "BRANCH_GTE" || name == "BRANCH_GT") return Direction::kTrueAbove;
  return Direction::kNone;
}

std::vector<uint32_t> false_children(const Forest& forest) {
  std::vector<uint32_t> second(forest.is_leaf.size()), open;
  for (size_t node = 0; node < forest.is_leaf.size(); ++node) {
    if (forest.is_leaf[node] == 0) {
      open.push_back(static_cast<uint32_t>(node));
    } else if (!open.empty()) {  // what comes next is the second child of the last branch that has but one
      second[open.back()] = static_cast<uint32_t>(node + 1);
      open.pop_back();
    }
  }
  return second;
}

// Places of nodes are counted from the first tree on, as are those of leaves with arrays of their own; a tree has its
// own node ids.
ColumnValues expected_places(const Forest& forest, Traversal traversal) {
  return ranks(forest, traversal, forest.counted_places(), false);
}

ColumnValues expected_others(const Forest& forest, Traversal traversal) {
  if (forest.has_leaf_arrays || traversal != Traversal::kAsPlaced)
    return ranks(forest, traversal, forest.counted_others(), !forest.has_leaf_arrays);
  ColumnValues result = forest.places.numbers;
  for (size_t tree = 0; tree < forest.roots.size(); ++tree)
    for (size_t node = forest.roots[tree]; node < end_of_tree(forest, tree); ++node) result[node] -= forest.roots[tree];
  return result;
}

Forest forest_of(const TreeColumns& columns) {
  const bool is_apart = columns.has_column(Role::kRoots);
  Found found = is_apart ? find_trees_apart(columns) : find_trees(columns);
  Forest& forest = found.forest;
  require_optional(columns, Role::kTracks, columns.column(Role::kModes).size());
  require_optional(columns, Role::kHitrates, columns.column(Role::kModes).size());
  add_modes(forest, columns, found.place);
  add_thresholds(forest, columns, found.place);
  for (size_t side = 0; side < (is_apart ? kBranchSides : kSides); ++side) {
    const Role role = kSideRoles[side];
    if (!columns.has_column(role)) continue;
    const ColumnValues values = values_at(forest, columns.column(role), found.place, side >= kBranchSides);
    forest.sides[side] = coded(values, columns.float_bits(role));
  }
  if (is_apart)
    add_leaf_arrays(forest, columns, found.place);
  else
    add_weights(forest, columns, found.place);
  return std::move(found.forest);
}

void fill_columns(const Forest& forest, TreeColumns& columns) {
  if (forest.has_leaf_arrays)
    fill_apart(forest, columns);
  else
    fill_nodes(forest, columns);
}

}  // namespace dcc
