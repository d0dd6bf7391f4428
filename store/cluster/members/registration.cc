// The alive key is written under one lease at a time, on condition that it has not changed since it was read, so that
// two processes cannot both claim it; the member's record is replaced in the same transaction, on the same condition,
// and what the process before published goes: this one has not compared what it holds with the others yet.
// If the key names a process that this one may not displace, Enter() waits for as long as an abandoned lease can live;
// a process that is still there after that is alive.
//
// The number of the last entry (`entered`) is an incarnation, or one more than before if that is greater; and one more
// once the node has left. The directory gets it before etcd: after a crash between the two, and after etcd has gone
// back, the directory is ahead, and may enter.
//
// The thread polls the view several times a second rather than waiting for a change, because it also waits for a lost
// lease and for drafts to write; looking at an unchanged view is cheap.
#include "store/cluster/members/registration.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(200), kCallTimeout = absl::Seconds(5);
constexpr absl::Duration kBetweenDrafts = absl::Seconds(1);
constexpr absl::Duration kRevokeTimeout = absl::Seconds(2);
// Added to twice a lease's time, which is the longest that an abandoned lease lives: etcd restarts its time when the
// leader changes.
constexpr absl::Duration kGrace = absl::Seconds(2);

}  // namespace

Registration::Registration(Membership* membership, RegistrationOptions options)
    : membership_(membership), options_(std::move(options)), entered_(options_.entered), held_(options_.entered) {}

absl::StatusOr<std::unique_ptr<Registration>> Registration::Start(Membership* membership, RegistrationOptions options,
                                                                  absl::Time deadline) {
  std::unique_ptr<Registration> registration(new Registration(membership, std::move(options)));
  const absl::Status entered = registration->Enter(Entry::kStart, deadline);
  if (!entered.ok()) {
    if (!registration->unanswered_) registration->GiveBack();
    return entered;
  }
  std::shared_ptr<const View> view = membership->view();
  while (!registration->Alive(*view)) {
    if (SteadyNow() >= deadline) {
      const absl::Status why = membership->health().status;
      return absl::DeadlineExceededError(
          absl::StrCat("etcd did not confirm in time that the node is a member", why.ok() ? "" : ": ", why.message()));
    }
    view = membership->WaitForChange(view, deadline);
  }
  registration->thread_ = Thread("cluster-member", [raw = registration.get()] { raw->Run(); });
  return registration;
}

absl::Status Registration::AwaitPlace(Membership* membership, const RegistrationOptions& options, absl::Time deadline) {
  Registration looks(membership, options);
  return looks.Enter(Entry::kLook, deadline);
}

Registration::~Registration() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    wake_.SignalAll();
  }
  thread_.Join();
  if (lease_.keep == nullptr) return;
  const etcd::LeaseId id = lease_.keep->id();
  lease_.keep = nullptr;
  const absl::Time deadline = SteadyNow() + kRevokeTimeout;
  // A directory that lost its place must not become as recent as the one that has it.
  if (!ended().has_value()) Leave(id, deadline);
  // If etcd is unreachable, the lease expires by itself.
  membership_->connection()->client()->Revoke(id, deadline).IgnoreError();
}

// Outdates copies that were made of the directory while the node ran, unless another process or a removal came first.
void Registration::Leave(etcd::LeaseId lease, absl::Time deadline) {
  const uint64_t before = entered_;
  Keep(entered_ + 1);
  if (entered_ == before) return;
  const std::string& cluster = membership_->connection()->cluster();
  etcd::Compare member = etcd::Compare::ModRevision(KeyOf(cluster, KeyKind::kMember, options_.node_id), 0);
  member.relation = etcd::Compare::Relation::kGreater;
  const auto left = membership_->connection()->client()->Commit(
      {{etcd::Compare::Lease(KeyOf(cluster, KeyKind::kAlive, options_.node_id), lease), std::move(member)},
       {etcd::PutOp{KeyOf(cluster, KeyKind::kEntered, options_.node_id),
                    SerializeAlive({entered_, options_.record.address})}},
       {}},
      deadline);
  if (left.ok() && !left->succeeded) GiveBack();
}

