// context.h: coder `context` (FORMAT.md, section 5.4): indices by adaptive arithmetic coding, each predicted from those around it.
#ifndef DCC_CONTEXT_H_
#define DCC_CONTEXT_H_

#include <memory>

#include "frame/frame.h"

namespace dcc {

// CHUNK of `count` indices, all below k.
Bytes encode_context_chunk(const uint16_t* indices, size_t count, const Header& header);

// The indices of one CHUNK.
class ContextReader {
 public:
  ContextReader(Span chunk, const Header& header);
  ~ContextReader();

  void read(uint16_t* out, size_t count);

  // Refuses bytes that no symbol needs.
  void finish() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dcc
#endif  // DCC_CONTEXT_H_
