// message.h: a protobuf message put together from parts that lie elsewhere, with room for weights to be decoded into.
#ifndef DCC_MESSAGE_H_
#define DCC_MESSAGE_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <vector>

#include "model/budget.h"
#include "model/manifest.h"

namespace dcc {

// Fields may be added in any order and are written by their numbers, those of one number in the order they were added.
// What holding the parts takes is spent from the budget. Functions throw Failure.
class Message {
 public:
  explicit Message(Budget& budget) : budget_(budget) {}

  // A whole field, tag included, in memory that stays until the message is written.
  void add(uint32_t number, std::string_view field);

  // The same, kept here.
  void keep(uint32_t number, std::string field);

  // A whole field of which the last weight.bytes are still to be written to weight.data.
  void add_weight(uint32_t number, std::string start, Weight& weight);

  // A field that is a message itself, which is taken apart.
  void add_message(uint32_t number, Message&& inner);

  // Refuses what is too large for the machine.
  size_t size() const;

  // Writes size() bytes and tells weights where theirs belong.
  void write(uint8_t* out) const;

 private:
  struct Part {
    uint32_t number;
    std::string_view text;
    Weight* weight;
  };
  void append(const Part& part);
  std::vector<const Part*> in_order() const;

  Budget& budget_;
  std::vector<Part> parts_;
  std::list<std::string> texts_;
};

}  // namespace dcc
#endif  // DCC_MESSAGE_H_
