// A cluster as one process knows it now: its settings, its members, which of them are alive, and the placement computed
// from them. Clients choose nodes by it; nodes learn from it what they own.
//
// Thread-safety: a View is an immutable value, shared by pointer; ViewSource: all methods.
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

// Settings of a whole cluster, written when it is created.
struct ClusterSettings {
  std::array<uint8_t, 16> id = {};  // random, so that two clusters with the same name differ
  std::string name;
  int copies = 2;        // owners of each slot
  int acknowledged = 2;  // copies that are durable before a write is acknowledged, 1 .. copies
  std::string database;  // of the catalog: a PostgreSQL connection string without a password
};

// What a view knows of a member beyond its entry in the placement.
struct MemberStatus {
  std::string address;  // host:port of its control service
  std::string build;
  // The node's incarnation while the member keeps its lease, else nullopt. A lost lease moves no slots.
  std::optional<uint64_t> incarnation;
  int64_t alive_since = 0;  // etcd revision at which it came alive; changes with each lease
  bool operator==(const MemberStatus&) const = default;
};

struct View {
  ClusterSettings settings;
  Placement placement;
  std::vector<MemberStatus> status;    // in the order of placement.members()
  std::shared_ptr<const HotView> hot;  // null if nothing is hot

  bool alive(uint16_t member) const { return status[member].incarnation.has_value(); }
  // Members that hold further copies of the identity (hot.h).
  absl::Span<const uint16_t> FurtherHolders(const Identity& identity) const {
    return hot == nullptr ? absl::Span<const uint16_t>() : hot->Holders(identity);
  }
};

class ViewSource {
 public:
  virtual ~ViewSource() = default;
  // The latest view; never null. Cheap: copies a pointer.
  virtual std::shared_ptr<const View> view() const = 0;
  // Waits until the view is another than `than`, or until the deadline, and returns the latest.
  virtual std::shared_ptr<const View> WaitForChange(const std::shared_ptr<const View>& than,
                                                    absl::Time deadline) const = 0;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_VIEW_H_
