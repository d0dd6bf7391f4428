#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/digest.h"
#include "proto/metadata.h"
#include "store/node/control/control_service.h"
#include "transport/grpc/status.h"

namespace kvlink::store {
namespace {

absl::string_view KeyOf(const grpc::ServerContext& context) {
  const auto found = context.client_metadata().find(kKeyMetadata);
  if (found == context.client_metadata().end()) return "";
  return {found->second.data(), found->second.size()};
}

}  // namespace

absl::StatusOr<std::shared_ptr<Session>> ControlService::Caller(const grpc::ServerContext& context) const {
  const auto found = context.client_metadata().find(kTokenMetadata);
  if (found == context.client_metadata().end()) {
    return absl::UnauthenticatedError(
        absl::StrCat("the call carries no token (metadata '", kTokenMetadata, "'): open a session first"));
  }
  const auto token = Digest<kTokenBytes>::FromHex({found->second.data(), found->second.size()});
  if (!token.ok()) return absl::UnauthenticatedError("the token is not 32 hexadecimal digits");
  return node_->sessions.Find({reinterpret_cast<const char*>(token->bytes.data()), token->bytes.size()});
}

grpc::Status ControlService::Run(grpc::ServerContext* context, Operation operation,
                                 const std::function<absl::Status(Session*)>& call) const {
  const absl::Time began = SteadyNow();
  const auto session = Caller(*context);
  const absl::Status status = session.ok() ? call(session->get()) : session.status();
  node_->metrics->Ended(operation, SteadyNow() - began, status.code());
  if (const uint32_t retry = RetryAfterMilliseconds(status); retry > 0) {
    context->AddTrailingMetadata(kRetryAfterMetadata, std::to_string(retry));
  }
  return transport::ToGrpc(status);
}

void ControlService::Describe(const Session& session, v1::Session* reply) const {
  reply->set_token(session.token());
  reply->set_lifetime_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(node_->sessions.lifetime())));
  reply->set_boot_id(node_->boot_id);
  for (const std::string& address : node_->data_addresses) reply->add_data(address);
  reply->set_local_socket(node_->local_socket);
  reply->set_version(node_->version);
}

grpc::Status ControlService::OpenSession(grpc::ServerContext* context, const v1::OpenSessionRequest* request,
                                         v1::Session* reply) {
  const absl::Time began = SteadyNow();
  const auto open = [&]() -> absl::Status {
    if (!node_->ready.load()) return absl::UnavailableError("the node is starting");
    KVLINK_ASSIGN_OR_RETURN(Grant grant, node_->access.Find(KeyOf(*context)));
    if (node_->draining.load() && grant.right != Right::kAdmin) {
      return absl::UnavailableError("the node is draining and takes no new sessions: use another");
    }
    KVLINK_ASSIGN_OR_RETURN(const auto session, node_->sessions.Open(std::move(grant), {request->client().data(),
                                                                                        request->client().size()}));
    node_->log.Info("session_opened", {{"session", session->number()},
                                       {"name", session->grant().name},
                                       {"client", session->client()},
                                       {"peer", context->peer()}});
    Describe(*session, reply);
    return absl::OkStatus();
  };
  const absl::Status status = open();
  if (absl::IsUnauthenticated(status)) node_->log.Warning("session_refused", {{"peer", context->peer()}});
  node_->metrics->Ended(Operation::kSession, SteadyNow() - began, status.code());
  if (const uint32_t retry = RetryAfterMilliseconds(status); retry > 0) {
    context->AddTrailingMetadata(kRetryAfterMetadata, std::to_string(retry));
  }
  return transport::ToGrpc(status);
}

grpc::Status ControlService::RenewSession(grpc::ServerContext* context, const v1::RenewSessionRequest* request,
                                          v1::Session* reply) {
  return Run(context, Operation::kSession, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(node_->sessions.Renew(session));
    Describe(*session, reply);
    return absl::OkStatus();
  });
}

grpc::Status ControlService::CloseSession(grpc::ServerContext* context, const v1::CloseSessionRequest* request,
                                          v1::CloseSessionResponse* reply) {
  return Run(context, Operation::kSession, [&](Session* session) -> absl::Status {
    node_->sessions.Close(session);
    node_->log.Info("session_closed", {{"session", session->number()}});
    return absl::OkStatus();
  });
}

}  // namespace kvlink::store
