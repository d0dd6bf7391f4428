// Each renewal is a short stream of its own, with a deadline, rather than part of one long stream. So a stalled stream
// needs no special handling, and failover is the same as for any call. One stream every few seconds costs nothing.
#include "etcd/keep_alive.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "etcd/cancellation.h"
#include "etcd/cluster_channel.h"

namespace kvlink::etcd {
namespace {

// How long before etcd may end it a lease is considered lost: time for the owner to react, and for clock differences.
absl::Duration Margin(absl::Duration ttl) { return std::min(absl::Seconds(1), ttl / 5); }

// Pause after a failed renewal (which takes time itself), as a fraction of the lease's time.
constexpr double kPauseShare = 0.05;

}  // namespace

KeepAlive::KeepAlive(ClusterChannel* cluster, const Lease& lease, Lost lost)
    : cluster_(cluster),
      id_(lease.id),
      lost_(std::move(lost)),
      cancellation_(std::make_unique<Cancellation>()),
      renewed_(lease.valid_until - lease.ttl),
      ttl_(lease.ttl),
      thread_("etcd-lease", [this] { Run(); }) {}

KeepAlive::~KeepAlive() {
  cancellation_->Cancel();
  thread_.Join();
}

absl::Time KeepAlive::valid_until() const {
  MutexLock lock(&mutex_);
  return ended_ ? absl::InfinitePast() : renewed_ + ttl_ - Margin(ttl_);
}

absl::Status KeepAlive::RenewOnce(absl::Time deadline) {
  etcdserverpb::LeaseKeepAliveRequest request;
  request.set_id(id_);
  absl::Time sent;
  etcdserverpb::LeaseKeepAliveResponse response;
  KVLINK_RETURN_IF_ERROR(
      cluster_->Call(CallKind::kRepeatable, deadline, cancellation_.get(),
                     [&](const Endpoint& endpoint, grpc::ClientContext* context, etcdserverpb::ResponseHeader* header) {
                       sent = SteadyNow();
                       const auto stream = endpoint.lease->LeaseKeepAlive(context);
                       if (!stream->Write(request) || !stream->Read(&response)) {
                         const grpc::Status status = stream->Finish();
                         return status.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream ended") : status;
                       }
                       // We have the answer; how the stream ends does not matter.
                       context->TryCancel();
                       (void)stream->Finish();
                       *header = response.header();
                       return grpc::Status::OK;
                     }));
  if (response.ttl() <= 0) return absl::NotFoundError(absl::StrCat("etcd has expired the lease ", absl::Hex(id_)));
  MutexLock lock(&mutex_);
  renewed_ = sent;
  ttl_ = absl::Seconds(response.ttl());
  return absl::OkStatus();
}

void KeepAlive::Run() {
  while (true) {
    absl::Time renewed;
    absl::Duration ttl;
    {
      MutexLock lock(&mutex_);
      renewed = renewed_, ttl = ttl_;
    }
    const absl::Time lost = renewed + ttl - Margin(ttl);
    if (!cancellation_->SleepUntil(renewed + ttl / 3)) return;
    absl::Status status = RenewOnce(lost);
    if (cancellation_->cancelled()) return;
    if (status.ok()) continue;
    if (!absl::IsNotFound(status)) {
      // Any other error may be transient while the lease lives.
      if (!cancellation_->SleepUntil(std::min(lost, SteadyNow() + ttl * kPauseShare))) return;
      if (SteadyNow() < lost) continue;
      status = absl::DeadlineExceededError(
          absl::StrCat("the etcd lease ", absl::Hex(id_), " was not renewed in time: ", status.message()));
    }
    {
      MutexLock lock(&mutex_);
      ended_ = true;
    }
    if (lost_) lost_(status);
    return;
  }
}

}  // namespace kvlink::etcd
