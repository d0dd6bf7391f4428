// Fails over in our own code, over one gRPC channel per member, because gRPC's load balancing sees only connections: a
// frozen or isolated member keeps its connections, and gRPC's retries hide what a client must know (is the outcome of
// this write unknown?).
//
// Writes are rare here (members, leases), and an unknown outcome costs the caller a read and a decision. So a write
// goes only to a member that has answered a linearizable read within the last second: with a frozen leader or an
// isolated member, it is that read that fails, and it can be retried.
#include "etcd/cluster_channel.h"

#include <grpcpp/create_channel.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/status.h"
#include "transport/address.h"
#include "transport/grpc/credentials.h"
#include "transport/grpc/status.h"

namespace kvlink::etcd {
namespace {

constexpr int kMaxAnswer = 64 << 20;
constexpr size_t kMaxEndpoints = 64;
constexpr int kFirstReconnectMs = 50, kMaxReconnectMs = 500;
constexpr absl::Duration kConfirmed = absl::Seconds(1);
// Interval of the checks for cancellation; also how long to wait on a failed connection for an attempt gRPC may be
// making.
constexpr absl::Duration kLook = absl::Milliseconds(100);
// The pause after all members were asked in vain: maximum and initial.
constexpr absl::Duration kMaxPause = absl::Seconds(1), kFirstPause = absl::Milliseconds(50);
constexpr absl::Duration kMaxWrite = absl::Seconds(10);

constexpr char kTokenHeader[] = "token";
constexpr char kLeaderHeader[] = "hasleader";

std::shared_ptr<const Endpoint> Dial(size_t number, const std::string& address, const ClientOptions& options,
                                     std::shared_ptr<grpc::ChannelCredentials> credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxAnswer);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  // How long an attempt may take, despite the name.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
                   static_cast<int>(absl::ToInt64Milliseconds(options.connect_timeout)));
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A proxy from the environment is for the web.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto endpoint = std::make_shared<Endpoint>();
  endpoint->number = number;
  endpoint->address = address;
  endpoint->channel = grpc::CreateCustomChannel(address, credentials, arguments);
  endpoint->credentials = std::move(credentials);
  endpoint->kv = etcdserverpb::KV::NewStub(endpoint->channel);
  endpoint->watch = etcdserverpb::Watch::NewStub(endpoint->channel);
  endpoint->lease = etcdserverpb::Lease::NewStub(endpoint->channel);
  endpoint->auth = etcdserverpb::Auth::NewStub(endpoint->channel);
  return endpoint;
}

void Prepare(grpc::ClientContext* context, const std::string& token, bool needs_leader) {
  if (!token.empty()) context->AddMetadata(kTokenHeader, token);
  if (needs_leader) context->AddMetadata(kLeaderHeader, "true");
}

bool TokenRefused(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAUTHENTICATED ||
         absl::StrContains(status.error_message(), "revision of auth store is old") ||
         absl::StrContains(status.error_message(), "auth: revision in header is old");
}

// The call had no token although one is required.
bool NobodyNamed(const grpc::Status& status) { return absl::StrContains(status.error_message(), "user name is empty"); }

// Whether this is etcd's answer, as opposed to a failure on the way or among the members.
bool IsAnswer(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::ALREADY_EXISTS:
    case grpc::StatusCode::OUT_OF_RANGE:
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::DATA_LOSS:
      return true;
    default:
      return false;
  }
}

// For RESOURCE_EXHAUSTED: whether the message is one given before a write is proposed. Otherwise etcd is out of space,
// which it also reports for a write it has just carried out, or the answer is too large to be sent or received.
bool RefusedUnproposed(absl::string_view message) {
  return absl::StrContains(message, "too many requests") || absl::StrContains(message, "request is too large") ||
         absl::StrContains(message, "grpc: received message larger than max");
}

absl::Status Cancelled() { return absl::CancelledError("the call to etcd was cancelled"); }

