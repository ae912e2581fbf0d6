// function_calls.cpp: how large and how deep a model gets when its functions are put in the place of their calls.
#include "model/function_calls.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "model/refusal.h"

namespace dcc {
namespace {

// Depth-first over the calls, with a stack of its own: a chain of functions may be longer than the machine's stack.
class Expander {
 public:
  explicit Expander(const std::vector<NodeList>& functions) : functions_(functions), results_(functions.size()) {
    for (size_t i = 0; i < functions.size(); ++i) index_[key(functions[i].name)] = i;
  }

  Expansion expand(const NodeList& graph) {
    std::vector<Visit> stack{{&graph, kNone, 0, {0, 0}}};
    while (true) {
      Visit& visit = stack.back();
      if (visit.next == visit.list->nodes.size()) {
        const Expansion done = visit.sum;
        if (visit.function == kNone) return done;
        results_[visit.function] = {State::kKnown, done};
        stack.pop_back();  // its caller looks the node up again and finds it known
        continue;
      }
      const NodeList::Node& node = visit.list->nodes[visit.next];
      const size_t callee = find(node.called);
      if (callee != kNone && results_[callee].state != State::kKnown) {
        if (results_[callee].state == State::kOpen)
          refuse("function '" + std::string(node.called.name) + "' of the inner model calls itself");
        results_[callee].state = State::kOpen;
        stack.push_back({&functions_[callee], callee, 0, {0, 0}});
        continue;
      }
      ++visit.next;
      const Expansion inside = callee == kNone ? Expansion{0, 0} : results_[callee].expansion;
      add(visit.sum, inside, node.depth + (callee != kNone));
    }
  }

 private:
  static constexpr size_t kNone = SIZE_MAX;
  enum class State { kNew, kOpen, kKnown };
  struct Result {
    State state = State::kNew;
    Expansion expansion{0, 0};
  };
  struct Visit {
    const NodeList* list;
    size_t function;
    size_t next;
    Expansion sum;
  };
  using Key = std::tuple<std::string_view, std::string_view, std::string_view>;

  static Key key(const OperatorName& name) { return {name.domain, name.name, name.overload}; }

  size_t find(const OperatorName& name) const {
    const auto found = index_.find(key(name));
    return found == index_.end() ? kNone : found->second;
  }

  static void add(Expansion& sum, const Expansion& inside, size_t depth) {
    if (__builtin_add_overflow(sum.nodes, inside.nodes, &sum.nodes) ||
        __builtin_add_overflow(sum.nodes, uint64_t{1}, &sum.nodes))
      sum.nodes = UINT64_MAX;
    sum.depth = std::max(sum.depth, inside.depth + depth);
  }

  const std::vector<NodeList>& functions_;
  std::vector<Result> results_;
  std::map<Key, size_t> index_;
};

}  // namespace

Expansion expand(const NodeList& graph, const std::vector<NodeList>& functions) {
  return Expander(functions).expand(graph);
}

}  // namespace dcc
