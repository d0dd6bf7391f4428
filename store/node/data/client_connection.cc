#include "store/node/data/client_connection.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/node/data/context.h"
#include "store/node/retry_after.h"

namespace kvlink::store::node {
namespace {

absl::string_view Text(const std::string& text) { return {text.data(), text.size()}; }

}  // namespace

proto::Answer Refusal(uint64_t id, const absl::Status& status) {
  proto::Answer answer;
  answer.set_id(id);
  answer.set_code(static_cast<uint32_t>(status.code()));
  answer.set_message(std::string(status.message().substr(0, 1024)));
  answer.set_retry_after_ms(RetryAfterMilliseconds(status));
  if (const auto epoch = MovedEpoch(status)) answer.mutable_moved()->set_epoch(*epoch);
  return answer;
}

absl::Status ClientChannel::SendDescriptor(absl::string_view answer, int descriptor) {
  return absl::UnimplementedError("memory is shared over a local socket only");
}

Call::Call(std::shared_ptr<ClientConnection> connection, std::shared_ptr<Session> session, proto::Request request,
           Operation operation, absl::Time deadline, std::optional<int64_t> charged)
    : connection_(std::move(connection)),
      session_(std::move(session)),
      request_(std::move(request)),
      operation_(operation),
      arrived_(SteadyNow()),
      charged_(charged),
      deadline_(deadline) {}

Call::~Call() {
  if (!ended_.load()) Refuse(absl::InternalError("the node lost the request"));
  connection_->RemoveRequest();
  if (!charged_.has_value()) return;
  context()->traffic.requests.Return(session_->grant());
  context()->request_bytes.Return(session_->grant(), *charged_);
}

DataContext* Call::context() const { return connection_->context(); }

engine::EncodingKey Call::KeyOf(absl::string_view identity, uint32_t codec) const {
  return {request_.ns(), ToIdentity(identity), static_cast<Codec>(codec)};
}

bool Call::Owns(const Identity& identity) const {
  return context()->core->ownership->Answers(identity, request_.placement());
}

uint64_t Call::epoch() const { return context()->core->ownership->epoch(); }

absl::Status Call::UnlessMoved(const Identity& identity, absl::Status status) const {
  return absl::IsNotFound(status) && !Owns(identity) ? MovedStatus(epoch()) : status;
}

std::string Call::owner() const { return absl::StrCat(session_->grant().name, "/", ns()); }

void Call::More(proto::Answer answer) const {
  answer.set_id(id());
  connection_->Send(answer);
}

void Call::Answer(proto::Answer answer) {
  if (ended_.exchange(true)) return;
  answer.set_id(id());
  connection_->Send(answer);
  Ended(absl::StatusCode::kOk);
}

void Call::Refuse(const absl::Status& status) {
  if (ended_.exchange(true)) return;
  connection_->Send(Refusal(id(), status));
  Ended(status.code());
}

void Call::Repeat(absl::string_view bytes) {
  if (ended_.exchange(true)) return;
  connection_->SendBytes(bytes);
  Ended(absl::StatusCode::kOk);
}

void Call::Answered() {
  if (!ended_.exchange(true)) Ended(absl::StatusCode::kOk);
}

void Call::Ended(absl::StatusCode code) { context()->core->metrics->Ended(operation_, SteadyNow() - arrived_, code); }

ClientConnection::ClientConnection(DataContext* context, std::unique_ptr<ClientChannel> channel,
                                   absl::string_view carrier)
    : context_(context),
      channel_(std::move(channel)),
      carrier_(carrier),
      number_(context->connections.NextNumber()),
      opened_(SteadyNow()),
      heard_(absl::ToUnixNanos(opened_)) {
  context_->connections.Constructed();
}

ClientConnection::~ClientConnection() {
  channel_ = nullptr;  // once all connections are gone, the transports are destroyed
  context_->connections.Gone();
}

void ClientConnection::Send(const proto::Answer& answer) { SendBytes(Text(SerializeAnswer(answer, protocol()))); }

void ClientConnection::SendBytes(absl::string_view answer) {
  const absl::Status status = channel_->Send(answer);
  if (absl::IsResourceExhausted(status)) {
    Close("it does not take its answers");
  } else if (!status.ok() && !absl::IsUnavailable(status)) {
    context_->log.Error("answer_not_sent", {{"connection", number_}, {"why", std::string(status.message())}});
    Close("an answer could not be sent");
  }
}

absl::Status ClientConnection::SendMemory(const engine::TierMemory& memory) {
  MutexLock lock(&memory_mutex_);
  if (!memories_sent_.insert(memory.number).second) return absl::OkStatus();
  proto::Answer answer;
  answer.mutable_shared_memory()->set_memory(memory.number);
  answer.mutable_shared_memory()->set_bytes(static_cast<uint64_t>(memory.bytes));
  answer.mutable_shared_memory()->set_ns(memory.ns);
  const std::string bytes = SerializeAnswer(answer, protocol());
  const absl::Status sent = channel_->SendDescriptor(Text(bytes), memory.descriptor);
  if (!sent.ok()) memories_sent_.erase(memory.number);
  return sent;
}

void ClientConnection::MemoryGone(uint32_t memory) {
  MutexLock lock(&memory_mutex_);
  if (memories_sent_.erase(memory) == 0) return;
  proto::Answer answer;
  answer.mutable_shared_memory()->set_memory(memory);
  Send(answer);
}

void ClientConnection::Close(absl::string_view why) {
  // A crowd of unidentified peers must not fill the log.
  if (session() == nullptr) return channel_->Close();
  context_->log.Info("connection_closing",
                     {{"connection", number_}, {"peer", channel_->peer()}, {"why", std::string(why)}});
  channel_->Close();
}

std::shared_ptr<Session> ClientConnection::session() const {
  MutexLock lock(&mutex_);
  return session_;
}

absl::Status ClientConnection::Identify(std::shared_ptr<Session> session) {
  MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("the connection is closed");
  if (holder_ == nullptr) {
    KVLINK_RETURN_IF_ERROR(context_->traffic.connections.Take(session->grant()));
    holder_ = session;
    context_->connections.Identified(*this);
    context_->core->strangers.Known(channel_->peer());
  }
  session_ = std::move(session);
  return absl::OkStatus();
}

void ClientConnection::Heard() { heard_.store(absl::ToUnixNanos(SteadyNow()), std::memory_order_relaxed); }
absl::Time ClientConnection::heard() const { return absl::FromUnixNanos(heard_.load(std::memory_order_relaxed)); }

bool ClientConnection::AddRequest() {
  if (requests_.fetch_add(1, std::memory_order_relaxed) < context_->limits.requests_per_connection) return true;
  RemoveRequest();
  return false;
}

void ClientConnection::Waits(uint64_t id) {
  MutexLock lock(&mutex_);
  waiting_.emplace(id, false);
}

bool ClientConnection::Cancelled(uint64_t id) const {
  MutexLock lock(&mutex_);
  const auto found = waiting_.find(id);
  return found != waiting_.end() && found->second;
}

void ClientConnection::CancelWaiting(uint64_t id) {
  MutexLock lock(&mutex_);
  const auto found = waiting_.find(id);
  if (found != waiting_.end()) found->second = true;
}

bool ClientConnection::Began(uint64_t id) {
  MutexLock lock(&mutex_);
  const auto found = waiting_.find(id);
  if (found == waiting_.end()) return false;
  const bool cancelled = found->second;
  waiting_.erase(found);
  return cancelled;
}

absl::Status ClientConnection::AddTransfer(Kind kind, uint64_t id, std::shared_ptr<Transfer> transfer) {
  const bool pull = kind == Kind::kPull;
  const NodeLimits& limits = context_->limits;
  std::atomic<int64_t>& all = pull ? context_->traffic.pulls : context_->traffic.pushes;
  const absl::string_view name = pull ? "pulls" : "pushes";
  MutexLock lock(&mutex_);
  Transfers& mine = pull ? pulls_ : pushes_;
  if (closed_) return absl::UnavailableError("the connection is closed");
  if (pulls_.contains(id) || pushes_.contains(id)) {
    return absl::InvalidArgumentError(absl::StrCat("request id ", id, " is in use on this connection"));
  }
  const int max_here = pull ? limits.pulls_per_connection : limits.pushes_per_connection;
  if (mine.size() >= static_cast<size_t>(max_here)) {
    return absl::ResourceExhaustedError(absl::StrCat(max_here, " ", name, " are open on this connection, the most"));
  }
  all.fetch_add(1);
  const absl::Status taken = (pull ? context_->pull_quota : context_->push_quota).Take(holder_->grant());
  if (!taken.ok()) {
    all.fetch_sub(1);
    return taken;
  }
  mine.emplace(id, std::move(transfer));
  return absl::OkStatus();
}

void ClientConnection::RemoveTransfer(Kind kind, uint64_t id) {
  std::shared_ptr<Transfer> removed;  // destroyed without the lock
  MutexLock lock(&mutex_);
  Transfers& mine = kind == Kind::kPull ? pulls_ : pushes_;
  const auto found = mine.find(id);
  if (found == mine.end()) return;
  removed = std::move(found->second);
  mine.erase(found);
  (kind == Kind::kPull ? context_->pull_quota : context_->push_quota).Return(holder_->grant());
  (kind == Kind::kPull ? context_->traffic.pulls : context_->traffic.pushes).fetch_sub(1);
}

std::shared_ptr<Transfer> ClientConnection::FindTransfer(Kind kind, uint64_t id) const {
  MutexLock lock(&mutex_);
  const Transfers& mine = kind == Kind::kPull ? pulls_ : pushes_;
  const auto found = mine.find(id);
  return found == mine.end() ? nullptr : found->second;
}

absl::StatusOr<uint64_t> ClientConnection::AddLease(std::shared_ptr<engine::EncodingLease> lease) {
  MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("the connection is closed");
  if (leases_.size() >= static_cast<size_t>(context_->limits.leases_per_connection)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(leases_.size(), " leases are held by this connection, the most: release some"));
  }
  KVLINK_RETURN_IF_ERROR(context_->lease_quota.Take(holder_->grant()));
  leases_.emplace(++last_lease_, std::move(lease));
  context_->traffic.leases.fetch_add(1);
  return last_lease_;
}