// Why there is no connection, from gRPC's message. FAILED_PRECONDITION: certainly a configuration error.
absl::Status ConnectError(const transport::TlsOptions& tls, absl::string_view message) {
  const std::string trouble = transport::TlsTrouble(tls);
  if (absl::StrContains(message, "certificate verify failed") || absl::StrContains(message, "Hostname Verification")) {
    return absl::FailedPreconditionError(absl::StrCat("its TLS certificate was not signed by the CA in ", tls.ca_file,
                                                      ", is not for this address, or has expired", trouble));
  }
  if (absl::StrContains(message, "WRONG_VERSION_NUMBER") || absl::StrContains(message, "wrong version number")) {
    return absl::FailedPreconditionError("it does not use TLS: leave out the CA certificate");
  }
  // What a member does to a handshake of the wrong kind; a member that is shutting down may do it too.
  if (absl::StrContains(message, "Socket closed") || absl::StrContains(message, "Endpoint read failed") ||
      absl::StrContains(message, "Connection reset by peer")) {
    return absl::UnavailableError(absl::StrCat(
        "it closed the connection at once: ",
        !tls.enabled()                 ? "if it requires TLS, give its CA certificate"
        : tls.certificate_file.empty() ? "check that it uses TLS, and whether it requires client certificates"
                                       : "check that it uses TLS and accepts this client's certificate",
        trouble));
  }
  constexpr absl::string_view kPreface = "last error: ";
  const size_t at = message.find(kPreface);
  return absl::UnavailableError(at == absl::string_view::npos ? message : message.substr(at + kPreface.size()));
}

double RandomHalf() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return std::uniform_real_distribution<double>(0.5, 1)(random);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ClusterChannel>> ClusterChannel::Open(const ClientOptions& options) {
  if (options.user.empty() && !options.password.empty()) {
    return absl::InvalidArgumentError("etcd: a password is given without a user; give both");
  }
  KVLINK_ASSIGN_OR_RETURN(const auto credentials, transport::ChannelCredentials(options.tls));
  std::vector<std::shared_ptr<const Endpoint>> endpoints;
  for (const absl::string_view text : absl::StrSplit(options.endpoints, ',')) {
    const auto address = transport::ParseAddress(text);
    if (!address.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("etcd: the endpoint \"", text, "\" is not host:port; give host:port[,host:port...]"));
    }
    KVLINK_RETURN_IF_ERROR(transport::CheckSecrecy(options.tls, std::string(text), !options.user.empty()));
    endpoints.push_back(Dial(endpoints.size(), std::string(text), options, credentials));
  }
  if (endpoints.size() > kMaxEndpoints) {
    return absl::InvalidArgumentError(
        absl::StrCat("etcd: ", endpoints.size(), " endpoints; give at most ", kMaxEndpoints));
  }
  std::unique_ptr<ClusterChannel> cluster(new ClusterChannel(options));
  cluster->members_ = endpoints.size();
  MutexLock lock(&cluster->mutex_);
  cluster->endpoints_ = std::move(endpoints);
  cluster->confirmed_.resize(cluster->members_, absl::InfinitePast());
  // Spreads clients over the members.
  cluster->current_ = std::random_device{}() % cluster->members_;
  return cluster;
}

std::shared_ptr<const Endpoint> ClusterChannel::At(size_t number) {
  std::shared_ptr<const Endpoint> endpoint;
  {
    MutexLock lock(&mutex_);
    endpoint = endpoints_[number];
  }
  if (endpoint->channel->GetState(false) == GRPC_CHANNEL_READY) return endpoint;
  auto credentials = transport::NewerCredentials(options_.tls, endpoint->credentials);
  if (credentials == nullptr) return endpoint;
  auto dialled = Dial(number, endpoint->address, options_, std::move(credentials));
  MutexLock lock(&mutex_);
  if (endpoints_[number] == endpoint) endpoints_[number] = std::move(dialled);
  return endpoints_[number];
}

