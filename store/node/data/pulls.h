// Pulls: the bytes of an encoding, from the tier's memory to a reader, in the order of layers.
//
// Nothing is copied and nothing verified here (the reader does, end to end). The encoding is leased until the last byte
// has left; a layer that is still being read from segments goes out when it has arrived.
#ifndef KVLINK_STORE_NODE_DATA_PULLS_H_
#define KVLINK_STORE_NODE_DATA_PULLS_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/manifest.h"
#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

// Answers the call, which is a pull, once: when all pieces are sent, or why not. REQUIRES: rights are checked; a thread
// that may wait.
void StartPull(std::shared_ptr<Call> call);

// Sends a manifest in messages of bounded size: `fill(piece, more, first)` makes each one's answer; what it returns is
// sent with More.
using ManifestPiece = std::function<proto::Answer(absl::string_view piece, bool more, bool first)>;
absl::Status SendManifest(const Manifest& manifest, const Call& call, const ManifestPiece& fill);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_PULLS_H_
