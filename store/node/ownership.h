// Which of a cluster's encodings a node owns. A node that stands alone owns everything, and is at epoch 0.
//
// Except for slots, epochs are not compared: while a new one spreads, some clients use the old and some the new, and a
// request is served by any node that owns the identity under either. Only a node that owns it neither under the
// request's epoch nor under its own answers `moved`, with its own epoch (docs/formats.md "Data messages").
//
// Pushes differ: a pushed encoding counts as a copy, so only an owner under the next placement accepts it, by the
// node's own epoch at commit. So do slots: a node comparing them under a later epoch than this node's might compare
// before the last push under the earlier one.
//
// Thread-safety: all methods; they are called for each identity of each request, and neither block nor hold a lock for
// long.
#ifndef KVLINK_STORE_NODE_OWNERSHIP_H_
#define KVLINK_STORE_NODE_OWNERSHIP_H_

#include <cstdint>

#include "proto/digest.h"

namespace kvlink::store::node {

class Ownership {
 public:
  virtual ~Ownership() = default;
  // The node's epoch; 0: it stands alone.
  virtual uint64_t epoch() const { return 0; }
  // Whether the node owns the identity at `epoch`, the current one or one named by a request. False for an epoch
  // unknown here.
  virtual bool Owns(const Identity& identity, uint64_t epoch) const { return true; }
  // Whether a put here at the current epoch counts as a copy: the node is an owner where the identity is being placed.
  virtual bool Takes(const Identity& identity) const { return Owns(identity, epoch()); }

  // Whether the node must answer a request for the identity that names the epoch `asked` (0: none).
  bool Answers(const Identity& identity, uint64_t asked) const {
    return Owns(identity, epoch()) || (asked != 0 && Owns(identity, asked));
  }
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_OWNERSHIP_H_