// On an error, as of a full disk, the directory and etcd stay equal.
void Registration::Keep(uint64_t entered) {
  if (entered <= entered_) return;
  const absl::Status kept = options_.keep(entered);
  if (kept.ok()) {
    entered_ = entered;
  } else {
    Tell(Severity::kWarning, "member_entry_not_kept", kept.message());
  }
}

// A number that was kept for an entry which failed. A copy that held on to it could pass for the node later.
void Registration::GiveBack() {
  if (entered_ <= held_) return;
  const absl::Status kept = options_.keep(held_);
  if (kept.ok()) {
    entered_ = held_;
  } else {
    Tell(Severity::kWarning, "member_entry_not_given_back", kept.message());
  }
}

// Complete progress is written at once, since other members wait for it.
void Registration::Publish(const ProgressRecord& progress) {
  Publish(KeyKind::kProgress, {SerializeProgress(progress), progress.complete()});
}

void Registration::Publish(const HotRecord& hot) { Publish(KeyKind::kHot, {SerializeHot(hot)}); }

void Registration::Publish(KeyKind kind, Draft draft) {
  MutexLock lock(&mutex_);
  drafts_[kind] = std::move(draft);
  wake_.SignalAll();
}

absl::Status Registration::LeaveDrained(uint64_t epoch, const Filled& filled, absl::Time deadline) {
  const auto set = [this](bool leaving) {
    MutexLock lock(&mutex_);
    return std::exchange(leaving_, leaving);
  };
  // Set before the call, so that the thread knows the reason when it sees the record gone.
  const bool again = set(true);
  const auto left = CompleteDrain(membership_->connection(), options_.node_id, epoch, filled, deadline);
  // Unless the removal may have been carried out, now or by an earlier call, the member stays, and a later removal is
  // not its own leaving.
  const bool may_have_left = left.ok() || absl::IsUnknown(left.status()) || (again && absl::IsNotFound(left.status()));
  if (!may_have_left) set(false);
  return left.status();
}

bool Registration::lease_held() const {
  MutexLock lock(&mutex_);
  return !lost_;
}

std::optional<absl::Status> Registration::ended() const {
  MutexLock lock(&mutex_);
  return ended_;
}

// Writes the member record, and the alive key under a lease. Returns when both are written, or for kLook when they
// could be.
absl::Status Registration::Enter(Entry entry, absl::Time deadline) {
  const absl::Time other_until = SteadyNow() + 2 * options_.ttl + kGrace;
  bool renewed = false;
  for (;;) {
    const std::shared_ptr<etcd::Client> client = membership_->connection()->client();
    AliveRecord other;
    const auto entered = TryEnter(entry, &other, deadline);
    if (entered.ok() && *entered) return absl::OkStatus();
    if (NeedsAnotherClient(entered.status()) && !std::exchange(renewed, true)) {
      KVLINK_RETURN_IF_ERROR(membership_->connection()->Renew(client));
      continue;
    }
    if (!entered.ok() && !absl::IsAborted(entered.status()) && !absl::IsUnknown(entered.status())) {
      return entered.status();
    }
    const bool occupied = entered.ok();
    if (occupied && SteadyNow() >= std::min(other_until, deadline)) return Occupied(other);
    if (SteadyNow() >= deadline) return entered.status();
    MutexLock lock(&mutex_);
    if (stop_) return absl::CancelledError("the node is closing");
    wake_.WaitUntil(&mutex_, std::min(deadline, SteadyNow() + kLook));
  }
}

