// function_calls.h: how large and how deep a model gets when its functions are put in the place of their calls.
#ifndef DCC_FUNCTION_CALLS_H_
#define DCC_FUNCTION_CALLS_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace dcc {

// What a node names: an operator or a function of the model. The text lies in the message.
struct OperatorName {
  std::string_view domain, name, overload;
};

// The nodes of one graph or function with those of its bodies.
struct NodeList {
  struct Node {
    OperatorName called;
    size_t depth;  // of the body it stands in; 0 outside bodies
  };
  std::vector<Node> nodes;
  OperatorName name;  // of a function
};

struct Expansion {
  uint64_t nodes;  // with functions in place of calls; saturates
  size_t depth;    // bodies within bodies, and calls within calls
};

// Of the graph; throws Failure when a function calls itself, directly or by way of others.
Expansion expand(const NodeList& graph, const std::vector<NodeList>& functions);

}  // namespace dcc
#endif  // DCC_FUNCTION_CALLS_H_