absl::Status ClusterChannel::Call(CallKind kind, absl::Time deadline, Cancellation* cancellation, const Rpc& rpc) {
  std::vector<absl::Status> failures(members_);
  absl::Duration pause = kFirstPause;
  for (size_t attempt = 1;; ++attempt) {
    size_t number = 0;
    {
      MutexLock lock(&mutex_);
      number = current_;
    }
    Outcome outcome = Try(kind, number, deadline, cancellation, rpc);
    if (outcome.final) return outcome.status;
    if (cancellation != nullptr && cancellation->cancelled()) return Cancelled();
    failures[number] = std::move(outcome.status);
    Leave(number);
    if (attempt % members_ != 0) {
      if (SteadyNow() >= deadline) return GaveUp(failures);
      continue;
    }
    // Errors that retrying does not change.
    const auto wrong = [](const absl::Status& one) { return absl::IsFailedPrecondition(one); };
    const absl::Time again = SteadyNow() + pause * RandomHalf();
    if (std::all_of(failures.begin(), failures.end(), wrong) || again >= deadline) return GaveUp(failures);
    pause = std::min(kMaxPause, pause * 2);
    if (cancellation == nullptr) {
      Cancellation nobody;
      nobody.SleepUntil(again);
    } else if (!cancellation->SleepUntil(again)) {
      return Cancelled();
    }
  }
}

ClusterChannel::Outcome ClusterChannel::Try(CallKind kind, size_t number, absl::Time deadline,
                                            Cancellation* cancellation, const Rpc& rpc) {
  Outcome outcome = TryOnce(kind, number, deadline, cancellation, rpc);
  if (!outcome.renew_token) return outcome;
  // Only once: if a new token is refused too, that is the answer.
  DropToken(outcome.token);
  return TryOnce(kind, number, deadline, cancellation, rpc);
}

ClusterChannel::Outcome ClusterChannel::TryOnce(CallKind kind, size_t number, absl::Time deadline,
                                                Cancellation* cancellation, const Rpc& rpc) {
  const std::shared_ptr<const Endpoint> held = At(number);
  const Endpoint& endpoint = *held;
  if (absl::Status connected = AwaitConnection(endpoint, deadline, cancellation); !connected.ok()) {
    return {std::move(connected), false};
  }
  bool confirmed = false;
  {
    MutexLock lock(&mutex_);
    confirmed = SteadyNow() - confirmed_[number] < kConfirmed;
  }
  if (kind == CallKind::kWrite && !confirmed) {
    Outcome outcome = TryOnce(CallKind::kRead, number, deadline, cancellation,
                              [this](const Endpoint& at, grpc::ClientContext* context,
                                     etcdserverpb::ResponseHeader* header) { return Ask(at, context, header); });
    // A client without permission to read that key still got an answer.
    if (!outcome.status.ok() && !absl::IsPermissionDenied(outcome.status)) return outcome;
  }
  std::string token;
  bool authenticate = false;
  int64_t floor = 0;
  {
    MutexLock lock(&mutex_);
    token = token_;
    authenticate = !options_.user.empty() && token_.empty() && !open_to_all_;
    floor = revision_;
  }
  // Other calls may drop the token meanwhile; this call keeps its own.
  if (authenticate) {
    if (Outcome outcome = Authenticate(endpoint, deadline, cancellation, &token); !outcome.status.ok()) return outcome;
  }
  grpc::ClientContext context;
  Prepare(&context, token, kind != CallKind::kSerializable);
  const absl::Duration patience = kind == CallKind::kWrite ? kMaxWrite : options_.answer_timeout;
  context.set_deadline(ToSystemClock(std::min(deadline, SteadyNow() + patience)));
  etcdserverpb::ResponseHeader header;
  grpc::Status status;
  {
    Cancellation::Scope scope(cancellation, &context);
    status = rpc(endpoint, &context, &header);
  }
  Outcome outcome = Judge(kind, endpoint, status, header, floor);
  outcome.token = std::move(token);
  if (outcome.status.ok() && (kind == CallKind::kRead || kind == CallKind::kWrite)) {
    MutexLock lock(&mutex_);
    confirmed_[number] = SteadyNow();
    revision_ = std::max(revision_, header.revision());
  }
  return outcome;
}