void ClientConnection::RemoveLease(uint64_t lease) {
  std::shared_ptr<engine::EncodingLease> removed;  // destroyed without the lock
  MutexLock lock(&mutex_);
  const auto found = leases_.find(lease);
  if (found == leases_.end()) return;
  removed = std::move(found->second);
  leases_.erase(found);
  context_->lease_quota.Return(holder_->grant());
  context_->traffic.leases.fetch_sub(1);
}

std::vector<std::shared_ptr<Transfer>> ClientConnection::AllTransfers() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Transfer>> all;
  for (const Transfers* transfers : {&pulls_, &pushes_}) {
    for (const auto& [id, transfer] : *transfers) all.push_back(transfer);
  }
  return all;
}

void ClientConnection::OnClosed(const absl::Status& why) {
  std::map<uint64_t, std::shared_ptr<engine::EncodingLease>> leases;
  std::shared_ptr<Session> holder;
  {
    MutexLock lock(&mutex_);
    if (std::exchange(closed_, true)) return;
    holder = holder_;
    leases.swap(leases_);
  }
  const int64_t count = static_cast<int64_t>(leases.size());
  context_->traffic.leases.fetch_sub(count);
  leases.clear();
  for (const auto& transfer : AllTransfers()) transfer->End(absl::UnavailableError("the connection is closed"));
  context_->connections.Closed(*this);
  if (holder == nullptr) return;
  context_->lease_quota.Return(holder->grant(), count);
  context_->traffic.connections.Return(holder->grant());
  context_->log.Info("connection_closed", {{"connection", number_},
                                           {"peer", channel_->peer()},
                                           {"carrier", carrier_},
                                           {"why", std::string(why.message())}});
}

