// tree_columns.cpp: tree_columns.h.
#include "coders/tree_columns.h"

#include <algorithm>

#include "model/wire.h"

namespace dcc {
namespace {

// Fields of NodeProto, AttributeProto and TensorProto with their types, as tags.
constexpr uint8_t kAttributeTag = 0x2a, kTensorTag = 0x2a, kNameTag = 0x0a;
constexpr uint32_t kTensorField = 5;

struct KindRow {
  ColumnKind kind;
  uint8_t tag;       // of the field that holds an element or, packed, all
  uint8_t width;     // of an element in bytes, 0 for numbers of variable length and strings
  uint8_t floats;    // bits of an element that is a float
  bool in_tensor;    // and packed
  uint64_t element;  // TensorProto.DataType that raw data of this kind have
};
constexpr KindRow kKinds[] = {
    {ColumnKind::kInts, 0x40, 0, 0, false, 0},     {ColumnKind::kFloats, 0x3d, 4, 32, false, 0},
    {ColumnKind::kStrings, 0x4a, 0, 0, false, 0},  {ColumnKind::kRaw1, 0x4a, 1, 0, true, 2},
    {ColumnKind::kRaw2, 0x4a, 2, 16, true, 10},    {ColumnKind::kRaw4, 0x4a, 4, 32, true, 1},
    {ColumnKind::kRaw8, 0x4a, 8, 64, true, 11},    {ColumnKind::kFloatData, 0x22, 4, 32, true, 0},
    {ColumnKind::kInt32Data, 0x2a, 0, 0, true, 0}, {ColumnKind::kDoubleData, 0x52, 8, 64, true, 0},
};

const KindRow& row_of(ColumnKind kind) { return kKinds[static_cast<size_t>(kind) - 1]; }

struct NameRow {
  std::string_view name;
  ColumnRole role;
};
constexpr NameRow kNames[] = {
    {"nodes_treeids", ColumnRole::kTreeIds},
    {"nodes_nodeids", ColumnRole::kNodeIds},
    {"nodes_featureids", ColumnRole::kFeatures},
    {"nodes_modes", ColumnRole::kModes},
    {"nodes_values", ColumnRole::kThresholds},
    {"nodes_values_as_tensor", ColumnRole::kThresholds},
    {"nodes_splits", ColumnRole::kThresholds},
    {"nodes_truenodeids", ColumnRole::kTrueIds},
    {"nodes_falsenodeids", ColumnRole::kFalseIds},
    {"nodes_hitrates", ColumnRole::kHitrates},
    {"nodes_hitrates_as_tensor", ColumnRole::kHitrates},
    {"nodes_missing_value_tracks_true", ColumnRole::kTracks},
    {"class_treeids", ColumnRole::kLeafTreeIds},
    {"target_treeids", ColumnRole::kLeafTreeIds},
    {"class_nodeids", ColumnRole::kLeafNodeIds},
    {"target_nodeids", ColumnRole::kLeafNodeIds},
    {"class_ids", ColumnRole::kTargets},
    {"target_ids", ColumnRole::kTargets},
    {"leaf_targetids", ColumnRole::kTargets},
    {"class_weights", ColumnRole::kWeights},
    {"class_weights_as_tensor", ColumnRole::kWeights},
    {"target_weights", ColumnRole::kWeights},
    {"target_weights_as_tensor", ColumnRole::kWeights},
    {"leaf_weights", ColumnRole::kWeights},
    {"tree_roots", ColumnRole::kRoots},
    {"nodes_trueleafs", ColumnRole::kTrueLeaves},
    {"nodes_falseleafs", ColumnRole::kFalseLeaves},
};

std::string_view text_of(Span bytes) { return {reinterpret_cast<const char*>(bytes.data), bytes.size}; }

// The name that an attribute's bytes begin with; empty where there is none.
std::string_view name_of(std::string_view before) {
  if (before.size() < 2 || static_cast<uint8_t>(before[0]) != kNameTag) return {};
  const auto length = static_cast<uint8_t>(before[1]);
  return length < 128 && length <= before.size() - 2 ? before.substr(2, length) : std::string_view();
}

const NameRow* find_name(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kNames), std::end(kNames), [&](const NameRow& r) { return r.name == name; });
  return found == std::end(kNames) ? nullptr : found;
}

