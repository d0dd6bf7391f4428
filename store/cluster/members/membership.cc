// One thread reads, watches, and reads again whenever the watch cannot continue. After each batch the contents are
// those of one revision, because a watch delivers all changes of a revision together; views are made only between
// batches.
//
// etcd reports progress to a quiet watch every progress_interval, so an etcd that is silent for longer does not answer,
// and health() says so.
#include "store/cluster/members/membership.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/status.h"

namespace kvlink::store::cluster {
namespace {

// Limit of one read; the destructor may wait that long.
constexpr absl::Duration kReadTimeout = absl::Seconds(5);
constexpr absl::Duration kMinPause = absl::Milliseconds(100), kMaxPause = absl::Seconds(5);
constexpr size_t kMaxNames = 16;

// NOT_FOUND, naming the clusters that etcd holds if it can be asked.
absl::Status NoSuchCluster(const Connection& connection, absl::Time deadline) {
  const std::string where = absl::StrCat("etcd at ", connection.ToString());
  const absl::string_view endpoints = absl::string_view(where).substr(0, where.rfind('/'));
  const auto got = connection.client()->Get("", {.prefix = true}, deadline);
  std::set<std::string> names;
  if (got.ok()) {
    for (const etcd::KeyValue& one : got->found) {
      const std::vector<std::string> parts = absl::StrSplit(one.key, '/');
      if (parts.size() == 2 && parts[1] == "cluster" && ValidateClusterName(parts[0]).ok()) names.insert(parts[0]);
    }
  }
  std::string holds = "create it with kvlink cluster create";
  if (!names.empty()) {
    const bool many = names.size() > kMaxNames;
    if (many) names.erase(std::next(names.begin(), kMaxNames), names.end());
    holds = absl::StrCat("it holds ", absl::StrJoin(names, ", "), many ? " and others" : "",
                         ": append one to the address, as in HOST:PORT/", *names.begin());
  }
  return absl::NotFoundError(absl::StrCat(endpoints, " holds no cluster '", connection.cluster(), "'; ", holds));
}

absl::Status OtherCluster(const Connection& connection, const std::array<uint8_t, 16>& found,
                          const std::array<uint8_t, 16>& wanted) {
  return absl::FailedPreconditionError(absl::StrCat("etcd at ", connection.ToString(), " now holds cluster ",
                                                    IdHex(found), " under this name, not cluster ", IdHex(wanted),
                                                    ": it was deleted and another one created; restart this process "
                                                    "to use the new one"));
}

}  // namespace

Membership::Membership(MembershipOptions options, std::unique_ptr<Connection> connection)
    : options_(std::move(options)), connection_(std::move(connection)), contents_(options_.address.name) {}

absl::StatusOr<std::unique_ptr<Membership>> Membership::Open(MembershipOptions options, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(auto connection, Connection::Open(options.address));
  std::unique_ptr<Membership> membership(new Membership(std::move(options), std::move(connection)));
  KVLINK_RETURN_IF_ERROR(membership->ReadAnew(deadline));
  if (absl::IsNotFound(membership->published_)) return NoSuchCluster(*membership->connection_, deadline);
  if (membership->view() == nullptr) return membership->published_;
  membership->thread_ = Thread("cluster-watch", [raw = membership.get()] { raw->Run(); });
  return membership;
}

Membership::~Membership() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    if (waiting_ != nullptr) waiting_->Cancel();
    changed_.SignalAll();
  }
  thread_.Join();
}

std::shared_ptr<const View> Membership::view() const {
  MutexLock lock(&mutex_);
  return view_;
}

std::shared_ptr<const View> Membership::WaitForChange(const std::shared_ptr<const View>& than,
                                                      absl::Time deadline) const {
  MutexLock lock(&mutex_);
  while (view_ == than && SteadyNow() < deadline) changed_.WaitUntil(&mutex_, deadline);
  return view_;
}

MembershipHealth Membership::health() const {
  MutexLock lock(&mutex_);
  return health_;
}

std::map<NodeId, ProgressRecord> Membership::progress() const {
  MutexLock lock(&contents_mutex_);
  return contents_.progress();
}

int64_t Membership::RevisionOf(KeyKind kind, const NodeId& id) const {
  MutexLock lock(&contents_mutex_);
  return contents_.RevisionOf(kind, id);
}

bool Membership::Removed(const NodeId& id) const {
  MutexLock lock(&contents_mutex_);
  return contents_.Removed(id);
}

absl::Status Membership::ReadAnew(absl::Time deadline) {
  watch_.reset();
  client_ = connection_->client();
  const std::string prefix = options_.address.name + "/";
  KVLINK_ASSIGN_OR_RETURN(const etcd::GetResult got, client_->Get(prefix, {.prefix = true}, deadline));
  Contents contents(options_.address.name);
  for (const etcd::KeyValue& one : got.found) contents.Put(one);
  contents.set_revision(got.revision);
  {
    MutexLock lock(&contents_mutex_);
    if (std::exchange(went_back_, false) || got.revision < contents_.revision()) {
      Tell(Severity::kError, "etcd_set_back",
           absl::StrCat("etcd is at revision ", got.revision, " but was at ", contents_.revision(),
                        ": it was restored from an older snapshot; everything was read again"));
    }
    contents_ = std::move(contents);
  }
  {
    MutexLock lock(&mutex_);
    health_.revision = got.revision;
  }
  published_ = Publish();
  SetHealth(published_);
  watch_ = client_->WatchFrom(prefix, true, got.revision + 1);
  return absl::OkStatus();
}

