// Each method makes one call to the node, or as many as the limit per call makes necessary.
#include "store/client/control/admin.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "store/client/control/control.h"
#include "store/client/control/counters.h"
#include "store/client/control/retry.h"

namespace kvlink::store::client {
namespace {

constexpr size_t kMaxBatch = 1024;

NamespaceLimits LimitsOf(const v1::Namespace& settings) {
  return {settings.name(), settings.capacity_bytes(), settings.pinned_bytes(), settings.revision()};
}

class GrpcAdmin : public NodeAdmin {
 public:
  explicit GrpcAdmin(const ControlOptions& options)
      : retries_(&budget_, &counters_), control_(options, &timer_, &retries_, &counters_) {}

  absl::StatusOr<NodeStatus> Status(absl::Time deadline) override;
  absl::StatusOr<NamespaceOutcome> SetNamespace(const NamespaceChange& change, absl::Time deadline) override;
  absl::StatusOr<Deleted> DeleteNamespace(const std::string& name, absl::Time deadline) override;
  absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(const std::string& ns, const std::vector<std::string>& ids,
                                                            bool forget, absl::Time deadline) override;
  absl::StatusOr<Deleted> DeletePrefix(const std::string& ns, const std::string& prefix, absl::Time deadline) override;
  absl::StatusOr<int64_t> DropPins(const std::string& ns, absl::Time deadline) override;
  absl::Status Drain(bool stop, const std::function<bool(const DrainState&)>& progress, absl::Time deadline) override;

 private:
  // Repeats the call until nothing is left, each continuing where the previous one ended.
  template <typename Request>
  absl::StatusOr<Deleted> DeleteAll(grpc::Status (Control::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                          v1::DeleteProgress*),
                                    Request* request, absl::Time deadline) {
    Deleted deleted;
    while (true) {
      v1::DeleteProgress progress;
      KVLINK_RETURN_IF_ERROR(control_.Call(method, *request, &progress, deadline));
      deleted.documents += progress.documents();
      deleted.encodings += progress.encodings();
      if (progress.next().empty()) return deleted;
      request->set_after(progress.next());
    }
  }

  ClientCounters counters_;
  Timer timer_;
  RetryBudget budget_;
  RetryPolicy retries_;
  Control control_;
};

absl::StatusOr<NodeStatus> GrpcAdmin::Status(absl::Time deadline) {
  v1::StatsResponse response;
  KVLINK_RETURN_IF_ERROR(control_.Call(&Control::Stub::Stats, v1::StatsRequest(), &response, deadline));
  NodeStatus status;
  for (const v1::NamespaceStats& from : response.namespaces()) {
    NodeStatus::Namespace to;
    to.limits = LimitsOf(from.settings());
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

absl::StatusOr<NamespaceOutcome> GrpcAdmin::SetNamespace(const NamespaceChange& change, absl::Time deadline) {
  v1::PutNamespaceRequest request;
  v1::PutNamespaceResponse response;
  request.set_name(change.name);
  if (change.capacity_bytes.has_value()) request.set_capacity_bytes(*change.capacity_bytes);
  if (change.pinned_bytes.has_value()) request.set_pinned_bytes(*change.pinned_bytes);
  if (change.revision.has_value()) request.set_revision(*change.revision);
  KVLINK_RETURN_IF_ERROR(control_.Call(&Control::Stub::PutNamespace, request, &response, deadline));
  return NamespaceOutcome{LimitsOf(response.settings()), response.bytes_over()};
}

absl::StatusOr<Deleted> GrpcAdmin::DeleteNamespace(const std::string& name, absl::Time deadline) {
  v1::DeleteNamespaceRequest request;
  request.set_name(name);
  return DeleteAll(&Control::Stub::DeleteNamespace, &request, deadline);
}

absl::StatusOr<Deleted> GrpcAdmin::DeletePrefix(const std::string& ns, const std::string& prefix, absl::Time deadline) {
  v1::DeletePrefixRequest request;
  request.set_ns(ns);
  request.set_prefix(prefix);
  return DeleteAll(&Control::Stub::DeletePrefix, &request, deadline);
}

absl::StatusOr<std::vector<absl::Status>> GrpcAdmin::DeleteDocuments(const std::string& ns,
                                                                     const std::vector<std::string>& ids, bool forget,
                                                                     absl::Time deadline) {
  std::vector<absl::Status> outcomes;
  for (size_t begin = 0; begin < ids.size(); begin += kMaxBatch) {
    v1::DeleteDocumentsRequest request;
    request.set_ns(ns);
    const size_t count = std::min(kMaxBatch, ids.size() - begin);
    for (size_t i = 0; i < count; ++i) {
      v1::DeletedDocument* const document = request.add_documents();
      document->set_id(ids[begin + i]);
      document->set_forget(forget);
    }
    v1::Results response;
    KVLINK_RETURN_IF_ERROR(control_.Call(&Control::Stub::DeleteDocuments, request, &response, deadline));
    if (response.results_size() != static_cast<int>(count)) {
      return absl::UnavailableError("the node answered about other documents");
    }
    for (const v1::Result& result : response.results()) {
      outcomes.emplace_back(static_cast<absl::StatusCode>(result.code()), result.message());
    }
  }
  return outcomes;
}

absl::StatusOr<int64_t> GrpcAdmin::DropPins(const std::string& ns, absl::Time deadline) {
  v1::DropPinsRequest request;
  v1::DropPinsResponse response;
  request.set_ns(ns);
  KVLINK_RETURN_IF_ERROR(control_.Call(&Control::Stub::DropPins, request, &response, deadline));
  return response.pins();
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
    // A node that stops may be gone before it has closed the stream.
    if (drained) return absl::OkStatus();
    if (!wanted) return absl::CancelledError("no longer waited for; the node goes on draining");
    return control_.Outcome(status, context, session.number);
  });
}

}  // namespace

std::unique_ptr<NodeAdmin> NodeAdmin::Create(const ControlOptions& options) {
  return std::make_unique<GrpcAdmin>(options);
}

}  // namespace kvlink::store::client