// False if the process `other` holds the alive key. ABORTED: a record changed meanwhile; try again. ALREADY_EXISTS:
// another directory was the last to be the member.
absl::StatusOr<bool> Registration::TryEnter(Entry entry, AliveRecord* other, absl::Time deadline) {
  Connection* const connection = membership_->connection();
  const absl::Time by = std::min(deadline, SteadyNow() + kCallTimeout);
  const std::shared_ptr<etcd::Client> client = connection->client();
  const std::string key = KeyOf(connection->cluster(), KeyKind::kAlive, options_.node_id);
  const std::string entered_key = KeyOf(connection->cluster(), KeyKind::kEntered, options_.node_id);
  KVLINK_ASSIGN_OR_RETURN(const auto entered, client->Get(entered_key, {}, by));
  KVLINK_ASSIGN_OR_RETURN(const auto member,
                          client->Get(KeyOf(connection->cluster(), KeyKind::kMember, options_.node_id), {}, by));
  // An older build leaves the number behind when it removes the member.
  if (!entered.found.empty() && !member.found.empty()) {
    const auto last = ParseAlive(entered.found[0].value);
    KVLINK_RETURN_IF_ERROR(Annotate(last.status(), absl::StrCat("etcd's ", kKeyPrefix, entered_key)));
    // Unless it is this process's own, whose answer was lost. Where clocks were set back, a copy has the same number.
    const bool own = last->incarnation == entered_ && last->address == options_.record.address;
    if (last->incarnation > held_ && !own) {
      GiveBack();  // another process came before
      return Outdated(*last, entry);
    }
  }
  KVLINK_ASSIGN_OR_RETURN(const auto got, client->Get(key, {}, by));
  if (!got.found.empty()) {
    // A malformed record blocks this node only for a while: it is under a lease, too.
    const auto parsed = ParseAlive(got.found[0].value);
    if (parsed.ok()) *other = *parsed;
    if (!parsed.ok() || !Displaces(*other, entry)) {
      unanswered_ = false;  // the key has changed since, so that the commit is not carried out any more
      return false;
    }
    if (entry == Entry::kRenew && other->incarnation == options_.incarnation && lease_.keep != nullptr &&
        got.found[0].lease == lease_.keep->id() && lease_.keep->valid_until() > SteadyNow()) {
      return true;  // nothing to renew
    }
  }
  if (entry == Entry::kLook) return true;
  // A member that was removed while disconnected must not return by itself.
  const auto make = entry == Entry::kStart ? AddMember : entry == Entry::kReturn ? ReturnMember : UpdateMember;
  KVLINK_ASSIGN_OR_RETURN(const MemberDraft draft, make(connection, options_.node_id, options_.record, by));
  const MemberRecord& holds = draft.record;
  if (entry == Entry::kStart && (holds.weight != options_.record.weight || holds.zone != options_.record.zone)) {
    Tell(Severity::kInfo, "member_settings_kept",
         absl::StrCat("this member keeps weight ", holds.weight, " and zone '", holds.zone, "', not the ",
                      options_.record.weight, " and '", options_.record.zone,
                      "' it was started with: change them with kvlink members"));
  }
  // Greater than in any copy, also if a clock was set back and the incarnation is not.
  Keep(std::max(options_.incarnation, options_.entered + 1));
  const auto revision = [](const etcd::GetResult& of) { return of.found.empty() ? 0 : of.found[0].mod_revision; };
  return Take(client, draft, revision(got), revision(entered), by);
}