ClusterChannel::Outcome ClusterChannel::Judge(CallKind kind, const Endpoint& endpoint, const grpc::Status& status,
                                              const etcdserverpb::ResponseHeader& header, int64_t floor) {
  if (status.ok()) {
    absl::Status cluster = CheckCluster(endpoint, header);
    // A write to another cluster is not an error that another member could fix.
    if (!cluster.ok()) return {std::move(cluster), kind == CallKind::kWrite};
    const bool sees_all = kind == CallKind::kRead || kind == CallKind::kWrite;
    if (sees_all && header.revision() < floor) {
      return {absl::DataLossError(
          absl::StrCat("etcd at ", endpoint.address, " is at revision ", header.revision(), " but was at ", floor,
                       " before: it was restored from an older snapshot; read everything again with a new client"))};
    }
    return {absl::OkStatus()};
  }
  if (NobodyNamed(status) && options_.user.empty()) {
    return {absl::UnauthenticatedError(
        absl::StrCat("etcd at ", endpoint.address, " requires a user and a password; none was given"))};
  }
  if (!options_.user.empty() && (TokenRefused(status) || NobodyNamed(status))) {
    return {absl::UnauthenticatedError(absl::StrCat("etcd at ", endpoint.address, " refuses the token of user ",
                                                    options_.user, ": ", status.error_message())),
            true, true};
  }
  const bool undecided = kind == CallKind::kWrite && status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
                         !RefusedUnproposed(status.error_message());
  if ((IsAnswer(status.error_code()) && !undecided) || status.error_code() == grpc::StatusCode::UNAUTHENTICATED) {
    return {Annotate(transport::FromGrpc(status), absl::StrCat("etcd at ", endpoint.address))};
  }
  // Without a leader nothing was proposed; without a connection nothing was sent.
  const bool certain = absl::StrContains(status.error_message(), "etcdserver: no leader") ||
                       absl::StrContains(status.error_message(), "failed to connect to all addresses");
  if (kind == CallKind::kWrite && !certain) {
    return {
        absl::UnknownError(absl::StrCat("etcd at ", endpoint.address, " may or may not have carried out the write (",
                                        status.error_message(), "): read the current state before trying again"))};
  }
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return {absl::DeadlineExceededError("no answer in time"), false};
  }
  return {transport::FromGrpc(status), false};
}

absl::Status ClusterChannel::AwaitConnection(const Endpoint& endpoint, absl::Time deadline,
                                             Cancellation* cancellation) {
  const absl::Time until = std::min(deadline, SteadyNow() + options_.connect_timeout);
  bool waited = false;
  while (true) {
    const grpc_connectivity_state state = endpoint.channel->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return absl::OkStatus();
    if (cancellation != nullptr && cancellation->cancelled()) return Cancelled();
    const absl::Time now = SteadyNow();
    const bool failed = state == GRPC_CHANNEL_TRANSIENT_FAILURE;
    if ((failed && waited) || now >= until) break;
    // gRPC makes connections only while a thread waits within it.
    endpoint.channel->WaitForStateChange(state, ToSystemClock(std::min(until, now + kLook)));
    waited |= failed;
  }
  if (endpoint.channel->GetState(false) != GRPC_CHANNEL_TRANSIENT_FAILURE) {
    return absl::DeadlineExceededError("no connection in time");
  }
  // gRPC tells the reason only to a call.
  grpc::ClientContext context;
  context.set_deadline(ToSystemClock(SteadyNow() + kLook));
  etcdserverpb::ResponseHeader header;
  return ConnectError(options_.tls, Ask(endpoint, &context, &header).error_message());
}

grpc::Status ClusterChannel::Ask(const Endpoint& endpoint, grpc::ClientContext* context,
                                 etcdserverpb::ResponseHeader* header) const {
  etcdserverpb::RangeRequest request;
  // A key that every user with access to the prefix may read.
  request.set_key(options_.prefix.empty() ? std::string(1, '\0') : options_.prefix);
  request.set_count_only(true);
  etcdserverpb::RangeResponse response;
  const grpc::Status status = endpoint.kv->Range(context, request, &response);
  *header = response.header();
  return status;
}

