// Renewals and closings of idle sessions are asynchronous calls: one thread makes them for all nodes, and a node that
// hangs must not hold up the others.
#include "store/client/control/control.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"
#include "proto/metadata.h"
#include "transport/grpc/credentials.h"
#include "transport/grpc/status.h"

namespace kvlink::store::client {
namespace {

constexpr int kMaxAnswer = 64 << 20;  // all manifests of an identity come in one answer
constexpr absl::Duration kGoodbye = absl::Seconds(1);
constexpr absl::Duration kRenewTimeout = absl::Seconds(5), kRenewAgain = absl::Seconds(1);
constexpr size_t kTokenBytes = 16;
constexpr absl::Duration kOtherNodeAgain = absl::Seconds(1);  // each attempt costs that node a session
// Interval between attempts to connect to an unreachable node, which cost next to nothing; how long an attempt may
// take; and how long a call waits for the attempt in progress.
constexpr int kFirstReconnectMs = 50, kMaxReconnectMs = 200, kConnectMs = 1000;
constexpr absl::Duration kApproach = absl::Milliseconds(100);

std::optional<absl::Duration> RetryAfterOf(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto found = metadata.find(kRetryAfterMetadata);
  int64_t milliseconds = 0;
  if (found == metadata.end() ||
      !absl::SimpleAtoi(absl::string_view(found->second.data(), found->second.size()), &milliseconds)) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

// Replaces gRPC's own messages about a server that is missing or too slow.
absl::Status Plainly(const absl::Status& status, const transport::TlsOptions& tls) {
  if (absl::IsDeadlineExceeded(status) && status.message() == "Deadline Exceeded") {
    return absl::DeadlineExceededError("the node has not answered in time");
  }
  if (!absl::IsUnavailable(status) || !absl::StartsWith(status.message(), "failed to connect to all addresses")) {
    return status;
  }
  if (absl::StrContains(status.message(), "Connection refused")) {
    return absl::UnavailableError("no node answers (connection refused): is it running?");
  }
  return absl::UnavailableError(absl::StrCat(
      "something listens there but does not answer like a node: check that this is a node's --listen address, that the "
      "node is not suspended, and that both sides or neither use TLS",
      transport::TlsTrouble(tls)));
}

absl::Status OtherNode(const std::string& address, const NodeId& found, const NodeId& expected) {
  return WithRetryAfter(
      absl::UnavailableError(absl::StrCat(
          address, " is node ", absl::BytesToHexString(BytesOf(found)), ", but node ",
          absl::BytesToHexString(BytesOf(expected)),
          " was expected there: the member list of this process is stale, or two nodes share the address; see kvlink "
          "members")),
      kOtherNodeAgain);
}

}  // namespace

struct Control::Background {
  std::shared_ptr<Line> line;
  bool ended = false;
  OpenedSession session;
  absl::Time asked;
  grpc::ClientContext context;
  v1::RenewSessionRequest renew;
  v1::Session renewed;
  v1::CloseSessionRequest close;
  v1::CloseSessionResponse closed;
};

Control::Control(const ControlOptions& options, Timer* timer, RetryPolicy* retries, ClientCounters* counters)
    : options_(options),
      mistake_(transport::CheckSecrecy(options.tls, options.address, !options.key.empty())),
      retries_(retries),
      counters_(counters),
      keep_(std::make_unique<Alarm>(timer, [this] { return Keep(); })) {
  auto credentials = transport::ChannelCredentials(options.tls);
  MutexLock lock(&line_mutex_);
  if (credentials.ok()) line_ = Dial(*std::move(credentials));
}

std::shared_ptr<Control::Line> Control::Dial(std::shared_ptr<grpc::ChannelCredentials> credentials) const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // traffic for this host stays on it
  arguments.SetMaxReceiveMessageSize(kMaxAnswer);
  // Finds a restarted node again soon.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);  // the time limit of an attempt, despite the name
  // Each store has its own connections, so that another store's backoff does not affect it.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto line = std::make_shared<Line>();
  line->channel = grpc::CreateCustomChannel(options_.address, credentials, arguments);
  line->credentials = std::move(credentials);
  line->stub = v1::Store::NewStub(line->channel);
  return line;
}

std::shared_ptr<Control::Line> Control::NextLine() {
  std::shared_ptr<Line> line;
  {
    MutexLock lock(&line_mutex_);
    line = line_;
  }
  if (line->channel->GetState(false) == GRPC_CHANNEL_READY) return line;
  auto credentials = transport::NewerCredentials(options_.tls, line->credentials);
  if (credentials == nullptr) return line;
  auto dialled = Dial(std::move(credentials));
  MutexLock lock(&line_mutex_);
  if (line_ == line) line_ = std::move(dialled);
  return line_;
}

std::shared_ptr<Control::Stub> Control::stub() const {
  MutexLock lock(&line_mutex_);
  return {line_, line_->stub.get()};
}

Control::~Control() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
  }
  keep_ = nullptr;
  OpenedSession session;
  {
    MutexLock lock(&mutex_);
    session = session_;
    for (const auto& call : background_) call->context.TryCancel();
    const auto ended = [](const std::unique_ptr<Background>& call) { return call->ended; };
    while (!absl::c_all_of(background_, ended)) changed_.Wait(&mutex_);
  }
  if (number() == 0) return;
  grpc::ClientContext context;
  Prepare(&context, session.token, SteadyNow() + kGoodbye);
  v1::CloseSessionResponse response;
  // If this fails, the session still ends, at its expiry.
  (void)stub()->CloseSession(&context, {}, &response);
}

