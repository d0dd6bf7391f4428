// Exactly once, in order: etcd sends all events of a revision together, so the events not yet reported are those above
// the last reported revision. A stream is opened at that last revision rather than the one after it, because newer
// releases do not report progress while a watch begins in the future. Repeated events are dropped, also those that etcd
// itself sends twice (releases before 2023). Hence a watch never continues at exactly the revision at which etcd was
// compacted, although it could: releases before 2025 silently drop a deletion of that revision.
//
// A member must have reached every revision reported so far, and the one before the caller's first. An etcd restored
// from an older state would send other events under the same revisions, and they would be dropped. This is checked when
// a stream opens.
//
// Only responses ordered with the stream's events may advance the start of the next stream: events, and the progress
// that etcd reports by itself, under the watch's number. Requested progress may overtake events.
#include "etcd/watch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "etcd/cancellation.h"
#include "etcd/cluster_channel.h"
#include "etcd/watch_stream.h"

namespace kvlink::etcd {
namespace {

constexpr int64_t kWatchId = 1;
constexpr size_t kMaxRevisionBytes = 64 << 20;
// Pause between attempts with members that accept connections but no watch.
constexpr absl::Duration kPause = absl::Milliseconds(100);

bool IsPassing(const absl::Status& status) { return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status); }

}  // namespace

Watch::Watch(ClusterChannel* cluster, std::string key, std::string range_end, int64_t revision)
    : cluster_(cluster),
      key_(std::move(key)),
      range_end_(std::move(range_end)),
      cancellation_(std::make_unique<Cancellation>()),
      next_revision_(std::max<int64_t>(1, revision)) {
  cluster_->Saw(next_revision_ - 1);
}

Watch::~Watch() = default;

void Watch::Cancel() { cancellation_->Cancel(); }

absl::StatusOr<WatchBatch> Watch::Next(absl::Time deadline) {
  if (!ended_.ok()) return ended_;
  auto batch = NextOrEnd(deadline);
  if (cancellation_->cancelled() && !batch.ok()) batch = absl::CancelledError("the watch was cancelled");
  if (!batch.ok() && !absl::IsDeadlineExceeded(batch.status())) {
    ended_ = batch.status();
    stream_.reset();
  }
  return batch;
}

absl::StatusOr<WatchBatch> Watch::NextOrEnd(absl::Time deadline) {
  const ClientOptions& options = cluster_->options();
  while (!cancellation_->cancelled()) {
    if (stream_ == nullptr) {
      const absl::Status opened = OpenStream(deadline);
      if (IsPassing(opened)) return absl::DeadlineExceededError(opened.message());
      KVLINK_RETURN_IF_ERROR(opened);
    }
    const bool asked = asked_ != absl::InfinitePast();
    const absl::Time due = asked ? asked_ + options.answer_timeout : heard_ + options.progress_interval;
    absl::StatusOr<std::optional<Response>> response;
    {
      Cancellation::Scope scope(cancellation_.get(), stream_->context());
      response = stream_->Next(std::min(deadline, due));
    }
    if (!response.ok()) {
      Leave(response.status());
    } else if (response->has_value()) {
      KVLINK_ASSIGN_OR_RETURN(std::optional<WatchBatch> batch, Take(*std::move(*response)));
      if (batch.has_value()) return *std::move(batch);
    } else if (SteadyNow() < due) {
      break;
    } else if (asked) {
      Leave(absl::DeadlineExceededError("no answer in time"));
    } else {
      stream_->AskProgress();
      asked_ = SteadyNow();
    }
  }
  return absl::DeadlineExceededError(trouble_.ok()
                                         ? "etcd: no change and no progress in time"
                                         : absl::StrCat("etcd: no answer in time; last error: ", trouble_.message()));
}

absl::Status Watch::OpenStream(absl::Time deadline) {
  if (!trouble_.ok()) cancellation_->SleepUntil(std::min(deadline, heard_ + kPause));
  KVLINK_ASSIGN_OR_RETURN(endpoint_, cluster_->Connect(deadline, cancellation_.get()));
  etcdserverpb::WatchRequest request;
  etcdserverpb::WatchCreateRequest* const create = request.mutable_create_request();
  create->set_key(key_);
  create->set_range_end(range_end_);
  create->set_start_revision(std::max<int64_t>(1, next_revision_ - 1));
  create->set_progress_notify(true);
  create->set_watch_id(kWatchId);
  create->set_fragment(true);
  stream_ = std::make_unique<WatchStream>();
  token_ = cluster_->PrepareStream(stream_->context());
  stream_->Start(endpoint_->watch.get(), std::move(request));
  asked_ = heard_ = SteadyNow();
  return absl::OkStatus();
}

