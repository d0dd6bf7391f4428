#include "store/node/data/dispatcher.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/node/data/actions.h"
#include "store/node/data/context.h"
#include "store/node/data/leases.h"
#include "store/node/data/pulls.h"
#include "store/node/data/pushes.h"
#include "store/node/data/slots.h"
#include "store/store.h"

namespace kvlink::store::node {
namespace {

// A lookup of at most this many identities is answered on the carrier's thread: about 0.2 ms.
constexpr size_t kLookupAtOnce = 1024;

void Hello(const std::shared_ptr<ClientConnection>& connection, const proto::Request& request) {
  DataContext* const context = connection->context();
  const absl::Time arrived = SteadyNow();
  auto session = context->core->sessions.Find({request.hello().token().data(), request.hello().token().size()});
  context->core->metrics->Ended(Operation::kHello, SteadyNow() - arrived, session.status().code());
  if (!session.ok()) {
    connection->Send(Refusal(request.id(), session.status()));
    return connection->Close("its token is of no session");
  }
  const bool first = connection->session() == nullptr;
  const absl::Status identified = connection->Identify(*session);
  if (!identified.ok()) {
    connection->Send(Refusal(request.id(), identified));
    return connection->Close(identified.message());
  }
  const NodeLimits& limits = context->limits;
  proto::Answer answer;
  answer.set_id(request.id());
  answer.mutable_welcome()->set_node_id(context->core->node_id);
  answer.mutable_welcome()->set_incarnation(context->core->incarnation);
  answer.mutable_welcome()->set_lease_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(limits.lease)));
  answer.mutable_welcome()->set_max_pulls(static_cast<uint32_t>(limits.pulls_per_connection));
  answer.mutable_welcome()->set_max_pushes(static_cast<uint32_t>(limits.pushes_per_connection));
  connection->Send(answer);
  if (first) {
    context->log.Info("connection_opened", {{"connection", connection->number()},
                                            {"peer", connection->channel()->peer()},
                                            {"carrier", connection->carrier()},
                                            {"session", (*session)->number()},
                                            {"client", (*session)->client()}});
  }
  if (!connection->channel()->carries_descriptors()) return;
  const absl::Status shared = ShareMemory(connection.get());
  if (!shared.ok()) context->log.Warning("memory_not_shared", {{"why", std::string(shared.message())}});
}

void Lookup(const std::shared_ptr<Call>& call) {
  const proto::Lookup& lookup = call->request().lookup();
  const absl::string_view identities(lookup.identities().data(), lookup.identities().size());
  const size_t count = identities.size() / sizeof(Identity::bytes);
  engine::EncodingKey key = call->KeyOf(identities.substr(0, sizeof(Identity::bytes)), lookup.codec());
  proto::Answer answer;
  std::string* const records = answer.mutable_found()->mutable_records();
  records->reserve(count * kFoundRecordBytes);
  for (size_t i = 0; i < count; ++i) {
    key.identity = ToIdentity(identities.substr(i * sizeof(Identity::bytes), sizeof(Identity::bytes)));
    FoundRecord record;
    if (const auto info = call->context()->core->engine->Find(key); info.has_value()) {
      record.etag = info->location.etag;
      record.bytes = static_cast<uint64_t>(info->location.bytes);
      record.tokens = static_cast<uint64_t>(info->location.tokens);
      record.tier = static_cast<uint8_t>(info->resident ? Tier::kDram : Tier::kDisk);
    } else if (!call->Owns(key.identity)) {
      record.tier = kMovedTier;
      answer.mutable_found()->set_epoch(call->epoch());
    }
    AppendFoundRecord(record, records);
  }
  call->Answer(std::move(answer));
}

void Renew(const std::shared_ptr<Call>& call) {
  proto::Answer answer;
  answer.mutable_renewed();
  call->Answer(std::move(answer));
}

absl::Status Cancelled() { return absl::CancelledError("cancelled by the client"); }