absl::StatusOr<bool> Registration::Take(std::shared_ptr<etcd::Client> client, const MemberDraft& draft,
                                        int64_t alive_revision, int64_t entered_revision, absl::Time deadline) {
  const std::string& cluster = membership_->connection()->cluster();
  const std::string member_key = KeyOf(cluster, KeyKind::kMember, options_.node_id);
  const std::string key = KeyOf(cluster, KeyKind::kAlive, options_.node_id);
  const std::string entered_key = KeyOf(cluster, KeyKind::kEntered, options_.node_id);
  KVLINK_ASSIGN_OR_RETURN(const etcd::Lease lease, client->Grant(options_.ttl, deadline));
  const auto committed = client->Commit(
      {{etcd::Compare::ModRevision(key, alive_revision), etcd::Compare::ModRevision(entered_key, entered_revision),
        etcd::Compare::ModRevision(member_key, draft.replaces)},
       {etcd::PutOp{key, SerializeAlive({options_.incarnation, options_.record.address}), lease.id},
        etcd::PutOp{entered_key, SerializeAlive({entered_, options_.record.address})},
        etcd::PutOp{member_key, SerializeMember(draft.record)},
        etcd::DeleteOp{KeyOf(cluster, KeyKind::kProgress, options_.node_id)},
        etcd::DeleteOp{KeyOf(cluster, KeyKind::kHot, options_.node_id)}},
       {}},
      deadline);
  if (!committed.ok() || !committed->succeeded) {
    unanswered_ |= absl::IsUnknown(committed.status()) || absl::IsDataLoss(committed.status());
    client->Revoke(lease.id, deadline).IgnoreError();
    KVLINK_RETURN_IF_ERROR(committed.status());
    return absl::AbortedError("the member's entry in etcd was changed by another process; try again");
  }
  held_ = entered_;
  lease_.keep = nullptr;
  written_.clear();
  {
    MutexLock lock(&mutex_);
    lost_ = false;
  }
  lease_.keep = client->Keep(lease, [this](const absl::Status& why) {
    Tell(Severity::kWarning, "member_lease_lost", why.message());
    MutexLock lock(&mutex_);
    lost_ = true;
    wake_.SignalAll();
  });
  lease_.client = std::move(client);
  return true;
}

// Whether this process replaces the one that the alive key names. If it listens at that one's address, that one has
// ended; its record may have come back with an older state of etcd.
bool Registration::Displaces(const AliveRecord& other, Entry entry) const {
  if (other.address != options_.record.address) return false;
  if (other.incarnation == options_.incarnation) return true;
  if (!options_.listens_there) return false;
  const bool starts = entry == Entry::kLook || entry == Entry::kStart;
  return starts || other.incarnation < options_.incarnation;
}

absl::Status Registration::Occupied(const AliveRecord& other) const {
  if (other.address == options_.record.address) {
    return absl::AlreadyExistsError(absl::StrCat(
        "node ", IdHex(options_.node_id), " already runs at ", other.address,
        ", the address that this process advertises too: give this one an empty directory if it is a copy; start it "
        "again if the other has ended, whose lease etcd keeps"));
  }
  return absl::AlreadyExistsError(
      absl::StrCat("node ", IdHex(options_.node_id), " already runs at ", other.address, ", so this process at ",
                   options_.record.address,
                   " cannot be it too: one directory is a copy of the other; give this process an empty directory"));
}

// A directory that is outdated when its process starts is the older one. That of a process which has been the member
// need not be: the other may have been copied from it.
absl::Status Registration::Outdated(const AliveRecord& last, Entry entry) const {
  if (entry == Entry::kRenew || entry == Entry::kReturn) {
    return absl::AlreadyExistsError(
        absl::StrCat("node ", IdHex(options_.node_id), " at ", options_.record.address,
                     " lost its place to a process at ", last.address,
                     ": one directory is a copy of the other, and either may hold what the other lacks; find out which "
                     "one is the node's before you delete any"));
  }
  return absl::AlreadyExistsError(absl::StrCat(
      "node ", IdHex(options_.node_id), " was last run at ", last.address,
      " from another directory, of which this one, at ", options_.record.address,
      ", is an older copy: start the node from that directory and give this process an empty one; if that directory is "
      "lost, run kvlink members remove ",
      IdHex(options_.node_id), ", then start this process again"));
}

// Whether the view shows this process as alive.
bool Registration::Alive(const View& view) const {
  const auto& members = view.placement.members();
  const auto self = std::lower_bound(members.begin(), members.end(), options_.node_id,
                                     [](const Member& one, const NodeId& id) { return one.node_id < id; });
  if (self == members.end() || self->node_id != options_.node_id) return false;
  const MemberStatus& status = view.status[self - members.begin()];
  return status.incarnation == options_.incarnation && status.address == options_.record.address;
}

