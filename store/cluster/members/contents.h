// The records that etcd holds of one cluster at one revision, from which it makes a view. Internal to this folder.
//
// Thread-safety: none; a plain value.
#ifndef KVLINK_STORE_CLUSTER_MEMBERS_CONTENTS_H_
#define KVLINK_STORE_CLUSTER_MEMBERS_CONTENTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "etcd/types.h"
#include "store/cluster/members/records.h"
#include "store/cluster/view.h"

namespace kvlink::store::cluster {

class Contents {
 public:
  explicit Contents(std::string cluster = "") : cluster_name_(std::move(cluster)) {}

  // Put() and Delete() apply one change of a key. They ignore keys that do not belong to this cluster.
  void Put(const etcd::KeyValue& key_value);
  void Delete(absl::string_view key);
  void set_revision(int64_t revision) { revision_ = revision; }

  int64_t revision() const { return revision_; }
  // OK, or why no view can be made. NOT_FOUND: there is no cluster. INVALID_ARGUMENT: a record is malformed, or that of
  // the epoch is missing. UNIMPLEMENTED: a record has a newer format.
  absl::Status Check() const;
  // As Check(), for records of liveness, progress and hot encodings. Those that are malformed count as absent.
  absl::Status CheckLiveness() const;
  // Whether the node left or was removed and has not joined again (EpochRecord::removed).
  bool Removed(const NodeId& id) const;
  // REQUIRES: Check() is OK. Keeps the placement of `before`, which may be null, if it has the same epoch and members.
  // Errors of Placement::Compute.
  absl::StatusOr<std::shared_ptr<const View>> MakeView(const std::shared_ptr<const View>& before) const;

  template <typename Record>
  struct Stored {
    Record record;
    int64_t revision = 0;  // at which it was written
  };
  const std::optional<Stored<ClusterSettings>>& settings() const { return settings_; }
  const std::optional<Stored<EpochRecord>>& epoch() const { return epoch_; }
  const std::map<NodeId, Stored<MemberRecord>>& members() const { return members_; }
  const std::map<NodeId, Stored<AliveRecord>>& alive() const { return alive_; }
  std::map<NodeId, ProgressRecord> progress() const;
  // At which the member's record of this kind, kProgress or kHot, was written; 0: there is none.
  int64_t RevisionOf(KeyKind kind, const NodeId& id) const;

 private:
  std::string cluster_name_;
  int64_t revision_ = 0;
  std::optional<Stored<ClusterSettings>> settings_;
  std::optional<Stored<EpochRecord>> epoch_;
  std::map<NodeId, Stored<MemberRecord>> members_;
  std::map<NodeId, Stored<AliveRecord>> alive_;
  std::map<NodeId, Stored<ProgressRecord>> progress_;
  std::map<NodeId, Stored<HotRecord>> hot_;
  std::map<std::string, absl::Status> wrong_, wrong_liveness_;  // by key
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_CONTENTS_H_
