// What of a cluster's encodings a node is an owner of, and what the cluster has let go. A node that stands alone owns
// everything, and is at epoch 0.
//
// Epochs are not compared with each other, but for slots: while a new one spreads, some ask by the old and some by the
// new, and each is served by whoever owns what he asks for under either. Only a node that is no owner under the
// request's epoch, nor under its own, says `moved`, with its own epoch (docs/formats.md "Data messages"). Not so
// pushes: what is pushed counts as a copy, so that only an owner under the next placement takes it, by the node's own
// epoch when it commits. Nor do slots: whoever compares them by a later epoch than the node's might compare before the
// last push of the one before.
//
// Thread-safety: all methods; they are called for each identity of each request and neither wait nor lock for long.
#ifndef KVLINK_STORE_NODE_OWNERSHIP_H_
#define KVLINK_STORE_NODE_OWNERSHIP_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "proto/digest.h"
#include "proto/slots.h"

namespace kvlink::store::node {

class Ownership {
 public:
  virtual ~Ownership() = default;
  // The node's own; 0: it stands alone.
  virtual uint64_t epoch() const { return 0; }
  // Whether the node is an owner of the identity at `epoch`, the present one or one that a request names. Of one that
  // is not known here: false.
  virtual bool Owns(const Identity& identity, uint64_t epoch) const { return true; }
  // Whether what is put here at the present epoch is a copy: the node is an owner of it where encodings go.
  virtual bool Takes(const Identity& identity) const { return Owns(identity, epoch()); }
  // Whether the identity was dropped since the node had carried out the drops up to `since`, or may have been. What was
  // on its way here then is not stored: the node's removal has not found it, and the other owners would copy it.
  virtual bool DroppedSince(absl::string_view ns, const Identity& identity, const DropPosition& since) const {
    return false;
  }

  // Whether the node is to answer a request for the identity that names `asked` (0: none).
  bool Answers(const Identity& identity, uint64_t asked) const {
    return Owns(identity, epoch()) || (asked != 0 && Owns(identity, asked));
  }
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_OWNERSHIP_H_