void Cancel(ClientConnection* connection, uint64_t request) {
  connection->CancelWaiting(request);
  for (const ClientConnection::Kind kind : {ClientConnection::Kind::kPull, ClientConnection::Kind::kPush}) {
    if (const auto transfer = connection->FindTransfer(kind, request)) {
      transfer->End(Cancelled());
    }
  }
}

// Runs in a lane, at the request's turn.
void Begin(const std::shared_ptr<Call>& call, void (*run)(std::shared_ptr<Call>), const absl::Status& turn) {
  ClientConnection* const connection = call->connection().get();
  const uint64_t id = call->id();
  if (!turn.ok()) {
    call->Refuse(turn);
  } else if (connection->Cancelled(id)) {
    call->Refuse(Cancelled());
  } else {
    run(call);
  }
  // A Cancel that arrived while the call was starting may have found nothing to end.
  if (connection->Began(id)) Cancel(connection, id);
}

// How requests of one kind are served.
struct Route {
  Operation operation;
  Right right;
  enum Where { kAtOnce, kServing, kIndexing, kChecking } where;
  void (*run)(std::shared_ptr<Call>);
};

Route RouteOf(const proto::Request& request) {
  using Body = proto::Request::BodyCase;
  switch (request.body_case()) {
    case Body::kLookup: {
      const bool few = request.lookup().identities().size() <= kLookupAtOnce * sizeof(Identity::bytes);
      return {Operation::kLookup, Right::kRead, few ? Route::kAtOnce : Route::kServing,
              [](std::shared_ptr<Call> call) { Lookup(call); }};
    }
    case Body::kPull:
      return {Operation::kPull, Right::kRead, Route::kServing, StartPull};
    case Body::kPushBegin:
      return {Operation::kPushBegin, Right::kWrite, Route::kIndexing, BeginPush};
    case Body::kPushCommit:
      return {Operation::kPush, Right::kWrite, Route::kAtOnce, CommitPush};
    case Body::kAction: {
      const proto::EncodingAction::Action action = request.action().action();
      const auto where = action == proto::EncodingAction::SUSPECT ? Route::kChecking
                         : IsIndexing(action)                     ? Route::kIndexing
                                                                  : Route::kServing;
      return {Operation::kAction, RightFor(action), where, DoAction};
    }
    case Body::kLease:
      return {Operation::kLease, Right::kRead, Route::kServing, TakeLease};
    case Body::kRelease:
      return {Operation::kLease, Right::kRead, Route::kAtOnce, ReleaseLeases};
    case Body::kSlotDigests:
      return {Operation::kSlots, Right::kRepair, Route::kChecking, GiveSlotDigests};
    case Body::kSlotList:
      return {Operation::kSlots, Right::kRepair, Route::kChecking, ListSlot};
    default:
      return {Operation::kLease, Right::kRead, Route::kAtOnce, [](std::shared_ptr<Call> call) { Renew(call); }};
  }
}

absl::Status CheckAddressee(const DataContext& context, const proto::Request& request) {
  if (request.incarnation() == 0 || request.incarnation() == context.core->incarnation) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the node is at incarnation ", context.core->incarnation,
                                                    ", and the request is for ", request.incarnation(),
                                                    ": say hello and ask again"));
}

// Renewals and releases concern the connection and need no namespace; slots span all namespaces.
absl::Status CheckRights(const Session& session, const proto::Request& request, Right right) {
  const auto body = request.body_case();
  if (body == proto::Request::kRenew || body == proto::Request::kRelease) {
    return session.live(SteadyNow()) ? absl::OkStatus()
                                     : absl::UnauthenticatedError("the session has expired: open another one");
  }
  if (request.has_slot_digests() || request.has_slot_list()) return session.CheckAll(right);
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", {request.ns().data(), request.ns().size()}));
  return session.Check(right, {request.ns().data(), request.ns().size()});
}

absl::Time DeadlineOf(const NodeLimits& limits, const proto::Request& request) {
  const absl::Duration left =
      request.remaining_ms() == 0 ? limits.unnamed_deadline : absl::Milliseconds(request.remaining_ms());
  return SteadyNow() + std::min(left, limits.longest_request);
}