ClusterChannel::Outcome ClusterChannel::Authenticate(const Endpoint& endpoint, absl::Time deadline,
                                                     Cancellation* cancellation, std::string* token) {
  etcdserverpb::AuthenticateRequest request;
  request.set_name(options_.user);
  request.set_password(options_.password);
  etcdserverpb::AuthenticateResponse response;
  grpc::ClientContext context;
  context.set_deadline(ToSystemClock(std::min(deadline, SteadyNow() + options_.answer_timeout)));
  grpc::Status status;
  {
    Cancellation::Scope scope(cancellation, &context);
    status = endpoint.auth->Authenticate(&context, request, &response);
  }
  if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT) {
    return {absl::UnauthenticatedError(
        absl::StrCat("etcd at ", endpoint.address, " does not accept user ", options_.user, " with this password"))};
  }
  const bool off = absl::StrContains(status.error_message(), "authentication is not enabled");
  if (status.ok() || off) {
    *token = response.token();
    MutexLock lock(&mutex_);
    token_ = *token;
    open_to_all_ = off;
    return {absl::OkStatus()};
  }
  return Judge(CallKind::kRepeatable, endpoint, status, response.header(), 0);
}

absl::StatusOr<std::shared_ptr<const Endpoint>> ClusterChannel::Connect(absl::Time deadline,
                                                                        Cancellation* cancellation) {
  std::optional<size_t> answered;
  const absl::Status status =
      Call(CallKind::kRead, deadline, cancellation,
           [&](const Endpoint& endpoint, grpc::ClientContext* context, etcdserverpb::ResponseHeader* header) {
             answered = endpoint.number;
             return Ask(endpoint, context, header);
           });
  // The stream itself reports missing permissions. If no endpoint was asked, authentication was denied.
  if (!status.ok() && !(absl::IsPermissionDenied(status) && answered.has_value())) return status;
  return At(*answered);
}

std::string ClusterChannel::PrepareStream(grpc::ClientContext* context) {
  MutexLock lock(&mutex_);
  Prepare(context, token_, /*needs_leader=*/true);
  return token_;
}

absl::Status ClusterChannel::CheckCluster(const Endpoint& endpoint, const etcdserverpb::ResponseHeader& header) {
  MutexLock lock(&mutex_);
  if (!cluster_.has_value()) cluster_ = header.cluster_id();
  if (*cluster_ == header.cluster_id()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(endpoint.address, " belongs to another etcd cluster (",
                                                    absl::Hex(header.cluster_id()), ", not ", absl::Hex(*cluster_),
                                                    "): remove it from the endpoints"));
}

void ClusterChannel::Leave(size_t number) {
  MutexLock lock(&mutex_);
  confirmed_[number] = absl::InfinitePast();
  if (current_ == number) current_ = (current_ + 1) % members_;
}

void ClusterChannel::DropToken(const std::string& refused) {
  MutexLock lock(&mutex_);
  if (token_ != refused) return;
  token_.clear();
  open_to_all_ = false;
}

void ClusterChannel::Saw(int64_t revision) {
  MutexLock lock(&mutex_);
  revision_ = std::max(revision_, revision);
}

absl::Status ClusterChannel::GaveUp(const std::vector<absl::Status>& failures) const {
  std::vector<std::string> reasons;
  bool silent = false, wrong = true;
  MutexLock lock(&mutex_);
  for (size_t i = 0; i < failures.size(); ++i) {
    // Skips members that the deadline left no time for.
    if (failures[i].ok()) continue;
    reasons.push_back(absl::StrCat(endpoints_[i]->address, " (", failures[i].message(), ")"));
    silent |= absl::IsDeadlineExceeded(failures[i]);
    wrong &= absl::IsFailedPrecondition(failures[i]);
  }
  const std::string message = absl::StrCat("etcd: no answer from ", absl::StrJoin(reasons, ", "));
  if (wrong) return absl::FailedPreconditionError(message);
  return silent ? absl::DeadlineExceededError(message) : absl::UnavailableError(message);
}

}  // namespace kvlink::etcd