void Control::FillContext(grpc::ClientContext* context, const std::string& token, absl::Time deadline) {
  // gRPC cannot represent our infinite future.
  context->set_deadline(ToSystemClock(std::min(deadline, SteadyNow() + absl::Hours(24))));
  if (!token.empty()) context->AddMetadata(kTokenMetadata, absl::BytesToHexString(token));
}

void Control::Prepare(grpc::ClientContext* context, const std::string& token, absl::Time deadline) {
  // After a failure gRPC refuses calls until it is connected, but notices a connection only while a thread waits within
  // it. Without this wait, calls to a node that has returned would fail until gRPC's own check, every 5 s.
  const auto line = NextLine();
  if (line->channel->GetState(false) == GRPC_CHANNEL_TRANSIENT_FAILURE) {
    line->channel->WaitForConnected(ToSystemClock(std::min(deadline, SteadyNow() + kApproach)));
  }
  FillContext(context, token, deadline);
}

absl::Status Control::Outcome(const grpc::Status& status, const grpc::ClientContext& context, uint64_t session) {
  absl::Status outcome = Plainly(transport::FromGrpc(status), options_.tls);
  if (outcome.ok()) return outcome;
  if (absl::IsUnauthenticated(outcome) && session != 0) {
    Ended(session);
    return absl::UnavailableError(absl::StrCat("the session with ", options_.address, " has ended"));
  }
  outcome = Annotate(outcome, options_.address);
  if (const auto after = RetryAfterOf(context)) return WithRetryAfter(outcome, *after);
  return outcome;
}

void Control::Ended(uint64_t number) {
  MutexLock lock(&mutex_);
  if (number_.load(std::memory_order_relaxed) != number) return;
  number_.store(0, std::memory_order_release);
  renew_at_ = absl::InfiniteFuture();
}

absl::StatusOr<OpenedSession> Control::Session(absl::Time deadline) {
  const auto use = Use();
  ReleasableMutexLock lock(&mutex_);
  while (true) {
    if (stop_) return absl::UnavailableError("the store is closing");
    if (number_.load(std::memory_order_relaxed) != 0) return session_;
    if (!opening_) break;
    if (!changed_.WaitUntil(&mutex_, deadline)) {
      return absl::DeadlineExceededError(absl::StrCat("no session with ", options_.address, " in time"));
    }
  }
  opening_ = true;
  lock.Release();
  auto opened = OpenSession(deadline);
  lock.Reacquire();
  opening_ = false;
  changed_.SignalAll();
  if (!opened.ok()) return opened.status();
  opened->number = ++last_number_;
  session_ = *std::move(opened);
  number_.store(last_number_, std::memory_order_release);
  if (!stop_) keep_->Set(renew_at_);
  ++counters_->sessions;
  return session_;
}

absl::StatusOr<OpenedSession> Control::OpenSession(absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(mistake_);
  v1::OpenSessionRequest request;
  request.set_client(options_.name);
  request.set_protocol_min(SpokenProtocols().min);
  request.set_protocol_max(SpokenProtocols().max);
  grpc::ClientContext context;
  Prepare(&context, "", deadline);
  if (!options_.key.empty()) context.AddMetadata(kKeyMetadata, options_.key);
  v1::Session response;
  const absl::Time asked = SteadyNow();
  KVLINK_RETURN_IF_ERROR(Outcome(stub()->OpenSession(&context, request, &response), context, 0));
  const auto protocol = CommonProtocol(SpokenProtocols(), {response.protocol_min(), response.protocol_max()});
  if (!protocol.ok()) return Annotate(protocol.status(), options_.address);
  const std::optional<NodeId> node_id = ToNodeId(response.node_id());
  if (response.token().size() != kTokenBytes || !node_id.has_value() || response.incarnation() == 0) {
    return absl::UnavailableError(absl::StrCat(options_.address, " answers, but not like a store node"));
  }
  OpenedSession session;
  session.token = response.token();
  if (options_.node_id.value_or(*node_id) != *node_id) {
    Close(session);
    return OtherNode(options_.address, *node_id, *options_.node_id);
  }
  session.node_id = *node_id;
  session.incarnation = response.incarnation();
  session.protocol = *protocol;
  session.data.assign(response.data().begin(), response.data().end());
  session.local_socket = response.local_socket();
  MutexLock lock(&mutex_);
  const absl::Duration lifetime = absl::Milliseconds(response.lifetime_ms());
  expires_ = asked + lifetime;
  renew_at_ = asked + lifetime / 2;
  pins_ = 0;
  return session;
}

