// All that etcd holds of one cluster at one revision, and the view of it. Of this folder.
// Thread-safety: plain values.
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

  // One key as it is now. Others than of this cluster are ignored.
  void Put(const etcd::KeyValue& key_value);
  void Delete(absl::string_view key);
  void set_revision(int64_t revision) { revision_ = revision; }

  int64_t revision() const { return revision_; }
  // The first record that stands in the way of a view, or OK. NOT_FOUND: there is no cluster.
  absl::Status Check() const;
  // Of who is alive, of progress, of what is hot: records that are as none.
  absl::Status CheckLiveness() const;
  // Whether the node left or was removed and has not joined again (EpochRecord::removed).
  bool Removed(const NodeId& id) const;
  // REQUIRES: Check() is OK. The placement of `before`, which may be null, is kept where it is that of these members.
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
  const std::map<NodeId, ProgressRecord>& progress() const { return progress_; }

 private:
  std::string cluster_name_;
  int64_t revision_ = 0;
  std::optional<Stored<ClusterSettings>> settings_;
  std::optional<Stored<EpochRecord>> epoch_;
  std::map<NodeId, Stored<MemberRecord>> members_;
  std::map<NodeId, Stored<AliveRecord>> alive_;
  std::map<NodeId, ProgressRecord> progress_;
  std::map<NodeId, HotRecord> hot_;
  std::map<std::string, absl::Status> wrong_, wrong_liveness_;  // by key
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_CONTENTS_H_