// Charges a waiting or running request to its key's share.
absl::Status Charge(DataContext* context, const Grant& grant, int64_t bytes) {
  KVLINK_RETURN_IF_ERROR(context->traffic.requests.Take(grant));
  const absl::Status taken = context->request_bytes.Take(grant, bytes);
  if (!taken.ok()) context->traffic.requests.Return(grant);
  return taken;
}

void Carry(const std::shared_ptr<ClientConnection>& connection, proto::Request request) {
  DataContext* const context = connection->context();
  const uint64_t id = request.id();
  const std::shared_ptr<Session> session = connection->session();
  if (session == nullptr) {
    return connection->Send(Refusal(id, absl::UnauthenticatedError("say hello first, with the token of a session")));
  }
  const Route route = RouteOf(request);
  if (request.has_release()) {  // released leases are always accepted, even if there is no room for the request
    for (const uint64_t lease : request.release().leases()) connection->RemoveLease(lease);
  }
  absl::Status refused = CheckAddressee(*context, request);
  if (refused.ok()) refused = CheckRights(*session, request, route.right);
  if (refused.ok() && !connection->AddRequest()) {
    refused = absl::ResourceExhaustedError("as many requests of this connection wait as may");
  }
  // Requests answered before this returns are not charged: they neither wait nor run alongside others.
  std::optional<int64_t> charged;
  if (route.where != Route::kAtOnce || request.has_push_commit()) {
    charged = static_cast<int64_t>(request.ByteSizeLong());
  }
  if (refused.ok() && charged.has_value()) {
    refused = Charge(context, session->grant(), *charged);
    if (!refused.ok()) connection->RemoveRequest();
  }
  if (!refused.ok()) {
    context->core->metrics->Ended(route.operation, absl::ZeroDuration(), refused.code());
    return connection->Send(Refusal(id, refused));
  }
  const absl::Time deadline = DeadlineOf(context->limits, request);
  const auto call = std::make_shared<Call>(connection, session, std::move(request), route.operation, deadline, charged);
  const auto body = call->request().body_case();
  const bool gives_back = body == proto::Request::kRelease || body == proto::Request::kRenew;
  if (context->core->draining.refuses() && !gives_back) {
    return call->Refuse(absl::UnavailableError("the node has drained: use another"));
  }
  if (route.where == Route::kAtOnce) return route.run(call);
  Worker* const lane = route.where == Route::kServing    ? context->serving.get()
                       : route.where == Route::kIndexing ? context->indexing.get()
                                                         : context->checking.get();
  connection->Waits(id);
  const absl::Status added =
      lane->Add({.work = [call, run = route.run](const absl::Status& turn) { Begin(call, run, turn); },
                 .deadline = deadline,
                 .bytes = charged.value_or(0),
                 .owner = call->owner()});
  if (added.ok()) return;
  connection->Began(id);
  call->Refuse(added);
}

}  // namespace

void Dispatch(const std::shared_ptr<ClientConnection>& connection, absl::string_view message) {
  uint64_t id = 0;
  uint32_t protocol = connection->protocol();
  auto request = ParseRequest(message, &id, &protocol);
  connection->Speaks(protocol);
  if (request.ok() && id == 0) request = absl::InvalidArgumentError("request ids begin at 1");
  if (!request.ok()) {
    connection->context()->core->metrics->Malformed();
    connection->context()->log.Warning("malformed_request", {{"connection", connection->number()},
                                                             {"peer", connection->channel()->peer()},
                                                             {"why", std::string(request.status().message())}});
    connection->Send(Refusal(id, request.status()));
    if (id == 0) connection->Close("it sent what cannot be read");
    return;
  }
  connection->Heard();
  switch (request->body_case()) {
    case proto::Request::kHello:
      return Hello(connection, *request);
    case proto::Request::kCancel:
      return Cancel(connection.get(), request->cancel().request());
    default:
      return Carry(connection, *std::move(request));
  }
}

}  // namespace kvlink::store::node