// Applies one batch of the watch. Errors of etcd::Watch::Next; CANCELLED: the membership ends.
absl::Status Membership::Follow() {
  const etcd::ClientOptions& etcd = options_.address.etcd;
  const absl::Time deadline = SteadyNow() + etcd.progress_interval + etcd.connect_timeout + 2 * etcd.answer_timeout;
  {
    MutexLock lock(&mutex_);
    if (stop_) return absl::CancelledError("the membership is closing");
    waiting_ = watch_.get();
  }
  const auto batch = watch_->Next(deadline);
  {
    MutexLock lock(&mutex_);
    waiting_ = nullptr;
    if (batch.ok()) health_.revision = batch->revision;
  }
  KVLINK_RETURN_IF_ERROR(batch.status());
  bool changed = false;
  {
    MutexLock lock(&contents_mutex_);
    for (const etcd::Event& event : batch->events) {
      const auto key = ParseKey(options_.address.name, event.key_value.key);
      changed |= key.has_value() && key->kind != KeyKind::kProgress;
      if (event.deleted) {
        contents_.Delete(event.key_value.key);
      } else {
        contents_.Put(event.key_value);
      }
    }
    contents_.set_revision(batch->revision);
  }
  if (changed) published_ = Publish();
  SetHealth(published_);
  return absl::OkStatus();
}

// Makes a view of the contents. On an error of Check() or MakeView(), or for another cluster, the last view stays.
absl::Status Membership::Publish() {
  MutexLock contents_lock(&contents_mutex_);
  KVLINK_RETURN_IF_ERROR(contents_.Check());
  const std::shared_ptr<const View> before = view();
  const std::array<uint8_t, 16>& found = contents_.settings()->record.id;
  const std::optional<std::array<uint8_t, 16>> wanted =
      before != nullptr ? std::optional(before->settings.id) : options_.cluster_id;
  if (wanted.has_value() && *wanted != found) return OtherCluster(*connection_, found, *wanted);
  KVLINK_ASSIGN_OR_RETURN(const std::shared_ptr<const View> made, contents_.MakeView(before));
  if (before != nullptr && before->placement.epoch() != made->placement.epoch()) {
    const bool back = made->placement.epoch() < before->placement.epoch();
    Tell(
        back ? Severity::kError : Severity::kInfo, back ? "epoch_went_back" : "epoch",
        absl::StrCat("epoch ", made->placement.epoch(), " after ", before->placement.epoch(), ", ", made->status.size(),
                     " members", contents_.epoch().has_value() ? ": " + contents_.epoch()->record.change : ""));
  }
  if (options_.on_view) options_.on_view(made);
  MutexLock lock(&mutex_);
  view_ = made;
  changed_.SignalAll();
  // An error here leaves the view valid, but a living member may be missing.
  return contents_.CheckLiveness();
}

void Membership::SetHealth(const absl::Status& status) {
  absl::Status before;
  {
    MutexLock lock(&mutex_);
    before = std::exchange(health_.status, status);
    if (status.ok()) health_.since = SteadyNow();
    if (view_ == nullptr) return;  // Open returns it
  }
  if (before.code() == status.code()) return;
  if (status.ok()) {
    Tell(Severity::kInfo, "cluster_view_current", "the view of the cluster matches etcd again");
  } else {
    Tell(Severity::kWarning, "cluster_view_old", status.message());
  }
}

// Call after an error of reading or watching.
void Membership::Recover(const absl::Status& why) {
  if (absl::IsCancelled(why)) return;
  SetHealth(why);
  if (absl::IsDeadlineExceeded(why) || absl::IsUnavailable(why)) return;  // the watch resumes by itself
  went_back_ |= absl::IsDataLoss(why);
  watch_.reset();
  // If no other client can be opened, the next read fails for the same reason.
  if (NeedsAnotherClient(why)) connection_->Renew(client_).IgnoreError();
}

void Membership::Tell(Severity severity, absl::string_view event, absl::string_view what) const {
  if (options_.events) options_.events(severity, event, what);
}

void Membership::Run() {
  std::minstd_rand random(std::random_device{}());
  absl::Duration pause = kMinPause;
  for (;;) {
    const absl::Status status = watch_ == nullptr ? ReadAnew(SteadyNow() + kReadTimeout) : Follow();
    if (status.ok()) {
      pause = kMinPause;
    } else {
      Recover(status);
    }
    MutexLock lock(&mutex_);
    if (stop_) return;
    if (status.ok() || watch_ != nullptr) continue;
    const absl::Time until = SteadyNow() + pause * std::uniform_real_distribution<>(0.5, 1)(random);
    pause = std::min(2 * pause, kMaxPause);
    while (!stop_ && SteadyNow() < until) changed_.WaitUntil(&mutex_, until);
    if (stop_) return;
  }
}

}  // namespace kvlink::store::cluster
