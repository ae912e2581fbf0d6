// message.cpp: message.h.
#include "model/message.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/refusal.h"
#include "model/wire.h"

namespace dcc {

// A part that follows the last one in memory, too, is one with it.
void Message::add(uint32_t number, std::string_view field) {
  if (!parts_.empty()) {
    Part& last = parts_.back();
    const char* const end = last.text.data() + last.text.size();
    if (last.number == number && last.weight == nullptr && end == field.data()) {
      last.text = {last.text.data(), last.text.size() + field.size()};
      return;
    }
  }
  append({number, field, nullptr});
}

void Message::keep(uint32_t number, std::string field) {
  texts_.push_back(std::move(field));
  append({number, texts_.back(), nullptr});
}

void Message::add_weight(uint32_t number, std::string start, Weight& weight) {
  texts_.push_back(std::move(start));
  append({number, texts_.back(), &weight});
}

void Message::add_message(uint32_t number, Message&& inner) {
  std::string start;
  put_tag(start, number, kBytes);
  put_varint(start, inner.size());
  keep(number, std::move(start));
  for (const Part* part : inner.in_order()) append({number, part->text, part->weight});
  texts_.splice(texts_.end(), inner.texts_);
}

void Message::append(const Part& part) {
  constexpr uint64_t kCost = 3 * sizeof(Part);  // while the array grows, and when it is sorted
  budget_.spend(kCost, "the dense model");
  parts_.push_back(part);
}

size_t Message::size() const {
  size_t sum = 0;
  for (const Part& part : parts_) {
    const size_t weight = part.weight ? part.weight->bytes : 0;
    if (__builtin_add_overflow(sum, part.text.size(), &sum) || __builtin_add_overflow(sum, weight, &sum))
      refuse("the dense model is larger than this machine can address");
  }
  return sum;
}

std::vector<const Message::Part*> Message::in_order() const {
  std::vector<const Part*> order;
  order.reserve(parts_.size());
  for (const Part& part : parts_) order.push_back(&part);
  std::stable_sort(order.begin(), order.end(), [](const Part* a, const Part* b) { return a->number < b->number; });
  return order;
}

void Message::write(uint8_t* out) const {
  for (const Part* part : in_order()) {
    if (!part->text.empty()) std::memcpy(out, part->text.data(), part->text.size());
    out += part->text.size();
    if (!part->weight) continue;
    part->weight->data = out;
    out += part->weight->bytes;
  }
}

}  // namespace dcc
