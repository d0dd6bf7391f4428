// A running node's entry in etcd: its record among the members, and under a lease that it is alive, how far it is, and
// what is hot on it.
//
// The lease is kept alive and, where it was lost, granted anew for as long as the object lives; nothing moves
// meanwhile. Of two processes with one node id (a directory that was copied) the later is refused. Where the same node
// was started again, its new process takes the place of the one before: at once if it has the same address, else when
// that one's lease has ended.
//
// Thread-safety: all methods. Ownership: starts one thread, `cluster-member`, and that of the lease. Lifetime: within
// its Membership's. The destructor revokes the lease (for some seconds at most) and leaves the record of the member.
#ifndef KVLINK_STORE_CLUSTER_MEMBERS_REGISTRATION_H_
#define KVLINK_STORE_CLUSTER_MEMBERS_REGISTRATION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/cluster/members/membership.h"
#include "store/cluster/members/records.h"

namespace kvlink::store::cluster {

struct RegistrationOptions {
  NodeId node_id = {};
  uint64_t incarnation = 0;
  // Weight and zone hold when it joins; later they are changed in etcd alone. State: ignored.
  MemberRecord record;
  absl::Duration ttl = absl::Seconds(10);
  EventSink events;  // empty: none
};

class Registration {
 public:
  // The node is a member, alive, and `membership` knows it, when it returns. ALREADY_EXISTS: another process with this
  // node id is alive; the message names both addresses. Waits for the end of the lease of one that is not. Errors as
  // administration.h.
  static absl::StatusOr<std::unique_ptr<Registration>> Start(Membership* membership, RegistrationOptions options,
                                                             absl::Time deadline);
  // Waits as Start until the node may be registered, and leaves nothing: what must not be done for a directory that is
  // a copy is done after it. Errors as Start.
  static absl::Status AwaitPlace(Membership* membership, const RegistrationOptions& options, absl::Time deadline);
  ~Registration();
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

  // How far the node is, for the others to see: only the latest is written, at once where it is complete, else once a
  // second.
  void Publish(const ProgressRecord& progress);
  // What is hot on the node: only the latest is written, once a second.
  void Publish(const HotRecord& hot);
  // CompleteDrain of administration.h, after which ended() is OK, also if it is called again (NOT_FOUND) before the
  // view shows it.
  absl::Status LeaveDrained(uint64_t epoch, absl::Time deadline);
  // Whether, as far as this process knows, etcd holds the lease by which other members know that the node is alive.
  bool lease_held() const;
  // Once the node is no member any more, for good: OK, it drained and left; NOT_FOUND: it was removed; ALREADY_EXISTS:
  // another process took its place. It should end.
  std::optional<absl::Status> ended() const;

 private:
  enum class Entry {
    kLook,    // whether it could start
    kStart,   // as a member, a new one if there is none
    kRenew,   // as the member that it is
    kReturn,  // as the member that it was before etcd was set back
  };
  // A record to be written under the lease.
  struct Draft {
    std::string bytes;
    bool at_once = false;
  };
  struct Written {
    std::string bytes;
    absl::Time again = absl::InfinitePast();  // when the next one that is not at_once may be written
  };
  // A lease that is kept, and the client that it lives in.
  struct Lease {
    std::shared_ptr<etcd::Client> client;
    std::unique_ptr<etcd::KeepAlive> keep;
  };

  Registration(Membership* membership, RegistrationOptions options);
  absl::Status Enter(Entry entry, absl::Time deadline);
  absl::StatusOr<bool> TryEnter(Entry entry, AliveRecord* other, absl::Time deadline);
  absl::StatusOr<bool> Take(std::shared_ptr<etcd::Client> client, int64_t alive_revision, absl::Time deadline);
  bool Displaces(const AliveRecord& other, Entry entry) const;
  absl::Status Occupied(const AliveRecord& other) const;
  bool Alive(const View& view) const;
  void Look();
  void Publish(KeyKind kind, Draft draft);
  void WriteDrafts();
  void End(absl::Status why);
  void Tell(Severity severity, absl::string_view event, absl::string_view what) const;
  void Run();

  Membership* const membership_;
  const RegistrationOptions options_;

  // Of the thread, and before and after it of Start and the destructor.
  Lease lease_;                         // empty: none
  std::map<KeyKind, Written> written_;  // under this lease

  mutable Mutex mutex_;
  CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;  // the lease
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<KeyKind, Draft> drafts_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> ended_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_REGISTRATION_H_