absl::Status Control::Renew(uint64_t number, absl::Time deadline) {
  OpenedSession session;
  {
    MutexLock lock(&mutex_);
    if (number_.load(std::memory_order_relaxed) != number) return absl::UnauthenticatedError("the session has ended");
    session = session_;
  }
  grpc::ClientContext context;
  Prepare(&context, session.token, deadline);
  v1::Session response;
  const absl::Time asked = SteadyNow();
  const grpc::Status status = stub()->RenewSession(&context, {}, &response);
  return Renewed(session, asked, status, response, context);
}

absl::Status Control::Renewed(const OpenedSession& session, absl::Time asked, const grpc::Status& status,
                              const v1::Session& response, const grpc::ClientContext& context) {
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED ||
      (status.ok() &&
       (ToNodeId(response.node_id()) != session.node_id || response.incarnation() != session.incarnation))) {
    Ended(session.number);
    return absl::UnauthenticatedError(absl::StrCat("the session with ", options_.address, " has ended"));
  }
  KVLINK_RETURN_IF_ERROR(Outcome(status, context, 0));
  MutexLock lock(&mutex_);
  if (number_.load(std::memory_order_relaxed) != session.number) return absl::OkStatus();
  const absl::Duration lifetime = absl::Milliseconds(response.lifetime_ms());
  expires_ = asked + lifetime;
  renew_at_ = asked + lifetime / 2;
  if (!stop_) keep_->Set(renew_at_);
  return absl::OkStatus();
}

Control::Background* Control::BeginBackground(std::shared_ptr<Line> line, const OpenedSession& session,
                                              absl::Time deadline) {
  Background* const call = background_.emplace_back(std::make_unique<Background>()).get();
  call->line = std::move(line);
  call->session = session;
  call->asked = SteadyNow();
  call->context.set_wait_for_ready(true);  // like Prepare, without blocking
  FillContext(&call->context, session.token, deadline);
  return call;
}

void Control::DropEnded() {
  // Destroyed without the lock: a channel that ends may wait for gRPC's threads, which take it.
  std::list<std::unique_ptr<Background>> ended;
  MutexLock lock(&mutex_);
  for (auto it = background_.begin(); it != background_.end();) {
    const auto call = it++;
    if ((*call)->ended) ended.splice(ended.end(), background_, call);
  }
}

void Control::EndBackground(Background* call) {
  MutexLock lock(&mutex_);
  call->ended = true;
  changed_.SignalAll();
}

absl::Time Control::Keep() {
  DropEnded();
  auto line = NextLine();
  ReleasableMutexLock lock(&mutex_);
  if (stop_ || number_.load(std::memory_order_relaxed) == 0) return absl::InfiniteFuture();
  const absl::Time now = SteadyNow();
  if (now < renew_at_) return renew_at_;
  if (now >= expires_) {
    number_.store(0, std::memory_order_release);
    return absl::InfiniteFuture();
  }
  renew_at_ = now + kRenewAgain;  // unless this renewal succeeds
  const absl::Time again = renew_at_;
  Background* const call = BeginBackground(std::move(line), session_, now + kRenewTimeout);
  lock.Release();
  // An ended session is reopened by the next caller that needs one.
  call->line->stub->async()->RenewSession(
      &call->context, &call->renew, &call->renewed, [this, call](grpc::Status status) {
        Renewed(call->session, call->asked, status, call->renewed, call->context).IgnoreError();
        EndBackground(call);
      });
  return again;
}

void Control::CountPins(uint64_t number, int64_t change) {
  MutexLock lock(&mutex_);
  if (number_.load(std::memory_order_relaxed) == number) pins_ = std::max<int64_t>(0, pins_ + change);
}

void Control::EndIdle(absl::Time before) {
  OpenedSession session;
  {
    MutexLock lock(&mutex_);
    if (stop_ || pins_ > 0 || number_.load(std::memory_order_relaxed) == 0 || !usage_.IdleSince(before)) return;
    number_.store(0, std::memory_order_release);
    renew_at_ = absl::InfiniteFuture();
    session = session_;
  }
  Close(session);
}

void Control::Close(const OpenedSession& session) {
  DropEnded();
  auto line = NextLine();
  Background* call = nullptr;
  {
    MutexLock lock(&mutex_);
    call = BeginBackground(std::move(line), session, SteadyNow() + kGoodbye);
  }
  call->line->stub->async()->CloseSession(&call->context, &call->close, &call->closed,
                                          [this, call](const grpc::Status&) { EndBackground(call); });
}

}  // namespace kvlink::store::client
