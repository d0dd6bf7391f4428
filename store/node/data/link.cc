#include "store/node/data/link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/node/service.h"

namespace kvlink::store {
namespace {

constexpr uint32_t kRetryWhenFull = 50, kRetryWhenUnavailable = 500;  // milliseconds

absl::string_view Text(const std::string& text) { return {text.data(), text.size()}; }

}  // namespace

uint32_t RetryAfterMilliseconds(const absl::Status& status) {
  if (absl::IsResourceExhausted(status)) return kRetryWhenFull;
  if (absl::IsUnavailable(status)) return kRetryWhenUnavailable;
  return 0;
}

proto::Answer Refusal(uint64_t id, const absl::Status& status) {
  proto::Answer answer;
  answer.set_id(id);
  answer.set_code(static_cast<uint32_t>(status.code()));
  answer.set_message(std::string(status.message().substr(0, 1024)));
  answer.set_retry_after_ms(RetryAfterMilliseconds(status));
  return answer;
}

absl::Status Outlet::SendDescriptor(absl::string_view answer, int descriptor) {
  return absl::UnimplementedError("memory is shared over a local socket only");
}

Call::Call(std::shared_ptr<Link> link, std::shared_ptr<Session> session, proto::Request request, Operation operation,
           absl::Time deadline, int64_t bytes)
    : link_(std::move(link)),
      session_(std::move(session)),
      request_(std::move(request)),
      operation_(operation),
      arrived_(SteadyNow()),
      bytes_(bytes),
      deadline_(deadline) {}

Call::~Call() {
  if (!ended_.load()) Refuse(absl::InternalError("the node lost the request"));
  link_->RemoveRequest();
  service()->requests.Return(session_->grant());
  service()->request_bytes.Return(session_->grant(), bytes_);
}

Service* Call::service() const { return link_->service(); }

engine::EncodingKey Call::KeyOf(absl::string_view identity, uint32_t codec) const {
  return {request_.ns(), ToIdentity(identity), static_cast<Codec>(codec)};
}

std::string Call::owner() const { return absl::StrCat(session_->grant().name, "/", ns()); }

void Call::More(proto::Answer answer) const {
  answer.set_id(id());
  link_->Send(answer);
}

void Call::Answer(proto::Answer answer) {
  if (ended_.exchange(true)) return;
  answer.set_id(id());
  link_->Send(answer);
  Ended(absl::StatusCode::kOk);
}

void Call::Refuse(const absl::Status& status) {
  if (ended_.exchange(true)) return;
  link_->Send(Refusal(id(), status));
  Ended(status.code());
}

void Call::Repeat(absl::string_view bytes) {
  if (ended_.exchange(true)) return;
  link_->SendBytes(bytes);
  Ended(absl::StatusCode::kOk);
}

void Call::Answered() {
  if (!ended_.exchange(true)) Ended(absl::StatusCode::kOk);
}

void Call::Ended(absl::StatusCode code) { service()->metrics->Ended(operation_, SteadyNow() - arrived_, code); }

Link::Link(Service* service, std::unique_ptr<Outlet> outlet, absl::string_view carrier)
    : service_(service),
      outlet_(std::move(outlet)),
      carrier_(carrier),
      number_(service->links.NextNumber()),
      opened_(SteadyNow()),
      heard_(absl::ToUnixNanos(opened_)) {
  service_->links.Constructed();
}

Link::~Link() {
  outlet_ = nullptr;  // once all links are gone, the transports go
  service_->links.Gone();
}

void Link::Send(const proto::Answer& answer) { SendBytes(Text(SerializeAnswer(answer))); }

void Link::SendBytes(absl::string_view answer) {
  const absl::Status status = outlet_->Send(answer);
  if (absl::IsResourceExhausted(status)) {
    Close("it does not take its answers");
  } else if (!status.ok() && !absl::IsUnavailable(status)) {
    service_->log.Error("answer_not_sent", {{"connection", number_}, {"why", std::string(status.message())}});
    Close("an answer could not be sent");
  }
}

absl::Status Link::SendMemory(const engine::TierMemory& memory) {
  MutexLock lock(&memory_mutex_);
  if (!memories_sent_.insert(memory.number).second) return absl::OkStatus();
  proto::Answer answer;
  answer.mutable_shared_memory()->set_memory(memory.number);
  answer.mutable_shared_memory()->set_bytes(static_cast<uint64_t>(memory.bytes));
  answer.mutable_shared_memory()->set_ns(memory.ns);
  const std::string bytes = SerializeAnswer(answer);
  const absl::Status sent = outlet_->SendDescriptor(Text(bytes), memory.descriptor);
  if (!sent.ok()) memories_sent_.erase(memory.number);
  return sent;
}

void Link::Close(absl::string_view why) {
  // A crowd of nobodies does not fill the log.
  if (session() == nullptr) return outlet_->Close();
  service_->log.Info("connection_closing",
                     {{"connection", number_}, {"peer", outlet_->peer()}, {"why", std::string(why)}});
  outlet_->Close();
}

std::shared_ptr<Session> Link::session() const {
  MutexLock lock(&mutex_);
  return session_;
}

absl::Status Link::Identify(std::shared_ptr<Session> session) {
  MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("the connection is closed");
  if (holder_ == nullptr) {
    KVLINK_RETURN_IF_ERROR(service_->connections.Take(session->grant()));
    holder_ = session;
    service_->links.Identified(*this);
  }
  session_ = std::move(session);
  return absl::OkStatus();
}

void Link::Heard() { heard_.store(absl::ToUnixNanos(SteadyNow()), std::memory_order_relaxed); }
absl::Time Link::heard() const { return absl::FromUnixNanos(heard_.load(std::memory_order_relaxed)); }

bool Link::AddRequest() {
  if (requests_.fetch_add(1, std::memory_order_relaxed) < service_->limits.requests_per_connection) return true;
  RemoveRequest();
  return false;
}

void Link::Waits(uint64_t id) {
  MutexLock lock(&mutex_);
  waiting_.emplace(id, false);
}

bool Link::Cancelled(uint64_t id) const {
  MutexLock lock(&mutex_);
  const auto found = waiting_.find(id);
  return found != waiting_.end() && found->second;
}

void Link::CancelWaiting(uint64_t id) {
  MutexLock lock(&mutex_);
  const auto found = waiting_.find(id);
  if (found != waiting_.end()) found->second = true;
}

bool Link::Began(uint64_t id) {
  MutexLock lock(&mutex_);
  const auto found = waiting_.find(id);
  if (found == waiting_.end()) return false;
  const bool cancelled = found->second;
  waiting_.erase(found);
  return cancelled;
}

absl::Status Link::AddTransfer(Kind kind, uint64_t id, std::shared_ptr<Transfer> transfer) {
  const bool pull = kind == Kind::kPull;
  const NodeLimits& limits = service_->limits;
  std::atomic<int64_t>& all = pull ? service_->pulls : service_->pushes;
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
  const absl::Status taken = (pull ? service_->pull_quota : service_->push_quota).Take(holder_->grant());
  if (!taken.ok()) {
    all.fetch_sub(1);
    return taken;
  }
  mine.emplace(id, std::move(transfer));
  return absl::OkStatus();
}

void Link::RemoveTransfer(Kind kind, uint64_t id) {
  std::shared_ptr<Transfer> removed;  // destroyed without the lock
  MutexLock lock(&mutex_);
  Transfers& mine = kind == Kind::kPull ? pulls_ : pushes_;
  const auto found = mine.find(id);
  if (found == mine.end()) return;
  removed = std::move(found->second);
  mine.erase(found);
  (kind == Kind::kPull ? service_->pull_quota : service_->push_quota).Return(holder_->grant());
  (kind == Kind::kPull ? service_->pulls : service_->pushes).fetch_sub(1);
}

std::shared_ptr<Transfer> Link::FindTransfer(Kind kind, uint64_t id) const {
  MutexLock lock(&mutex_);
  const Transfers& mine = kind == Kind::kPull ? pulls_ : pushes_;
  const auto found = mine.find(id);
  return found == mine.end() ? nullptr : found->second;
}

absl::StatusOr<uint64_t> Link::AddLease(std::shared_ptr<engine::EncodingLease> lease) {
  MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("the connection is closed");
  if (leases_.size() >= static_cast<size_t>(service_->limits.leases_per_connection)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(leases_.size(), " leases are held by this connection, the most: release some"));
  }
  KVLINK_RETURN_IF_ERROR(service_->lease_quota.Take(holder_->grant()));
  leases_.emplace(++last_lease_, std::move(lease));
  service_->leases.fetch_add(1);
  return last_lease_;
}

