// A running node's entry in etcd: its member record and, under a lease, records that it is alive, of its progress, and
// of what is hot on it.
//
// The object keeps the lease alive and, if it is lost, obtains another; no slots move meanwhile. Of two processes with
// one node id (a copied directory) the later is refused. When a node is restarted, its new process replaces the
// previous one: at once if it listens at the address of that one, else once the previous lease has ended.
//
// A copy must not take the place of a node that is down for a moment, either: the node could not return, and what only
// it holds would be lost. So the directory and etcd both keep a number that grows when the node enters and when it
// leaves. A directory whose number is below etcd's was not the last to be the member, and is refused.
// (A copy that is killed between keeping a number and being refused keeps a number that it may not have.)
//
// Thread-safety: all methods. Ownership: starts one thread, `cluster-member`, and the lease's. Lifetime: the Membership
// must outlive it. The destructor revokes the lease (which takes some seconds at most) and leaves the member record.
#ifndef KVLINK_STORE_CLUSTER_MEMBERS_REGISTRATION_H_
#define KVLINK_STORE_CLUSTER_MEMBERS_REGISTRATION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/cluster/members/administration.h"
#include "store/cluster/members/membership.h"
#include "store/cluster/members/records.h"

namespace kvlink::store::cluster {

struct RegistrationOptions {
  NodeId node_id = {};
  uint64_t incarnation = 0;
  // Weight and zone apply when the node joins; later they change only in etcd. The state is ignored.
  MemberRecord record;
  // Whether the process listens at record.address, so that a process registered there before it must have ended.
  bool listens_there = true;
  // The number that the directory keeps; 0: none.
  uint64_t entered = 0;
  // Durably replaces the number, if OK. Called by Start, the thread and the destructor.
  std::function<absl::Status(uint64_t entered)> keep;
  absl::Duration ttl = absl::Seconds(10);
  EventSink events;  // may be empty
};

class Registration {
 public:
  // Registers the node; on return it is a living member in the view of `membership`. Waits for the lease of a dead
  // process with this node id to end. ALREADY_EXISTS: another process with this node id is alive, or another directory
  // was the last to be the member; the message names both addresses. DEADLINE_EXCEEDED: etcd did not report the
  // registration in time. Errors of administration.h.
  static absl::StatusOr<std::unique_ptr<Registration>> Start(Membership* membership, RegistrationOptions options,
                                                             absl::Time deadline);
  // Waits, as Start, until the node may be registered, but writes nothing. Call it before steps that must not be taken
  // for a copied directory. Errors of Start.
  static absl::Status AwaitPlace(Membership* membership, const RegistrationOptions& options, absl::Time deadline);
  ~Registration();
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

  // Publishes the node's progress. Only the latest is written, at once if complete, else at most once a second.
  void Publish(const ProgressRecord& progress);
  // Publishes what is hot on the node. Only the latest is written, at most once a second.
  void Publish(const HotRecord& hot);
  // Calls CompleteDrain (administration.h), after which ended() is OK, also if it is called again (NOT_FOUND) before
  // the view shows it. Errors of CompleteDrain.
  absl::Status LeaveDrained(uint64_t epoch, const Filled& filled, absl::Time deadline);
  // Whether, as far as this process knows, etcd holds the lease that tells other members that the node is alive.
  bool lease_held() const;
  // nullopt while the node is a member. Afterwards, for good: OK: it drained and left; NOT_FOUND: it was removed;
  // ALREADY_EXISTS: another process took its place. The node should then end.
  std::optional<absl::Status> ended() const;

 private:
  enum class Entry {
    kLook,    // check whether it could start
    kStart,   // as a member, added if new
    kRenew,   // as the member it is
    kReturn,  // as the member it was before etcd went back
  };
  // A record to write under the lease.
  struct Draft {
    std::string bytes;
    bool at_once = false;
  };
  struct Written {
    std::string bytes;                        // empty: it is not known what etcd holds
    int64_t revision = 0;                     // of the key, as last known; 0: none
    absl::Time again = absl::InfinitePast();  // when the next draft that is not at_once may be written
  };
  // A lease that is kept alive, and the client that keeps it. Once etcd went back, that client can do no more than
  // this.
  struct Lease {
    std::shared_ptr<etcd::Client> client;
    std::unique_ptr<etcd::KeepAlive> keep;
  };

  Registration(Membership* membership, RegistrationOptions options);
  absl::Status Enter(Entry entry, absl::Time deadline);
  absl::StatusOr<bool> TryEnter(Entry entry, AliveRecord* other, absl::Time deadline);
  absl::StatusOr<bool> Take(std::shared_ptr<etcd::Client> client, const MemberDraft& draft, int64_t alive_revision,
                            int64_t entered_revision, absl::Time deadline);
  void Keep(uint64_t entered);
  void GiveBack();
  void Leave(etcd::LeaseId lease, absl::Time deadline);
  absl::Status Outdated(const AliveRecord& last, Entry entry) const;
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

  // Used by Start, then only by the thread, and by the destructor after it.
  Lease lease_;                         // empty: none
  std::map<KeyKind, Written> written_;  // under this lease
  uint64_t entered_;                    // kept by the directory
  uint64_t held_;                       // when the directory last held the place: at its start, or since it entered
  bool unanswered_ = false;             // a commit of an entry may have been, or may be, carried out

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
