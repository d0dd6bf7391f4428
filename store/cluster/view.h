// A cluster as one process knows it now: its settings, its members, who of them is alive, and the placement that
// follows. Clients choose nodes by it, and nodes what they own.
//
// Thread-safety: a View is an immutable value, shared; ViewSource: all methods.
#ifndef KVLINK_STORE_CLUSTER_VIEW_H_
#define KVLINK_STORE_CLUSTER_VIEW_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "store/cluster/hot.h"
#include "store/cluster/placement.h"

namespace kvlink::store::cluster {

// What holds for all of a cluster; written when it is made.
struct ClusterSettings {
  std::array<uint8_t, 16> id = {};  // chosen at random: another cluster of the same name is another cluster
  std::string name;
  int copies = 2;        // owners of each slot
  int acknowledged = 2;  // copies that are durable before a write is acknowledged, 1 .. copies
  std::string database;  // of the catalog: a connection string of PostgreSQL, without a password
};

// Of a member, what its placement does not say.
struct MemberStatus {
  std::string address;  // host:port of its control service
  std::string build;
  // Set while it keeps its lease: which start of the node that is. Nothing moves because it is gone.
  std::optional<uint64_t> incarnation;
  int64_t alive_since = 0;  // etcd's revision at which it came alive; changes with each lease
  bool operator==(const MemberStatus&) const = default;
};

struct View {
  ClusterSettings settings;
  Placement placement;
  std::vector<MemberStatus> status;    // in the order of placement.members()
  std::shared_ptr<const HotView> hot;  // null: nothing is hot

  bool alive(uint16_t member) const { return status[member].incarnation.has_value(); }
  // Members that hold further copies of the identity (hot.h).
  absl::Span<const uint16_t> FurtherHolders(const Identity& identity) const {
    return hot == nullptr ? absl::Span<const uint16_t>() : hot->Holders(identity);
  }
};

class ViewSource {
 public:
  virtual ~ViewSource() = default;
  // The latest; never null. Cheap: a pointer is copied.
  virtual std::shared_ptr<const View> view() const = 0;
  // Waits until there is another view than `than`, or the deadline, and returns the latest.
  virtual std::shared_ptr<const View> WaitForChange(const std::shared_ptr<const View>& than,
                                                    absl::Time deadline) const = 0;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_VIEW_H_
