// Hot encodings of a cluster: those read so much from their owners that further members hold copies of them for a
// while.
//
// A node from which one encoding is read too much publishes the encoding and the number of further copies it wants. The
// members that rank next in the placement (FurtherMembers) copy it and publish that they hold it. Clients then read
// from them as from owners. All of this is in etcd, under the nodes' leases (docs/formats.md "Cluster records").
//
// Thread-safety: immutable values.
#ifndef KVLINK_STORE_CLUSTER_HOT_H_
#define KVLINK_STORE_CLUSTER_HOT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "base/slab.h"
#include "proto/digest.h"

namespace kvlink::store::cluster {

inline constexpr size_t kMaxHotRead = 16, kMaxHotHeld = 32;  // in the record of one node

struct HotName {
  std::string ns;
  Identity identity;
  Codec codec = Codec::kRawBf16;
  auto operator<=>(const HotName&) const = default;
};

// One hot encoding, as one node sees it.
struct HotRead {
  HotName name;
  int copies = 0;                 // wanted by the node beyond the owners; 0: only another node wants some
  uint64_t reads_per_second = 0;  // from this node
  bool operator==(const HotRead&) const = default;
};

// The record that one node publishes.
struct HotRecord {
  std::vector<HotRead> read;  // each name once
  std::vector<HotName> held;  // further copies on this node
  bool operator==(const HotRecord&) const = default;
};

// The records of all nodes together.
class HotView {
 public:
  struct Encoding {
    HotName name;
    int copies = 0;                 // the maximum that any node wants
    uint64_t reads_per_second = 0;  // from all nodes that list it
    std::vector<uint16_t> holders;  // of further copies, ascending
  };

  // `records`: each with the index of its member. Null if nothing is hot.
  static std::shared_ptr<const HotView> Make(absl::Span<const std::pair<uint16_t, const HotRecord*>> records);

  // In order of name.
  absl::Span<const Encoding> encodings() const { return encodings_; }
  // Null if it is not hot.
  const Encoding* Find(const HotName& name) const;
  // The members that hold a further copy of this identity, in any namespace and codec; a request to them for another
  // namespace or codec may miss. An identity that is hot in several namespaces has the same further members in all.
  absl::Span<const uint16_t> Holders(const Identity& identity) const;

 private:
  std::vector<Encoding> encodings_;
  absl::flat_hash_map<Identity, absl::InlinedVector<uint16_t, 8>> holders_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_HOT_H_
