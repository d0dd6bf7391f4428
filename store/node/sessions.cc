#include "store/node/sessions.h"

#include <sys/random.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace kvlink::store {
namespace {

// Of one session. A node's sessions together so remember a bounded amount, whoever fills them.
constexpr size_t kMaxAnswers = 512, kMaxAnswerBytes = size_t{64} << 10;
constexpr size_t kMaxClientName = 255;

absl::Status Ended() { return absl::UnauthenticatedError("the session is unknown or has expired: open another one"); }

}  // namespace

std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  for (size_t done = 0; done < count;) {
    const ssize_t got = getrandom(bytes.data() + done, count - done, 0);
    if (got > 0) done += static_cast<size_t>(got);
  }
  return bytes;
}

AnswerMemory::State AnswerMemory::Begin(uint64_t id, std::string* answer) {
  MutexLock lock(&mutex_);
  const auto [entry, made] = entries_.try_emplace(id);
  if (made) return State::kNew;
  if (!entry->second.answered) return State::kUnderWay;
  *answer = entry->second.answer;
  return State::kAnswered;
}

void AnswerMemory::Finish(uint64_t id, std::string answer) {
  MutexLock lock(&mutex_);
  Entry& entry = entries_[id];
  if (entry.answered) return;
  bytes_ += answer.size();
  entry.answered = true;
  entry.answer = std::move(answer);
  answered_.push_back(id);
  while (answered_.size() > kMaxAnswers || (bytes_ > kMaxAnswerBytes && answered_.size() > 1)) {
    const auto oldest = entries_.find(answered_.front());
    bytes_ -= oldest->second.answer.size();
    entries_.erase(oldest);
    answered_.pop_front();
  }
}

void AnswerMemory::Forget(uint64_t id) {
  MutexLock lock(&mutex_);
  const auto entry = entries_.find(id);
  if (entry != entries_.end() && !entry->second.answered) entries_.erase(entry);
}

Session::Session(std::string token, int64_t number, Grant grant, std::string client, absl::Time expires)
    : token_(std::move(token)),
      number_(number),
      grant_(std::move(grant)),
      client_(std::move(client)),
      expires_(absl::ToUnixNanos(expires)) {}

absl::Time Session::expires() const { return absl::FromUnixNanos(expires_.load(std::memory_order_relaxed)); }

bool Session::live(absl::Time now) const { return now < expires(); }

absl::Status Session::Check(Right needed, absl::string_view ns) const {
  if (!live(SteadyNow())) return Ended();
  return grant_.Allows(needed, ns);
}

bool Session::AddPin(const engine::EncodingKey& key) {
  MutexLock lock(&mutex_);
  if (closed_) return false;
  ++pins_[key];
  return true;
}

bool Session::TakePin(const engine::EncodingKey& key) {
  MutexLock lock(&mutex_);
  const auto pin = pins_.find(key);
  if (pin == pins_.end()) return false;
  if (--pin->second == 0) pins_.erase(pin);
  return true;
}

void Session::Renew(absl::Time expires) { expires_.store(absl::ToUnixNanos(expires), std::memory_order_relaxed); }

Session::Pins Session::Close() {
  expires_.store(0, std::memory_order_relaxed);
  MutexLock lock(&mutex_);
  closed_ = true;
  return std::exchange(pins_, {});
}

absl::StatusOr<std::shared_ptr<Session>> Sessions::Open(Grant grant, absl::string_view client) {
  MutexLock lock(&mutex_);
  if (sessions_.size() >= static_cast<size_t>(max_)) {
    return absl::ResourceExhaustedError(absl::StrCat(max_, " sessions are open, which is the most"));
  }
  client = client.substr(0, kMaxClientName);
  auto session = std::make_shared<Session>(RandomBytes(kTokenBytes), ++opened_, std::move(grant),
                                           std::string(client.data(), client.size()), SteadyNow() + lifetime_);
  sessions_.emplace(session->token(), session);
  return session;
}

absl::StatusOr<std::shared_ptr<Session>> Sessions::Find(absl::string_view token) {
  MutexLock lock(&mutex_);
  const auto found = sessions_.find(token);
  if (found == sessions_.end() || !found->second->live(SteadyNow())) return Ended();
  return found->second;
}

absl::Status Sessions::Renew(Session* session) {
  MutexLock lock(&mutex_);
  // Under the lock that Sweep decides under: one that it took stays ended.
  if (sessions_.find(session->token()) == sessions_.end() || !session->live(SteadyNow())) return Ended();
  session->Renew(SteadyNow() + lifetime_);
  return absl::OkStatus();
}

void Sessions::Close(Session* session) {
  std::shared_ptr<Session> taken;
  {
    MutexLock lock(&mutex_);
    const auto found = sessions_.find(session->token());
    if (found == sessions_.end()) return;
    taken = std::move(found->second);
    sessions_.erase(found);
  }
  Release(taken);
}

void Sessions::CloseAll() {
  absl::flat_hash_map<std::string, std::shared_ptr<Session>> taken;
  {
    MutexLock lock(&mutex_);
    taken.swap(sessions_);
  }
  for (const auto& [token, session] : taken) Release(session);
}

int64_t Sessions::Sweep(absl::Time now) {
  std::vector<std::shared_ptr<Session>> expired;
  {
    MutexLock lock(&mutex_);
    for (auto session = sessions_.begin(); session != sessions_.end();) {
      if (session->second->live(now)) {
        ++session;
      } else {
        expired.push_back(std::move(session->second));
        sessions_.erase(session++);
      }
    }
  }
  for (const auto& session : expired) Release(session);
  return static_cast<int64_t>(expired.size());
}

void Sessions::Release(const std::shared_ptr<Session>& session) {
  for (const auto& [key, count] : session->Close()) {
    for (int64_t i = 0; i < count; ++i) unpin_(key);
  }
}

int64_t Sessions::size() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(sessions_.size());
}

}  // namespace kvlink::store