// Notes what an attribute is. Whether there is such a column, and but once; only modes are strings.
bool add_attribute(TreeColumns& columns, TreeAttribute attribute) {
  if (attribute.kind != ColumnKind::kNone) {
    const NameRow* const found = find_name(name_of(attribute.before));
    if (found == nullptr) return false;
    const auto at = static_cast<size_t>(found->role);
    const bool is_text = attribute.kind == ColumnKind::kStrings;
    if (columns.has[at] || (is_text && found->role != ColumnRole::kModes)) return false;
    attribute.role = found->role;
    columns.has[at] = true;
    columns.kinds[at] = attribute.kind;
  }
  columns.attributes.push_back(attribute);
  return true;
}

void read_packed(std::string_view elements, const KindRow& kind, ColumnValues& out) {
  if (kind.width == 0) {
    ByteReader reader({reinterpret_cast<const uint8_t*>(elements.data()), elements.size()});
    while (reader.remaining() > 0) out.push_back(reader.varint());
    return;
  }
  require(elements.size() % kind.width == 0, "a tensor has part of an element");
  for (size_t at = 0; at < elements.size(); at += kind.width) {
    uint64_t value = 0;
    std::memcpy(&value, elements.data() + at, kind.width);
    out.push_back(value);
  }
}

// The run of fields of one tag from the first on; false when there is none.
bool find_run(std::string_view message, uint8_t tag, std::string_view& run) {
  WireReader reader(message);
  size_t begin = std::string_view::npos, end = 0;
  for (WireField field; reader.next(field);) {
    const auto at = static_cast<size_t>(field.whole.data() - message.data());
    const bool is_wanted = static_cast<uint8_t>(field.whole[0]) == tag && (tag & 0x80) == 0;
    if (is_wanted && begin == std::string_view::npos) begin = at;
    if (is_wanted && (end == 0 || end == at)) end = at + field.whole.size();
  }
  if (begin == std::string_view::npos) return false;
  run = message.substr(begin, end - begin);
  return true;
}

bool split_list(TreeColumns& columns, std::string_view attribute, ColumnRole role) {
  for (const KindRow& kind : kKinds) {
    std::string_view run;
    if (kind.in_tensor || !find_run(attribute, kind.tag, run)) continue;
    TreeAttribute found;
    found.kind = kind.kind;
    const auto begin = static_cast<size_t>(run.data() - attribute.data());
    found.before = attribute.substr(0, begin);
    found.behind = attribute.substr(begin + run.size());
    if (!add_attribute(columns, found)) return false;
    ColumnValues& values = columns.column(role);
    WireReader reader(run);
    for (WireField field; reader.next(field);) {
      if (kind.kind == ColumnKind::kInts) values.push_back(field.value);
      if (kind.kind == ColumnKind::kFloats)
        values.push_back(load<uint32_t>(reinterpret_cast<const uint8_t*>(field.whole.data()) + 1));
      if (kind.kind != ColumnKind::kStrings) continue;
      const auto at = std::find(columns.strings.begin(), columns.strings.end(), field.bytes);
      values.push_back(static_cast<uint64_t>(at - columns.strings.begin()));
      if (at == columns.strings.end()) columns.strings.emplace_back(field.bytes);
    }
    return true;
  }
  return false;
}

bool split_tensor(TreeColumns& columns, std::string_view attribute, ColumnRole role) {
  std::string_view field;
  if (!find_run(attribute, kTensorTag, field)) return false;
  WireReader fields(field);
  WireField tensor;
  if (!fields.next(tensor) || tensor.number != kTensorField || tensor.whole.size() != field.size()) return false;
  uint64_t element = 0;
  WireReader reader(tensor.bytes);
  for (WireField part; reader.next(part);)
    if (part.number == 2) element = part.value;
  for (const KindRow& kind : kKinds) {
    std::string_view run;
    if (!kind.in_tensor || (kind.element != 0 && kind.element != element)) continue;
    if (!find_run(tensor.bytes, kind.tag, run)) continue;
    WireReader only(run);
    WireField data;
    if (!only.next(data) || data.type != kBytes || data.whole.size() != run.size() || data.bytes.empty()) return false;
    TreeAttribute found;
    found.kind = kind.kind;
    const auto begin = static_cast<size_t>(field.data() - attribute.data());
    found.before = attribute.substr(0, begin);
    found.behind = attribute.substr(begin + field.size());
    const auto inside = static_cast<size_t>(run.data() - tensor.bytes.data());
    found.tensor_before = tensor.bytes.substr(0, inside);
    found.tensor_after = tensor.bytes.substr(inside + run.size());
    if (!add_attribute(columns, found)) return false;
    read_packed(data.bytes, kind, columns.column(role));
    return true;
  }
  return false;
}

