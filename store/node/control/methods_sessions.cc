// Sessions. A key is checked before the message of its call is read (Greet); the call itself only creates the session
// and tells where to find the node.
#include <string>
#include <utility>

#include "base/status.h"
#include "proto/data.h"
#include "store/node/control/methods.h"

namespace kvlink::store::node {

ControlMethods::ControlMethods(Core* node, const Figures* figures) : node_(node), figures_(figures) {
  AddSessions();
  AddCatalog();
  AddNamespaces();
  AddAdministration();
}

const ControlMethod* ControlMethods::Find(absl::string_view name) const {
  const auto found = methods_.find(name);
  return found == methods_.end() ? nullptr : &found->second;
}

void ControlMethods::AddSessions() {
  Add("OpenSession", Operation::kSession, &ControlMethods::OpenSession);
  Add("RenewSession", Operation::kSession, &ControlMethods::RenewSession);
  Add("CloseSession", Operation::kSession, &ControlMethods::CloseSession);
}

absl::StatusOr<Grant> ControlMethods::Greet(absl::string_view key, const std::string& peer) const {
  if (!node_->whereabouts.ready.load()) return absl::UnavailableError("the node is starting: try again");
  auto grant = node_->access.Find(key);
  if (!grant.ok()) {
    node_->log.Warning("session_refused", {{"peer", peer}});
    return grant.status();
  }
  if (node_->draining.begun() && grant->right != Right::kAdmin) {
    return absl::UnavailableError("the node is draining and takes no new sessions: use another");
  }
  return grant;
}

void ControlMethods::Describe(const Session& session, v1::Session* reply) const {
  reply->set_token(session.token());
  reply->set_lifetime_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(node_->sessions.lifetime())));
  reply->set_node_id(node_->node_id);
  reply->set_incarnation(node_->incarnation);
  reply->set_protocol_min(kProtocols.min);
  reply->set_protocol_max(kProtocols.max);
  for (const std::string& address : node_->whereabouts.data_addresses) reply->add_data(address);
  reply->set_local_socket(node_->whereabouts.local_socket);
  reply->set_version(node_->whereabouts.version);
}

absl::Status ControlMethods::OpenSession(ControlCall* call, const v1::OpenSessionRequest& request, v1::Session* reply) {
  const auto protocol = CommonProtocol({request.protocol_min(), request.protocol_max()}, kProtocols);
  if (!protocol.ok()) {
    node_->log.Warning("session_refused", {{"client", request.client().substr(0, kMaxClientName)},
                                           {"peer", call->peer()},
                                           {"why", std::string(protocol.status().message())}});
    return protocol.status();
  }
  KVLINK_ASSIGN_OR_RETURN(const auto session, node_->sessions.Open(call->grant(), View(request.client())));
  // The list may have been replaced since the headers arrived: either this sees the new list, or the reload sees the
  // session.
  if (!node_->access.Holds(session->grant())) {
    node_->sessions.Close(session.get());
    return absl::UnauthenticatedError("the key is not in the node's access file");
  }
  node_->log.Info("session_opened", {{"session", session->number()},
                                     {"name", session->grant().name},
                                     {"client", session->client()},
                                     {"peer", call->peer()}});
  Describe(*session, reply);
  return absl::OkStatus();
}

absl::Status ControlMethods::RenewSession(ControlCall* call, const v1::RenewSessionRequest& request,
                                          v1::Session* reply) {
  // The session's remaining time is for finishing its work.
  if (node_->draining.begun() && call->grant().right != Right::kAdmin) {
    return absl::UnavailableError("the node is draining and renews no sessions: use another");
  }
  KVLINK_RETURN_IF_ERROR(node_->sessions.Renew(call->session()));
  Describe(*call->session(), reply);
  return absl::OkStatus();
}

absl::Status ControlMethods::CloseSession(ControlCall* call, const v1::CloseSessionRequest& request,
                                          v1::CloseSessionResponse* reply) {
  node_->sessions.Close(call->session());
  node_->log.Info("session_closed", {{"session", call->session()->number()}});
  return absl::OkStatus();
}

}  // namespace kvlink::store::node
