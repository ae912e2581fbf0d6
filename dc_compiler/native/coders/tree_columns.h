// tree_columns.h: the attributes of a tree ensemble's node, as columns of numbers and what lies around them (FORMAT.md,
// section 8.3).
#ifndef DCC_TREE_COLUMNS_H_
#define DCC_TREE_COLUMNS_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/byte_io.h"

namespace dcc {

// How the elements of a column are written in an AttributeProto, or in the tensor within it.
enum class ColumnKind : uint8_t {
  kNone,  // an attribute that stays as it is
  kInts,
  kFloats,
  kStrings,
  kRaw1,  // a tensor's raw data, by the bytes of an element
  kRaw2,
  kRaw4,
  kRaw8,
  kFloatData,
  kInt32Data,
  kDoubleData,
};
constexpr uint8_t kColumnKinds = 11;

// What a column is in an ensemble.
enum class ColumnRole : uint8_t {
  kTreeIds,
  kNodeIds,
  kFeatures,
  kModes,
  kThresholds,
  kTrueIds,
  kFalseIds,
  kHitrates,
  kTracks,
  kLeafTreeIds,
  kLeafNodeIds,
  kTargets,
  kWeights,
  kRoots,
  kTrueLeaves,
  kFalseLeaves,
};
constexpr size_t kColumnRoles = 16;

// An attribute: the bytes before and behind its elements; of a tensor also those within it.
struct TreeAttribute {
  ColumnKind kind = ColumnKind::kNone;
  ColumnRole role = ColumnRole::kTreeIds;  // of a column
  std::string_view before, tensor_before, tensor_after, behind;
};

// Numbers, or floats by their bits; of strings, places in a list.
using ColumnValues = std::vector<uint64_t>;

struct TreeColumns {
  std::vector<TreeAttribute> attributes;
  bool has[kColumnRoles] = {};
  ColumnKind kinds[kColumnRoles] = {};
  ColumnValues values[kColumnRoles];
  std::vector<std::string> strings;  // the modes that occur, where these are strings

  bool has_column(ColumnRole role) const { return has[static_cast<size_t>(role)]; }
  ColumnValues& column(ColumnRole role) { return values[static_cast<size_t>(role)]; }
  const ColumnValues& column(ColumnRole role) const { return values[static_cast<size_t>(role)]; }
  // Bits of a float of the column, 0 for integers.
  unsigned float_bits(ColumnRole role) const;
};

// Takes fields `attribute` of a NodeProto apart; the views lie in them. Throws Failure when they are no such fields.
TreeColumns split_attributes(Span bytes);

// What describes the attributes without their elements, and back; the views lie in the text. The latter throws Failure.
Bytes write_attribute_list(const TreeColumns& columns);
TreeColumns read_attribute_list(Span text);

// Puts the fields together again: at most `most` bytes. Throws Failure when there are more.
Bytes join_attributes(const TreeColumns& columns, size_t most);

}  // namespace dcc
#endif  // DCC_TREE_COLUMNS_H_
