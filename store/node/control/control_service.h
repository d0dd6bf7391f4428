// The calls of proto/store.proto. Of control.cc.
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_CONTROL_CONTROL_SERVICE_H_
#define KVLINK_STORE_NODE_CONTROL_CONTROL_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/store.grpc.pb.h"
#include "store/node/service.h"

namespace kvlink::store {

class ControlService final : public v1::Store::Service {
 public:
  explicit ControlService(kvlink::store::Service* service) : node_(service) {}

  // Ends streams that are under way.
  void Stop() { stopping_.store(true); }

  // control_sessions.cc
  grpc::Status OpenSession(grpc::ServerContext*, const v1::OpenSessionRequest*, v1::Session*) override;
  grpc::Status RenewSession(grpc::ServerContext*, const v1::RenewSessionRequest*, v1::Session*) override;
  grpc::Status CloseSession(grpc::ServerContext*, const v1::CloseSessionRequest*, v1::CloseSessionResponse*) override;

  // control_catalog.cc
  grpc::Status PutDocuments(grpc::ServerContext*, const v1::PutDocumentsRequest*, v1::Results*) override;
  grpc::Status GetDocuments(grpc::ServerContext*, const v1::GetDocumentsRequest*, v1::GetDocumentsResponse*) override;
  grpc::Status DeleteDocuments(grpc::ServerContext*, const v1::DeleteDocumentsRequest*, v1::Results*) override;
  grpc::Status ListDocuments(grpc::ServerContext*, const v1::ListDocumentsRequest*,
                             v1::ListDocumentsResponse*) override;

  // control_administration.cc
  grpc::Status PutNamespace(grpc::ServerContext*, const v1::PutNamespaceRequest*, v1::PutNamespaceResponse*) override;
  grpc::Status ListNamespaces(grpc::ServerContext*, const v1::ListNamespacesRequest*,
                              v1::ListNamespacesResponse*) override;
  grpc::Status Stats(grpc::ServerContext*, const v1::StatsRequest*, v1::StatsResponse*) override;
  grpc::Status ListEncodings(grpc::ServerContext*, const v1::ListEncodingsRequest*,
                             v1::ListEncodingsResponse*) override;
  grpc::Status Verify(grpc::ServerContext*, const v1::VerifyRequest*, grpc::ServerWriter<v1::VerifyProgress>*) override;
  grpc::Status DropDramTier(grpc::ServerContext*, const v1::DropDramTierRequest*, v1::DropDramTierResponse*) override;
  grpc::Status Drain(grpc::ServerContext*, const v1::DrainRequest*, grpc::ServerWriter<v1::DrainProgress>*) override;

 private:
  // Whoever calls. UNAUTHENTICATED.
  absl::StatusOr<std::shared_ptr<Session>> Caller(const grpc::ServerContext& context) const;
  // Runs a call: measures it, turns the status into gRPC's and says when to try again.
  grpc::Status Run(grpc::ServerContext* context, Operation operation,
                   const std::function<absl::Status(Session* session)>& call) const;
  void Describe(const Session& session, v1::Session* reply) const;
  // Whether a stream should end now.
  bool Ended(grpc::ServerContext* context) const { return stopping_.load() || context->IsCancelled(); }

  kvlink::store::Service* const node_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> verifying_{0}, drains_{0};
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_CONTROL_CONTROL_SERVICE_H_