void append_text(Bytes& out, std::string_view text) { append(out, text.data(), text.size()); }

void append_counted(Bytes& out, std::string_view text) {
  append_varint(out, text.size());
  append_text(out, text);
}

// The elements of a column, with the tags that they have in a list, without those of a tensor.
void append_elements(Bytes& out, const TreeColumns& columns, const TreeAttribute& attribute, size_t most) {
  const KindRow& kind = row_of(attribute.kind);
  for (const uint64_t value : columns.column(attribute.role)) {
    require(out.size() <= most, "its attributes are longer than the tensor");
    if (!kind.in_tensor) out.push_back(kind.tag);
    const bool is_text = kind.kind == ColumnKind::kStrings;
    require(!is_text || value < columns.strings.size(), "a mode of an ensemble has no name");
    if (is_text)
      append_counted(out, columns.strings[static_cast<size_t>(value)]);
    else if (kind.width == 0)
      append_varint(out, value);
    else
      append(out, &value, kind.width);
  }
}

}  // namespace

unsigned TreeColumns::float_bits(ColumnRole role) const {
  const ColumnKind kind = kinds[static_cast<size_t>(role)];
  return kind == ColumnKind::kNone ? 0 : row_of(kind).floats;
}

TreeColumns split_attributes(Span bytes) {
  TreeColumns columns;
  WireReader reader(text_of(bytes));
  for (WireField field; reader.next(field);) {
    require(static_cast<uint8_t>(field.whole[0]) == kAttributeTag, "these are not attributes of a node");
    const NameRow* const found = find_name(name_of(field.bytes));
    if (found != nullptr &&
        (split_list(columns, field.bytes, found->role) || split_tensor(columns, field.bytes, found->role)))
      continue;
    TreeAttribute whole;
    whole.before = field.bytes;
    add_attribute(columns, whole);
  }
  return columns;
}

Bytes write_attribute_list(const TreeColumns& columns) {
  Bytes out;
  for (const TreeAttribute& attribute : columns.attributes) {
    out.push_back(static_cast<uint8_t>(attribute.kind));
    append_counted(out, attribute.before);
    if (attribute.kind == ColumnKind::kNone) continue;
    if (row_of(attribute.kind).in_tensor) {
      append_counted(out, attribute.tensor_before);
      append_counted(out, attribute.tensor_after);
    }
    append_counted(out, attribute.behind);
  }
  return out;
}

TreeColumns read_attribute_list(Span text) {
  TreeColumns columns;
  ByteReader reader(text);
  const auto counted = [&] { return text_of(reader.take(reader.varint())); };
  while (reader.remaining() > 0) {
    TreeAttribute attribute;
    const uint8_t kind = reader.u8();
    require(kind < kColumnKinds, "an attribute of an unknown kind");
    attribute.kind = static_cast<ColumnKind>(kind);
    attribute.before = counted();
    if (attribute.kind != ColumnKind::kNone) {
      if (row_of(attribute.kind).in_tensor) {
        attribute.tensor_before = counted();
        attribute.tensor_after = counted();
      }
      attribute.behind = counted();
    }
    require(add_attribute(columns, attribute), "an attribute that is no column of an ensemble");
  }
  return columns;
}

Bytes join_attributes(const TreeColumns& columns, size_t most) {
  Bytes out, elements, tensor;
  for (const TreeAttribute& attribute : columns.attributes) {
    elements.clear();
    if (attribute.kind != ColumnKind::kNone) append_elements(elements, columns, attribute, most);
    if (attribute.kind != ColumnKind::kNone && row_of(attribute.kind).in_tensor) {
      tensor.clear();
      append_text(tensor, attribute.tensor_before);
      tensor.push_back(row_of(attribute.kind).tag);
      append_counted(tensor, text_of({elements.data(), elements.size()}));
      append_text(tensor, attribute.tensor_after);
      elements.clear();
      elements.push_back(kTensorTag);
      append_counted(elements, text_of({tensor.data(), tensor.size()}));
    }
    out.push_back(kAttributeTag);
    append_varint(out, attribute.before.size() + elements.size() + attribute.behind.size());
    append_text(out, attribute.before);
    append(out, elements.data(), elements.size());
    append_text(out, attribute.behind);
    require(out.size() <= most, "its attributes are longer than the tensor");
  }
  return out;
}

}  // namespace dcc