void Link::RemoveLease(uint64_t lease) {
  std::shared_ptr<engine::EncodingLease> removed;  // destroyed without the lock
  MutexLock lock(&mutex_);
  const auto found = leases_.find(lease);
  if (found == leases_.end()) return;
  removed = std::move(found->second);
  leases_.erase(found);
  service_->lease_quota.Return(holder_->grant());
  service_->leases.fetch_sub(1);
}

std::vector<std::shared_ptr<Transfer>> Link::AllTransfers() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Transfer>> all;
  for (const Transfers* transfers : {&pulls_, &pushes_}) {
    for (const auto& [id, transfer] : *transfers) all.push_back(transfer);
  }
  return all;
}

void Link::OnClosed(const absl::Status& why) {
  std::map<uint64_t, std::shared_ptr<engine::EncodingLease>> leases;
  std::shared_ptr<Session> holder;
  {
    MutexLock lock(&mutex_);
    if (std::exchange(closed_, true)) return;
    holder = holder_;
    leases.swap(leases_);
  }
  const int64_t count = static_cast<int64_t>(leases.size());
  service_->leases.fetch_sub(count);
  leases.clear();
  for (const auto& transfer : AllTransfers()) transfer->End(absl::UnavailableError("the connection is closed"));
  service_->links.Closed(*this);
  if (holder == nullptr) return;
  service_->lease_quota.Return(holder->grant(), count);
  service_->connections.Return(holder->grant());
  service_->log.Info(
      "connection_closed",
      {{"connection", number_}, {"peer", outlet_->peer()}, {"carrier", carrier_}, {"why", std::string(why.message())}});
}

