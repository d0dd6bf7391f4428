// What of a cluster is hot: encodings that are read so much that further members, beyond the owners, hold copies of
// them for a while.
//
// A node that is asked too often for one says so, with how many further copies it wants; the members that come next by
// the placement (FurtherMembers) copy it, and say that they hold it; clients then read from them as from owners. What
// nodes say lies in etcd, under their leases (docs/formats.md "Cluster records").
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

inline constexpr size_t kMaxHotRead = 16, kMaxHotHeld = 32;  // that one node names

struct HotName {
  std::string ns;
  Identity identity;
  Codec codec = Codec::kRawBf16;
  auto operator<=>(const HotName&) const = default;
};

// An encoding that is read much, as one node sees it.
struct HotRead {
  HotName name;
  int copies = 0;                 // beyond the owners, that the node wants; 0: others want some
  uint64_t reads_per_second = 0;  // at this node
  bool operator==(const HotRead&) const = default;
};

// What one node says.
struct HotRecord {
  std::vector<HotRead> read;  // each once
  std::vector<HotName> held;  // further copies that are here
  bool empty() const { return read.empty() && held.empty(); }
  bool operator==(const HotRecord&) const = default;
};

// What all of them say together.
class HotView {
 public:
  struct Encoding {
    HotName name;
    int copies = 0;                 // the most that a node wants
    uint64_t reads_per_second = 0;  // at all nodes that name it
    std::vector<uint16_t> holders;  // of further copies, ascending
  };

  // `records`: of members, by their index. Null: nothing is hot.
  static std::shared_ptr<const HotView> Make(absl::Span<const std::pair<uint16_t, const HotRecord*>> records);

  // By name.
  absl::Span<const Encoding> encodings() const { return encodings_; }
  // Null: it is not hot.
  const Encoding* Find(const HotName& name) const;
  // Members that hold further copies of encodings of this identity: of some namespace, in some codec. They are asked
  // without knowing more: whoever has it not says so, and an identity that is hot in several has the same holders.
  absl::Span<const uint16_t> Holders(const Identity& identity) const;

 private:
  std::vector<Encoding> encodings_;
  absl::flat_hash_map<Identity, absl::InlinedVector<uint16_t, 8>> holders_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_HOT_H_
