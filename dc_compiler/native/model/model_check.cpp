// model_check.cpp: walks the protobuf wire format of an inner model and refuses what it must not hold.
#include "model/model_check.h"

#include <array>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "model/function_calls.h"
#include "model/refusal.h"
#include "model/wire.h"

namespace dcc {
namespace {

constexpr size_t kMostMessages = 101;  // inside each other, as protobuf reads
constexpr size_t kMostDepth = 64;      // of bodies and calls; onnxruntime recurses into them
constexpr uint64_t kMessageCost =
    128;  // about what protobuf and onnxruntime keep for a message or a text, beside its bytes
constexpr uint64_t kNumberCost = 8;
constexpr uint8_t kNodeField = 0x0a;  // GraphProto.node
constexpr std::string_view kOwnDomain = "dcc";
constexpr std::string_view kOwnValue = "dcc.released";

// The messages of onnx.proto that hold others or that are looked at.
enum class Kind : uint8_t {
  kModel,
  kGraph,
  kNode,
  kAttribute,
  kTensor,
  kSparseTensor,
  kFunction,
  kTraining,
  kOpset,
  kValueInfo,
  kType,
  kTensorType,
  kTypeOfElement,
  kShape,
  kAnnotation,
  kOther,
  kText,
  kNumbers,
  kOpaque,  // not looked into: bytes, packed numbers, messages of small messages
};

// What a field of a message holds.
struct Field {
  Kind message;
  uint32_t number;
  Kind holds;
};
constexpr Field kFields[] = {
    {Kind::kModel, 7, Kind::kGraph},
    {Kind::kModel, 8, Kind::kOpset},
    {Kind::kModel, 14, Kind::kOther},
    {Kind::kModel, 20, Kind::kTraining},
    {Kind::kModel, 25, Kind::kFunction},
    {Kind::kModel, 26, Kind::kOpaque},
    {Kind::kGraph, 1, Kind::kNode},
    {Kind::kGraph, 5, Kind::kTensor},
    {Kind::kGraph, 11, Kind::kValueInfo},
    {Kind::kGraph, 12, Kind::kValueInfo},
    {Kind::kGraph, 13, Kind::kValueInfo},
    {Kind::kGraph, 14, Kind::kAnnotation},
    {Kind::kGraph, 15, Kind::kSparseTensor},
    {Kind::kGraph, 16, Kind::kOther},
    {Kind::kNode, 5, Kind::kAttribute},
    {Kind::kNode, 9, Kind::kOther},
    {Kind::kNode, 10, Kind::kOpaque},
    {Kind::kAttribute, 5, Kind::kTensor},
    {Kind::kAttribute, 6, Kind::kGraph},
    {Kind::kAttribute, 7, Kind::kNumbers},
    {Kind::kAttribute, 8, Kind::kNumbers},
    {Kind::kAttribute, 10, Kind::kTensor},
    {Kind::kAttribute, 11, Kind::kGraph},
    {Kind::kAttribute, 14, Kind::kType},
    {Kind::kAttribute, 15, Kind::kType},
    {Kind::kAttribute, 22, Kind::kSparseTensor},
    {Kind::kAttribute, 23, Kind::kSparseTensor},
    {Kind::kTensor, 1, Kind::kNumbers},
    {Kind::kTensor, 4, Kind::kNumbers},
    {Kind::kTensor, 5, Kind::kNumbers},
    {Kind::kTensor, 7, Kind::kNumbers},
    {Kind::kTensor, 10, Kind::kNumbers},
    {Kind::kTensor, 11, Kind::kNumbers},
    {Kind::kTensor, 16, Kind::kOther},
    {Kind::kSparseTensor, 1, Kind::kTensor},
    {Kind::kSparseTensor, 2, Kind::kTensor},
    {Kind::kSparseTensor, 3, Kind::kNumbers},
    {Kind::kFunction, 7, Kind::kNode},
    {Kind::kFunction, 9, Kind::kOpset},
    {Kind::kFunction, 11, Kind::kAttribute},
    {Kind::kFunction, 12, Kind::kValueInfo},
    {Kind::kFunction, 14, Kind::kOther},
    {Kind::kTraining, 1, Kind::kGraph},
    {Kind::kTraining, 2, Kind::kGraph},
    {Kind::kTraining, 3, Kind::kOther},
    {Kind::kTraining, 4, Kind::kOther},
    {Kind::kValueInfo, 2, Kind::kType},
    {Kind::kValueInfo, 4, Kind::kOther},
    {Kind::kType, 1, Kind::kTensorType},
    {Kind::kType, 4, Kind::kTypeOfElement},
    {Kind::kType, 5, Kind::kTypeOfElement},
    {Kind::kType, 8, Kind::kTensorType},
    {Kind::kType, 9, Kind::kTypeOfElement},
    {Kind::kTypeOfElement, 1, Kind::kType},
    {Kind::kTypeOfElement, 2, Kind::kType},
    {Kind::kTensorType, 2, Kind::kShape},
    {Kind::kShape, 1, Kind::kOther},
    {Kind::kAnnotation, 2, Kind::kOther},
};
constexpr uint32_t kFieldNumbers = 32;

// The same by message and number; kText for what nothing is known of.
constexpr auto make_holds() {
  std::array<std::array<Kind, kFieldNumbers>, static_cast<size_t>(Kind::kOpaque) + 1> holds{};
  for (auto& of_message : holds)
    for (Kind& kind : of_message) kind = Kind::kText;
  for (const Field& field : kFields) holds[static_cast<size_t>(field.message)][field.number] = field.holds;
  return holds;
}
constexpr auto kHolds = make_holds();

Kind kind_of_field(Kind message, uint32_t number) {
  return number < kFieldNumbers ? kHolds[static_cast<size_t>(message)][number] : Kind::kText;
}

// A message that the walk is inside of.
struct Level {
  Kind kind;
  const uint8_t* begin;
  const uint8_t* end;
  const uint8_t* field;  // that holds it
  OperatorName name;     // of a node or a function, as far as read
};

class ModelWalk {
 public:
  ModelWalk(const Manifest& manifest, Budget& budget) : model_(manifest.model), at_(manifest.model), budget_(budget) {
    for (const Payload& payload : manifest.payloads)
      for (const Weight& weight : payload.weights) packed_.insert(weight.name);
    levels_.reserve(kMostMessages);
    levels_.push_back({Kind::kModel, model_, model_ + manifest.model_size, model_, {}});
  }

