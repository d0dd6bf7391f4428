// Pulls: send an encoding's bytes from the tier's memory to a reader, in layer order.
//
// Nothing is copied or verified here (the reader verifies, end to end). The encoding is leased until the last byte has
// been sent; a layer still being read from segments is sent once it has arrived.
#ifndef KVLINK_STORE_NODE_DATA_PULLS_H_
#define KVLINK_STORE_NODE_DATA_PULLS_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/manifest.h"
#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

// Answers the call, which is a pull, once: when all pieces are sent, or with the error. REQUIRES: rights are checked; a
// thread that may block.
void StartPull(std::shared_ptr<Call> call);

// Sends a manifest in messages of bounded size: `fill(piece, more, first)` makes the answer for each, which is sent
// with More.
using ManifestPiece = std::function<proto::Answer(absl::string_view piece, bool more, bool first)>;
absl::Status SendManifest(const Manifest& manifest, const Call& call, const ManifestPiece& fill);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_PULLS_H_
