// lanes.h: entries dealt in turns to several interleaved streams, which a decoder advances side by side.
#ifndef DCC_LANES_H_
#define DCC_LANES_H_

#include <cstdint>

#include "base/failure.h"

namespace dcc {

// Refuses what is no power of two up to `most`.
inline void require_lanes(unsigned lanes, unsigned most) {
  require(lanes != 0 && (lanes & (lanes - 1)) == 0 && lanes <= most, "its number of lanes is not allowed");
}

// Lanes for `bytes` encoded bytes: a lane costs about `bytes_per_lane`, which may be up to 1/256 of them.
inline unsigned lanes_for(uint64_t bytes, unsigned bytes_per_lane, unsigned most) {
  unsigned lanes = 1;
  while (lanes < most && 2 * lanes * bytes_per_lane * 256 <= bytes) lanes *= 2;
  return lanes;
}

}  // namespace dcc
#endif  // DCC_LANES_H_