  void run() {
    while (!levels_.empty()) {
      if (at_ == levels_.back().end)
        leave();
      else
        field();
    }
    const Expansion whole = expand(main_, functions_);
    if (whole.depth > kMostDepth)
      refuse("bodies and functions of the inner model nest " + std::to_string(whole.depth) + " deep; at most " +
             std::to_string(kMostDepth) + " are read");
    spend_total(whole.nodes);
  }

  std::vector<RunNode>& run_nodes() { return run_nodes_; }

 private:
  [[noreturn]] static void malformed() { refuse("the inner model is not a well-formed ONNX model (protobuf)"); }

  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == levels_.back().end) malformed();
      const uint8_t byte = *at_++;
      if (shift == 63 && byte > 1) malformed();
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    malformed();
  }

  std::string_view take(uint64_t size) {
    if (size > static_cast<uint64_t>(levels_.back().end - at_)) malformed();
    const std::string_view taken(reinterpret_cast<const char*>(at_), static_cast<size_t>(size));
    at_ += size;
    return taken;
  }

  void field() {
    field_ = at_;
    const uint64_t tag = varint();
    if (tag > UINT32_MAX || tag >> 3 == 0) malformed();
    const auto number = static_cast<uint32_t>(tag >> 3);
    spend(kNumberCost);
    switch (tag & 7) {
      case 0: check_number(number, varint()); return;
      case 1: take(8); return;
      case 2: bytes(number); return;
      case 5: take(4); return;
      default: malformed();  // groups, which no ONNX model has
    }
  }

  void check_number(uint32_t number, uint64_t value) const {
    if (levels_.back().kind == Kind::kTensor && number == 14 && value != 0) refuse_external();
  }

  void bytes(uint32_t number) {
    const std::string_view content = take(varint());
    const Kind kind = kind_of_field(levels_.back().kind, number);
    if (kind == Kind::kNumbers) return spend(kNumberCost * content.size());
    if (kind == Kind::kOpaque) return spend(kMessageCost / 2 * content.size());
    spend(kMessageCost);
    if (kind == Kind::kText) {
      check_text(number, content);
      return spend(content.size());
    }
    enter(kind, content);
  }

  void enter(Kind kind, std::string_view content) {
    if (levels_.size() == kMostMessages) refuse("bodies of the inner model nest too deep");
    at_ = reinterpret_cast<const uint8_t*>(content.data());
    levels_.push_back({kind, at_, at_ + content.size(), field_, {}});
    if (kind == Kind::kFunction) functions_.emplace_back();
    in_function_ += kind == Kind::kFunction;
    graphs_ += kind == Kind::kGraph;
  }

  void leave() {
    const Level left = levels_.back();
    levels_.pop_back();
    switch (left.kind) {
      case Kind::kNode: {
        if (left.name.domain == kRunDomain) add_run_node(left);
        if (left.name.name == "EPContext") refuse("the inner model holds an EPContext node, which can name files");
        const size_t outside = in_function_ ? 0 : 1;  // graphs that are no bodies
        current().nodes.push_back({left.name, graphs_ - outside});
        return;
      }
      case Kind::kFunction:
        functions_.back().name = left.name;
        --in_function_;
        return;
      case Kind::kGraph: --graphs_; return;
      default: return;
    }
  }

