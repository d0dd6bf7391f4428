// Which bytes a pull of a part moves, and in which pieces (docs/formats.md "Data messages"): what the node sends and
// what the client receives, worked out by both from the manifest. Thread-safety: pure functions.
#ifndef KVLINK_PROTO_PART_H_
#define KVLINK_PROTO_PART_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/data.pb.h"
#include "proto/manifest.h"

namespace kvlink {

// Consecutive bytes of the slab of a layer. Payload `first_payload + i` of a pull is piece i.
struct Piece {
  int64_t layer = 0;
  int64_t offset = 0;  // in the slab
  int64_t length = 0;  // at least 1
};

// In the order of layers, then heads. A layer without bytes has no piece; a whole layer is one, with its padding; all
// tokens of a range of heads are one; a prefix of the tokens is one for each head. INVALID_ARGUMENT: layers, heads or
// tokens that the encoding does not have, a prefix that does not end with a unit, keys without values, or more than
// kMaxPieces. REQUIRES: the manifest is valid.
absl::StatusOr<std::vector<Piece>> PiecesOf(const Manifest& manifest, const proto::Part& part);

}  // namespace kvlink

#endif  // KVLINK_PROTO_PART_H_
