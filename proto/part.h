// Which bytes a pull of a part moves, and in which pieces (docs/formats.md "Data messages"). Node and client both
// derive this from the manifest: the one what it sends, the other what it receives. Thread-safety: pure functions.
#ifndef KVLINK_PROTO_PART_H_
#define KVLINK_PROTO_PART_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/data.pb.h"
#include "proto/manifest.h"

namespace kvlink {

// Consecutive bytes of a layer's slab. Payload `first_payload + i` of a pull is piece i.
struct Piece {
  int64_t layer = 0;
  int64_t offset = 0;  // within the slab
  int64_t length = 0;  // at least 1
};

// Returns the pieces ordered by layer, then head. A layer without bytes has none; a whole layer, padding included, is
// one piece; all tokens of a range of heads are one piece; a prefix of the tokens is one piece per head.
// INVALID_ARGUMENT: layers, heads or tokens that the encoding does not have, a prefix that does not end at a unit, keys
// without values, or more than kMaxPieces. REQUIRES: the manifest is valid.
absl::StatusOr<std::vector<Piece>> PiecesOf(const Manifest& manifest, const proto::Part& part);

}  // namespace kvlink

#endif  // KVLINK_PROTO_PART_H_