void ClientConnection::Sweep(absl::Time now) {
  for (const auto& transfer : AllTransfers()) transfer->Sweep(now);
  const std::shared_ptr<Session> speaker = session();
  if (speaker == nullptr) {
    if (now - opened_ > context_->limits.hello_within) Close("it did not say who it is");
    return;
  }
  const bool live = speaker->live(now);
  // The client may name another session within the time a new connection has to name its first.
  session_ended_ = live ? absl::InfiniteFuture() : std::min(session_ended_, now);
  if (now - session_ended_ > context_->limits.hello_within) return Close("its session has ended");
  if (!channel_->carries_descriptors()) return;
  bool holds;
  {
    MutexLock lock(&mutex_);
    holds = !leases_.empty();
  }
  // Closing releases the leases. The client returns with a new connection and valid leases.
  if (holds && now - heard() > context_->limits.lease) Close("it was silent for longer than leases last");
  if (holds && !live) Close("its session has ended");
}

void ClientConnections::Constructed() {
  MutexLock lock(&mutex_);
  ++alive_;
}

std::shared_ptr<ClientConnection> ClientConnections::Add(const std::shared_ptr<ClientConnection>& connection,
                                                         int max_unidentified) {
  open_.fetch_add(1);
  MutexLock lock(&mutex_);
  // Drops expired entries from time to time.
  if (connections_.size() >= 2 * static_cast<size_t>(alive_) + 16) {
    connections_.erase(
        std::remove_if(connections_.begin(), connections_.end(), [](const auto& known) { return known.expired(); }),
        connections_.end());
  }
  connections_.push_back(connection);
  unidentified_.emplace(connection->number(), connection);
  std::shared_ptr<ClientConnection> oldest;
  while (oldest == nullptr && unidentified_.size() > static_cast<size_t>(max_unidentified)) {
    oldest = unidentified_.begin()->second.lock();
    unidentified_.erase(unidentified_.begin());
  }
  return oldest;
}

void ClientConnections::Identified(const ClientConnection& connection) {
  MutexLock lock(&mutex_);
  unidentified_.erase(connection.number());
}

void ClientConnections::Closed(const ClientConnection& connection) {
  open_.fetch_sub(1);
  Identified(connection);
}

void ClientConnections::Gone() {
  MutexLock lock(&mutex_);
  --alive_;
  gone_.SignalAll();
}

std::vector<std::shared_ptr<ClientConnection>> ClientConnections::All() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<ClientConnection>> all;
  for (const auto& known : connections_) {
    if (auto connection = known.lock()) all.push_back(std::move(connection));
  }
  return all;
}

bool ClientConnections::WaitGone(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (alive_ > 0) {
    if (!gone_.WaitUntil(&mutex_, deadline) && alive_ > 0 && SteadyNow() >= deadline) return false;
  }
  return true;
}

}  // namespace kvlink::store::node
