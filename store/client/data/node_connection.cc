#include "store/client/data/node_connection.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/client/control/retry.h"

namespace kvlink::store::client {
namespace {

constexpr absl::Duration kSilence = absl::Seconds(2);
constexpr absl::Duration kQueueFull = absl::Milliseconds(10);
constexpr int kMaxReceivesPerPull = 256;

absl::Status AnswerStatus(const proto::Answer& answer) {
  if (answer.code() == 0) return absl::OkStatus();
  if (answer.has_moved()) return MovedStatus(answer.moved().epoch());
  absl::Status status(static_cast<absl::StatusCode>(answer.code()), answer.message());
  return answer.retry_after_ms() == 0 ? status
                                      : WithRetryAfter(std::move(status), absl::Milliseconds(answer.retry_after_ms()));
}

}  // namespace

uint32_t RemainingMilliseconds(absl::Time deadline) {
  const int64_t left = absl::ToInt64Milliseconds(deadline - SteadyNow());
  return static_cast<uint32_t>(std::clamp<int64_t>(left, 1, 24 * 3600 * 1000));
}

void AnswerQueue::OnAnswer(const absl::Status& status, const proto::Answer& answer) {
  MutexLock lock(&mutex_);
  if (status.ok()) {
    answers_.emplace_back(answer);
  } else {
    answers_.emplace_back(status);
  }
  changed_.SignalAll();
}

void AnswerQueue::OnClosed(const absl::Status& why) {
  MutexLock lock(&mutex_);
  closed_ = why;
  changed_.SignalAll();
}

absl::StatusOr<proto::Answer> AnswerQueue::Next(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (answers_.empty()) {
    if (!closed_.ok()) return closed_;
    if (!changed_.WaitUntil(&mutex_, deadline) && answers_.empty()) {
      return absl::DeadlineExceededError("the node did not answer in time");
    }
  }
  absl::StatusOr<proto::Answer> answer = std::move(answers_.front());
  answers_.pop_front();
  return answer;
}

absl::Status Slots::Take(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (free_ == 0) {
    if (!changed_.WaitUntil(&mutex_, deadline) && free_ == 0) {
      return absl::DeadlineExceededError("as many transfers as the node allows are in progress");
    }
  }
  --free_;
  return absl::OkStatus();
}

bool Slots::TryTake(const std::shared_ptr<Signal>& freed) {
  MutexLock lock(&mutex_);
  if (free_ == 0) {
    waiting_.push_back(freed);
    return false;
  }
  --free_;
  return true;
}

void Slots::Give() {
  std::vector<std::weak_ptr<Signal>> waiting;
  {
    MutexLock lock(&mutex_);
    ++free_;
    changed_.Signal();
    waiting.swap(waiting_);
  }
  // Raises all of them: a waiter that is told may no longer want the slot.
  for (const auto& one : waiting) {
    if (const auto signal = one.lock()) signal->Raise();
  }
}

void NodeConnection::Bind(std::shared_ptr<transport::Connection> connection) {
  carrier_ = std::move(connection);
  MutexLock lock(&mutex_);
  if (why_.ok()) open_.store(true, std::memory_order_release);
}

absl::Status NodeConnection::Hello(const OpenedSession& session, absl::Time deadline) {
  protocol_.store(session.protocol, std::memory_order_relaxed);
  proto::Request request = NewRequest("", deadline);
  request.clear_incarnation();
  request.mutable_hello()->set_token(session.token);
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, Call(request, deadline));
  const proto::Welcome& welcome = answer.welcome();
  if (ToNodeId(welcome.node_id()) != session.node_id || welcome.incarnation() != session.incarnation) {
    return absl::FailedPreconditionError(absl::StrCat(
        carrier_->peer(), " is node ", absl::BytesToHexString(welcome.node_id()), ", incarnation ",
        welcome.incarnation(), ", but the session is with node ", absl::BytesToHexString(BytesOf(session.node_id)),
        ", incarnation ", session.incarnation, ": the data address belongs to another node"));
  }
  if (pulls_ == nullptr) {
    incarnation_ = session.incarnation;
    lease_ = absl::Milliseconds(welcome.lease_ms());
    const int pulls = static_cast<int>(std::clamp<uint32_t>(welcome.max_pulls(), 1, transport::kMaxOperations));
    pulls_ = std::make_unique<Slots>(pulls);
    pushes_ = std::make_unique<Slots>(static_cast<int>(std::clamp<uint32_t>(welcome.max_pushes(), 1, 1024)));
    receives_per_pull_ = std::clamp(transport::kMaxOperations / 2 / pulls, 1, kMaxReceivesPerPull);
  }
  session_.store(session.number, std::memory_order_release);
  return absl::OkStatus();
}