void Link::Sweep(absl::Time now) {
  for (const auto& transfer : AllTransfers()) transfer->Sweep(now);
  const std::shared_ptr<Session> speaker = session();
  if (speaker == nullptr) {
    if (now - opened_ > service_->limits.hello_within) Close("it did not say who it is");
    return;
  }
  const bool live = speaker->live(now);
  // It may name another session, as one that has just come may name its first.
  session_ended_ = live ? absl::InfiniteFuture() : std::min(session_ended_, now);
  if (now - session_ended_ > service_->limits.hello_within) return Close("its session has ended");
  if (!outlet_->carries_descriptors()) return;
  bool holds;
  {
    MutexLock lock(&mutex_);
    holds = !leases_.empty();
  }
  // Closing frees the leases. The client comes back with a connection and leases that are good.
  if (holds && now - heard() > service_->limits.lease) Close("it was silent for longer than leases last");
  if (holds && !live) Close("its session has ended");
}

void Links::Constructed() {
  MutexLock lock(&mutex_);
  ++alive_;
}

std::shared_ptr<Link> Links::Add(const std::shared_ptr<Link>& link, int max_unidentified) {
  open_.fetch_add(1);
  MutexLock lock(&mutex_);
  // Forgets those that are gone, now and then.
  if (links_.size() >= 2 * static_cast<size_t>(alive_) + 16) {
    links_.erase(std::remove_if(links_.begin(), links_.end(), [](const auto& known) { return known.expired(); }),
                 links_.end());
  }
  links_.push_back(link);
  unidentified_.emplace(link->number(), link);
  std::shared_ptr<Link> oldest;
  while (oldest == nullptr && unidentified_.size() > static_cast<size_t>(max_unidentified)) {
    oldest = unidentified_.begin()->second.lock();
    unidentified_.erase(unidentified_.begin());
  }
  return oldest;
}

void Links::Identified(const Link& link) {
  MutexLock lock(&mutex_);
  unidentified_.erase(link.number());
}

void Links::Closed(const Link& link) {
  open_.fetch_sub(1);
  Identified(link);
}

void Links::Gone() {
  MutexLock lock(&mutex_);
  --alive_;
  gone_.SignalAll();
}

std::vector<std::shared_ptr<Link>> Links::All() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Link>> all;
  for (const auto& known : links_) {
    if (auto link = known.lock()) all.push_back(std::move(link));
  }
  return all;
}

bool Links::WaitGone(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (alive_ > 0) {
    if (!gone_.WaitUntil(&mutex_, deadline) && alive_ > 0 && SteadyNow() >= deadline) return false;
  }
  return true;
}

}  // namespace kvlink::store