void Watch::Leave(const absl::Status& why) {
  if (absl::IsUnauthenticated(why)) cluster_->DropToken(token_);
  trouble_ = Annotate(why, endpoint_->address);
  heard_ = SteadyNow();
  stream_.reset();
  fragments_.reset();
  cluster_->Leave(endpoint_->number);
}

absl::StatusOr<std::optional<WatchBatch>> Watch::Take(Response response) {
  heard_ = SteadyNow();
  asked_ = absl::InfinitePast();
  if (absl::Status cluster = cluster_->CheckCluster(*endpoint_, response.header()); !cluster.ok()) {
    Leave(cluster);
    return std::nullopt;
  }
  if (response.canceled()) {
    KVLINK_RETURN_IF_ERROR(TakeEnd(response));
    return std::nullopt;
  }
  if (response.created()) return std::nullopt;
  trouble_ = absl::OkStatus();
  token_renewed_ = false;
  if (fragments_ != nullptr) {
    fragments_->mutable_events()->MergeFrom(response.events());
    response.mutable_events()->Swap(fragments_->mutable_events());
    fragments_.reset();
  }
  if (response.fragment()) KVLINK_RETURN_IF_ERROR(KeepLastRevision(&response));
  if (response.events_size() > 0) return TakeEvents(response);
  if (fragments_ != nullptr) return std::nullopt;
  // A member that lags behind has nothing to report yet.
  const int64_t revision = response.header().revision();
  if (revision + 1 < next_revision_) return std::nullopt;
  cluster_->Saw(revision);
  if (response.watch_id() == kWatchId) next_revision_ = revision + 1;
  return WatchBatch{{}, revision};
}

// More of the last revision may follow in the next fragment; earlier revisions are complete.
absl::Status Watch::KeepLastRevision(Response* response) {
  const int count = response->events_size();
  int first = count;
  while (first > 0 &&
         response->events(first - 1).kv().mod_revision() == response->events(count - 1).kv().mod_revision()) {
    --first;
  }
  fragments_ = std::make_unique<Response>();
  for (int i = first; i < count; ++i) fragments_->add_events()->Swap(response->mutable_events(i));
  response->mutable_events()->DeleteSubrange(first, count - first);
  if (fragments_->ByteSizeLong() <= kMaxRevisionBytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("etcd: the changes of one revision exceed ", kMaxRevisionBytes >> 20,
                                                   " MiB: read them again in parts"));
}

absl::Status Watch::TakeEnd(const Response& response) {
  const std::string& reason = response.cancel_reason();
  if (response.compact_revision() > 0) {
    compact_revision_ = response.compact_revision();
    return absl::OutOfRangeError(absl::StrCat("etcd has compacted the changes after revision ", next_revision_ - 1,
                                              ", up to ", *compact_revision_, ": read again"));
  }
  const bool nobody =
      absl::StrContains(reason, "user name is empty") || absl::StrContains(reason, "invalid auth token");
  if (!nobody && !absl::StrContains(reason, "permission denied")) {
    Leave(absl::UnavailableError(absl::StrCat("ended the watch: ", reason)));
    return absl::OkStatus();
  }
  // Some releases report an expired token as missing permission.
  if (!cluster_->options().user.empty() && !std::exchange(token_renewed_, true)) {
    Leave(absl::UnauthenticatedError(reason));
    return absl::OkStatus();
  }
  const std::string where = absl::StrCat("etcd at ", endpoint_->address, ": ");
  if (cluster_->options().user.empty()) {
    return absl::UnauthenticatedError(absl::StrCat(where, "requires a user and a password; none was given"));
  }
  return nobody ? absl::UnauthenticatedError(absl::StrCat(where, reason))
                : absl::PermissionDeniedError(
                      absl::StrCat(where, "user ", cluster_->options().user, " may not read the watched keys"));
}

std::optional<WatchBatch> Watch::TakeEvents(const Response& response) {
  WatchBatch batch;
  for (const etcdserverpb::Event& event : response.events()) {
    const etcdserverpb::KeyValue& kv = event.kv();
    if (kv.mod_revision() < next_revision_) continue;
    batch.revision = std::max(batch.revision, kv.mod_revision());
    KeyValue told{kv.key().substr(cluster_->options().prefix.size()), kv.value(), kv.create_revision(),
                  kv.mod_revision(), kv.lease()};
    batch.events.push_back({event.type() == etcdserverpb::Event::DELETE, std::move(told)});
  }
  if (batch.events.empty()) return std::nullopt;
  next_revision_ = batch.revision + 1;
  cluster_->Saw(batch.revision);
  return batch;
}

}  // namespace kvlink::etcd
