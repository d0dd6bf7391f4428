#include "store/client/control/admin.h"

#include <utility>

#include "base/status.h"
#include "store/client/control/control.h"
#include "store/client/control/counters.h"
#include "store/client/control/retry.h"

namespace kvlink::store {
namespace {

class GrpcAdmin : public NodeAdmin {
 public:
  GrpcAdmin(const std::string& address, const std::string& key, const std::string& name)
      : retries_(&counters_), control_(address, key, name, &retries_, &counters_) {}

  absl::StatusOr<NodeStatus> Status(absl::Time deadline) override;
  absl::Status SetNamespace(const NamespaceLimits& limits, absl::Time deadline) override;
  absl::Status Drain(bool stop, const std::function<bool(const DrainState&)>& progress, absl::Time deadline) override;

 private:
  ClientCounters counters_;
  RetryPolicy retries_;
  Control control_;
};

absl::StatusOr<NodeStatus> GrpcAdmin::Status(absl::Time deadline) {
  v1::StatsResponse response;
  KVLINK_RETURN_IF_ERROR(control_.Call(&Control::Stub::Stats, v1::StatsRequest(), &response, deadline));
  NodeStatus status;
  for (const v1::NamespaceStats& from : response.namespaces()) {
    NodeStatus::Namespace to;
    to.limits = {from.settings().name(), from.settings().capacity_bytes(), from.settings().pinned_bytes()};
    to.encodings = from.encodings();
    to.bytes = from.bytes();
    to.pinned_bytes = from.pinned_bytes();
    to.documents = from.documents();
    to.dram_bytes = from.dram_bytes();
    status.namespaces.push_back(std::move(to));
  }
  status.values.insert(response.values().begin(), response.values().end());
  status.texts.insert(response.texts().begin(), response.texts().end());
  return status;
}

absl::Status GrpcAdmin::SetNamespace(const NamespaceLimits& limits, absl::Time deadline) {
  v1::Namespace request, response;
  request.set_name(limits.name);
  request.set_capacity_bytes(limits.capacity_bytes);
  request.set_pinned_bytes(limits.pinned_bytes);
  return control_.Call(&Control::Stub::PutNamespace, request, &response, deadline);
}

absl::Status GrpcAdmin::Drain(bool stop, const std::function<bool(const DrainState&)>& progress, absl::Time deadline) {
  return WithRetries(&retries_, deadline, [&]() -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(const OpenedSession session, control_.Session(deadline));
    grpc::ClientContext context;
    control_.Prepare(&context, session.token, deadline);
    v1::DrainRequest request;
    request.set_stop(stop);
    const auto reader = control_.stub()->Drain(&context, request);
    v1::DrainProgress message;
    bool drained = false, wanted = true;
    while (wanted && !drained && reader->Read(&message)) {
      drained = message.drained();
      wanted = progress({message.pulls(), message.pushes(), message.connections(), message.leases(), drained});
    }
    if (!wanted) context.TryCancel();
    const grpc::Status status = reader->Finish();
    // A node that stops may be gone before it has said goodbye.
    if (drained) return absl::OkStatus();
    if (!wanted) return absl::CancelledError("no longer waited for; the node goes on draining");
    return control_.Outcome(status, context, session.number);
  });
}

}  // namespace

std::unique_ptr<NodeAdmin> NodeAdmin::Create(const std::string& address, const std::string& key,
                                             const std::string& name) {
  return std::make_unique<GrpcAdmin>(address, key, name);
}

}  // namespace kvlink::store