// Restores missing parts of the entry, and ends the registration if the member was removed or replaced.
void Registration::Look() {
  const std::shared_ptr<const View> view = membership_->view();
  const auto& members = view->placement.members();
  const auto self = std::find_if(members.begin(), members.end(),
                                 [this](const Member& one) { return one.node_id == options_.node_id; });
  const bool member = self != members.end();
  // Removing a member leaves a note. If etcd has neither the member nor the note, it went back to before the member
  // joined.
  const bool removed = !member && membership_->Removed(options_.node_id);
  bool lost, leaving;
  {
    MutexLock lock(&mutex_);
    lost = lost_;
    leaving = leaving_;
  }
  if (removed) {
    return End(
        leaving ? absl::OkStatus()
                : absl::NotFoundError(absl::StrCat("node ", IdHex(options_.node_id), " was removed from the cluster")));
  }
  if (!lost && Alive(*view)) return;
  const absl::Status entered =
      Enter(member ? Entry::kRenew : Entry::kReturn, SteadyNow() + 2 * options_.ttl + kGrace + kCallTimeout);
  if (absl::IsAlreadyExists(entered)) return End(entered);
  if (entered.ok() && lost) Tell(Severity::kInfo, "member_lease_renewed", "the node holds its lease again");
}

// A write is conditional on the node's place and on the write before. One that etcd carries out after a later one, or
// that comes from a process which has lost its place, changes nothing. If the view does not show the last write, the
// conditions tell whether etcd has it. Only if not is it written again: a view that is late would be later for it.
void Registration::WriteDrafts() {
  std::map<KeyKind, Draft> drafts;
  {
    MutexLock lock(&mutex_);
    drafts = drafts_;
    if (lost_) return;
  }
  if (lease_.keep == nullptr) return;
  const std::string& cluster = membership_->connection()->cluster();
  const etcd::LeaseId lease = lease_.keep->id();
  for (auto& [kind, draft] : drafts) {
    Written& written = written_[kind];
    const bool same = draft.bytes == written.bytes, soon = SteadyNow() < written.again;
    // The view may show a later revision, of another writer, or an earlier one, of an etcd that went back.
    const bool there = same && (soon || membership_->RevisionOf(kind, options_.node_id) == written.revision);
    if (there || (soon && !draft.at_once)) continue;
    const std::string key = KeyOf(cluster, kind, options_.node_id);
    etcd::Transaction writes{{etcd::Compare::Lease(KeyOf(cluster, KeyKind::kAlive, options_.node_id), lease),
                              etcd::Compare::ModRevision(key, written.revision)},
                             {},
                             {etcd::GetOp{key}}};
    if (!same) writes.then.push_back(etcd::PutOp{key, draft.bytes, lease});
    const auto committed = membership_->connection()->client()->Commit(writes, SteadyNow() + kCallTimeout);
    if (!same) written.bytes.clear();
    // What failed is retried at the next look, or under the next lease.
    if (!committed.ok()) return;
    if (!committed->succeeded) {
      const std::vector<etcd::KeyValue>& found = committed->results[0].found;
      written = {"", found.empty() ? 0 : found[0].mod_revision, written.again};
      continue;
    }
    if (!same) written.revision = committed->revision;
    written.bytes = std::move(draft.bytes);
    written.again = SteadyNow() + kBetweenDrafts;
  }
}

void Registration::End(absl::Status why) {
  Tell(why.ok() ? Severity::kInfo : Severity::kError, "member_ended",
       why.ok() ? "the node has drained and left the cluster" : why.message());
  MutexLock lock(&mutex_);
  ended_ = std::move(why);
}

void Registration::Tell(Severity severity, absl::string_view event, absl::string_view what) const {
  if (options_.events) options_.events(severity, event, what);
}

void Registration::Run() {
  for (;;) {
    {
      MutexLock lock(&mutex_);
      if (stop_ || ended_.has_value()) return;
      wake_.WaitUntil(&mutex_, SteadyNow() + kLook);
      if (stop_) return;
    }
    Look();
    WriteDrafts();
  }
}

}  // namespace kvlink::store::cluster