void NodeConnection::Close() {
  open_.store(false, std::memory_order_release);
  if (carrier_ != nullptr) carrier_->Close();
}

bool NodeConnection::WaitClosed(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (!closed_) {
    if (!gone_.WaitUntil(&mutex_, deadline)) return closed_;
  }
  return true;
}

proto::Request NodeConnection::NewRequest(absl::string_view ns, absl::Time deadline, uint64_t id) const {
  proto::Request request;
  request.set_id(id != 0 ? id : source_->next_id.fetch_add(1, std::memory_order_relaxed));
  request.set_ns(std::string(ns));
  request.set_incarnation(incarnation_);
  if (source_->placement) request.set_placement(source_->placement());
  request.set_remaining_ms(RemainingMilliseconds(deadline));
  return request;
}

absl::Status NodeConnection::Ask(const proto::Request& request, std::shared_ptr<AnswerSink> sink) {
  {
    MutexLock lock(&mutex_);
    if (!why_.ok()) return why_;
    sinks_[request.id()] = std::move(sink);
  }
  absl::Status sent = carrier_->SendMessage(SerializeRequest(request, protocol_.load(std::memory_order_relaxed)));
  if (sent.ok()) return sent;
  Forget(request.id());
  return absl::IsResourceExhausted(sent) ? WithRetryAfter(std::move(sent), kQueueFull) : sent;
}

void NodeConnection::Forget(uint64_t id) {
  MutexLock lock(&mutex_);
  sinks_.erase(id);
}

void NodeConnection::Tell(const proto::Request& request) {
  // If it is lost, the node still cleans up, at the end of the connection or by its time limit.
  (void)carrier_->SendMessage(SerializeRequest(request, protocol_.load(std::memory_order_relaxed)));
}

absl::StatusOr<proto::Answer> NodeConnection::Call(const proto::Request& request, absl::Time deadline) {
  const absl::Time began = SteadyNow();
  const auto queue = std::make_shared<AnswerQueue>();
  KVLINK_RETURN_IF_ERROR(Ask(request, queue));
  auto answer = queue->Next(deadline);
  Forget(request.id());
  if (absl::IsDeadlineExceeded(answer.status())) Unanswered(began);
  return answer;
}

void NodeConnection::Unanswered(absl::Time asked) {
  const absl::Time now = SteadyNow();
  const absl::Time heard = absl::FromUnixNanos(heard_.load(std::memory_order_relaxed));
  {
    MutexLock lock(&mutex_);
    if (heard >= silent_until_) silent_ = absl::ZeroDuration();
    if (heard >= asked) return;
    // Counts the time of concurrently waiting requests once.
    silent_ += std::max(absl::ZeroDuration(), now - std::max(asked, silent_until_));
    silent_until_ = now;
    if (silent_ < kSilence) return;
  }
  Close();
}

void NodeConnection::OnMessage(absl::string_view message) { OnMessageWithDescriptors(message, {}); }

void NodeConnection::OnMessageWithDescriptors(absl::string_view message, std::vector<Descriptor> descriptors) {
  heard_.store(absl::ToUnixNanos(SteadyNow()), std::memory_order_relaxed);
  const absl::StatusOr<proto::Answer> answer = ParseAnswer(message);
  if (!answer.ok()) {
    // The answer's request is unknown, so the whole connection ends.
    {
      MutexLock lock(&mutex_);
      unreadable_ = answer.status();
    }
    Close();
    return;
  }
  if (answer->id() == 0) {
    if (unsolicited_ != nullptr) unsolicited_->OnUnsolicited(*answer, std::move(descriptors));
    return;
  }
  std::shared_ptr<AnswerSink> sink;
  {
    MutexLock lock(&mutex_);
    const auto found = sinks_.find(answer->id());
    if (found == sinks_.end()) return;  // abandoned meanwhile
    sink = found->second;
  }
  sink->OnAnswer(AnswerStatus(*answer), *answer);
}

void NodeConnection::OnClosed(const absl::Status& why) {
  absl::flat_hash_map<uint64_t, std::shared_ptr<AnswerSink>> sinks;
  absl::Status closed;
  {
    MutexLock lock(&mutex_);
    const absl::Status& reason = unreadable_.ok() ? why : unreadable_;
    closed = absl::UnavailableError(absl::StrCat("the connection to the node closed", reason.ok() ? "" : ": ",
                                                 reason.ok() ? "" : reason.message()));
    open_.store(false, std::memory_order_release);
    why_ = closed;
    sinks.swap(sinks_);
  }
  for (const auto& [id, sink] : sinks) sink->OnClosed(closed);
  sinks.clear();
  MutexLock lock(&mutex_);
  closed_ = true;
  gone_.SignalAll();
}

}  // namespace kvlink::store::client