  void add_run_node(const Level& node) {
    const std::string_view op = node.name.name;
    if (in_function_ || graphs_ != 1 || part_of(op) == RunPart::kNone)
      refuse("a node of the domain 'dcc.run' is no part of a layer of the main graph");
    if (*node.field != kNodeField) malformed();  // longer than it need be, which nothing writes
    const auto* domain = reinterpret_cast<const uint8_t*>(node.name.domain.data());
    RunNode found{op, {}, {}, {}, {}, static_cast<size_t>(node.field - model_), static_cast<size_t>(domain - model_)};
    WireReader reader({reinterpret_cast<const char*>(node.begin), static_cast<size_t>(node.end - node.begin)});
    for (WireField field; reader.next(field);) {
      if (field.number == 1) found.inputs.push_back(field.bytes);
      if (field.number == 2) found.outputs.push_back(field.bytes);
      if (field.number == 3) found.name = field.bytes;
      if (field.number == 5) found.attributes.push_back(field.bytes);
    }
    run_nodes_.push_back(std::move(found));
  }

  NodeList& current() { return in_function_ ? functions_.back() : main_; }

  void check_text(uint32_t number, std::string_view text) {
    Level& level = levels_.back();
    switch (level.kind) {
      case Kind::kNode:
        if (number <= 2) refuse_own_value(text);
        if (number == 2) refuse_packed(text);
        if (number == 4) level.name.name = text;
        if (number == 7) level.name.domain = checked_domain(text);
        if (number == 8) level.name.overload = text;
        return;
      case Kind::kFunction:
        if (number == 1) level.name.name = text;
        if (number == 10) level.name.domain = checked_domain(text == kRunDomain ? kOwnDomain : text);
        if (number == 13) level.name.overload = text;
        return;
      case Kind::kValueInfo:
        if (number == 1) refuse_own_value(text);
        return;
      case Kind::kTensor:
        if (number == 8) refuse_own_value(text);
        if (number == 8 && is_initializer()) refuse_packed(text);
        if (number == 13) refuse_external();
        if (number == 14) malformed();
        return;
      default: return;
    }
  }

  static std::string_view checked_domain(std::string_view domain) {
    if (domain == kOwnDomain)
      refuse("the inner model uses the operator domain 'dcc'; compiled models do not hold compiled models");
    return domain;
  }
  static void refuse_own_value(std::string_view name) {
    if (name == kOwnValue) refuse("the inner model uses the name 'dcc.released', which belongs to the library");
  }
  // Whether the tensor is an initializer, or holds the values of a sparse one; it is an attribute's otherwise.
  bool is_initializer() const {
    const auto holder = levels_.end() - 2;
    return holder->kind == Kind::kGraph || (holder->kind == Kind::kSparseTensor && (holder - 1)->kind == Kind::kGraph);
  }
  // The main graph has a weight of this name, which nothing else in it may give.
  void refuse_packed(std::string_view name) const {
    if (!in_function_ && graphs_ == 1 && packed_.count(name))
      refuse("the inner model has a value '" + std::string(name) +
             "' of its own, beside the packed weight of that name");
  }
  [[noreturn]] static void refuse_external() {
    refuse("a tensor of the inner model has external data; a packed model names no files");
  }

  // Costs go to the budget in portions, because it locks.
  void spend(uint64_t bytes) {
    spent_ += bytes;
    if (spent_ < kPortion) return;
    budget_.spend(spent_, "the inner model");
    spent_ = 0;
  }

  // What the functions add when they are put in place; the nodes in the message have been counted.
  void spend_total(uint64_t nodes) {
    uint64_t cost = 0;
    if (__builtin_mul_overflow(nodes, kMessageCost, &cost) || __builtin_add_overflow(cost, spent_, &cost))
      cost = UINT64_MAX;
    budget_.spend(cost, "the inner model");
  }

  static constexpr uint64_t kPortion = 1 << 16;
  const uint8_t* model_;
  const uint8_t* at_;
  const uint8_t* field_ = nullptr;  // the last that began
  Budget& budget_;
  std::unordered_set<std::string_view> packed_;  // names of weights
  std::vector<RunNode> run_nodes_;
  std::vector<Level> levels_;
  NodeList main_;
  std::vector<NodeList> functions_;
  size_t in_function_ = 0;
  size_t graphs_ = 0;
  uint64_t spent_ = 0;
};

}  // namespace

RunPart part_of(std::string_view op) {
  static constexpr std::pair<std::string_view, RunPart> kParts[] = {
      {"MatMul", RunPart::kLayer}, {"Gemm", RunPart::kLayer},          {"Conv", RunPart::kLayer},
      {"Relu", RunPart::kBound},   {"Clip", RunPart::kBound},          {"MatMulInteger", RunPart::kLayer},
      {"Cast", RunPart::kCast},    {"Transpose", RunPart::kTranspose}, {"Mul", RunPart::kScale},
      {"Add", RunPart::kAdd},
  };
  for (const auto& [name, part] : kParts)
    if (name == op) return part;
  return RunPart::kNone;
}

std::vector<RunNode> check_inner_model(const Manifest& manifest, Budget& budget) {
  ModelWalk walk(manifest, budget);
  walk.run();
  return std::move(walk.run_nodes());
}

}  // namespace dcc
