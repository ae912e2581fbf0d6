// forest.h: trees with what belongs to each node, in one order whatever the order of the arrays, and the columns that
// they are stored in (FORMAT.md, section 8.3).
#ifndef DCC_FOREST_H_
#define DCC_FOREST_H_

#include <string>
#include <vector>

#include "coders/tree_columns.h"

namespace dcc {

// Orders in which nodes of a tree are passed; the last is that of their places.
enum class Traversal : uint8_t { kTrueFirst, kFalseFirst, kBreadthFirst, kAsPlaced };
constexpr uint64_t kTraversals = 4;

// Numbers that nodes have, and the traversal that most of them follow.
struct Numbering {
  Traversal traversal = Traversal::kTrueFirst;
  bool is_corrected = false;  // whether any differs from it
  ColumnValues numbers;       // of the nodes that are counted
};

// Which nodes have a number: all; or, where leaves have arrays of their own, one kind of them.
enum class Counted : uint8_t { kNodes, kBranches, kLeaves };

// What values a column takes, ascending, and which each node has.
struct Coded {
  bool is_present = false;
  unsigned float_bits = 0;  // of an element that is a float
  ColumnValues table;
  std::vector<uint32_t> indices;
};

// Which thresholds are left in a node's branches: those below and above its own.
enum class Direction : uint8_t { kNone, kTrueBelow, kTrueAbove };

// Columns of one value a node that mean little: of branches, then of leaves.
enum Side : uint8_t {
  kTracks,
  kHitrate,
  kLeafFeature,
  kLeafThreshold,
  kLeafTrueId,
  kLeafFalseId,
  kLeafTracks,
  kLeafHitrate,
};
constexpr size_t kSides = 8;
constexpr size_t kBranchSides = 2;

// Nodes are in the order kTrueFirst, one tree after another; branches and leaves are counted apart.
struct Forest {
  bool has_leaf_arrays = false;  // as TreeEnsemble of ai.onnx.ml 5
  bool narrows = false;          // no branch has a threshold that no value can reach
  std::vector<size_t> roots;     // first nodes of trees
  std::vector<uint64_t> tree_ids;
  std::vector<uint8_t> is_leaf;

  std::vector<std::string> mode_names;  // or numbers, where they are such
  ColumnValues mode_numbers;
  std::vector<uint32_t> modes;  // of branches

  ColumnValues features;  // that occur
  std::vector<uint32_t> feature;
  unsigned threshold_bits = 0;
  std::vector<ColumnValues> thresholds;  // of each feature
  std::vector<uint32_t> threshold;

  Coded sides[kSides];
  std::vector<ColumnValues> patterns;  // the targets of a leaf
  std::vector<uint32_t> pattern;       // of leaves
  Coded weights;                       // of the targets of all leaves

  Numbering places;         // in the arrays; of branches, where leaves have their own
  Numbering other_numbers;  // node ids, or places of leaves
  Counted counted_places() const { return has_leaf_arrays ? Counted::kBranches : Counted::kNodes; }
  Counted counted_others() const { return has_leaf_arrays ? Counted::kLeaves : Counted::kNodes; }
  bool is_counted(size_t node, Counted counted) const {
    return counted == Counted::kNodes || (is_leaf[node] != 0) == (counted == Counted::kLeaves);
  }

  size_t modes_count() const { return has_leaf_arrays ? mode_numbers.size() : mode_names.size(); }
  Direction direction(uint32_t mode) const;
};

// The numbers that places, or the others, have by a traversal.
ColumnValues expected_places(const Forest& forest, Traversal traversal);
ColumnValues expected_others(const Forest& forest, Traversal traversal);

// The second child of each branch.
std::vector<uint32_t> false_children(const Forest& forest);

// Throws Failure with what the columns have that no forest has.
Forest forest_of(const TreeColumns& columns);

// Fills the columns that there are. Throws Failure where nodes would have one place or number.
void fill_columns(const Forest& forest, TreeColumns& columns);

}  // namespace dcc
#endif  // DCC_FOREST_H_
