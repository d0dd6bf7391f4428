// A session is removed from the table under the lock and ended outside it, because releasing pins calls the engine.
#include "store/node/sessions.h"

#include <sys/random.h>

#include <cstdlib>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace kvlink::store::node {
namespace {

// Per session, so that all sessions of a node together remember a bounded amount.
constexpr size_t kMaxAnswers = 512, kMaxAnswerBytes = size_t{64} << 10;

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

ReplyCache::State ReplyCache::Begin(uint64_t id, std::string* answer) {
  MutexLock lock(&mutex_);
  const auto [entry, made] = entries_.try_emplace(id);
  if (made) return State::kNew;
  if (!entry->second.answered) return State::kUnderWay;
  *answer = entry->second.answer;
  return State::kAnswered;
}

void ReplyCache::Finish(uint64_t id, std::string answer) {
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

void ReplyCache::Forget(uint64_t id) {
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

absl::Status Session::CheckAll(Right needed) const {
  if (!live(SteadyNow())) return Ended();
  return grant_.AllowsAll(needed);
}

bool Session::AddPin(const engine::EncodingKey& key, uint64_t sequence) {
  MutexLock lock(&mutex_);
  if (closed_) return false;
  PinCount& pins = pins_[key];
  if (pins.sequence > sequence) return true;  // of an earlier encoding; its pins ended with it
  if (pins.sequence != sequence) pins = {sequence, 0};
  ++pins.count;
  return true;
}

std::optional<uint64_t> Session::TakePin(const engine::EncodingKey& key) {
  MutexLock lock(&mutex_);
  const auto pin = pins_.find(key);
  if (pin == pins_.end()) return std::nullopt;
  const uint64_t sequence = pin->second.sequence;
  if (--pin->second.count == 0) pins_.erase(pin);
  return sequence;
}

void Session::Renew(absl::Time expires) { expires_.store(absl::ToUnixNanos(expires), std::memory_order_relaxed); }

Session::Pins Session::Close() {
  expires_.store(0, std::memory_order_relaxed);
  MutexLock lock(&mutex_);
  closed_ = true;
  return std::exchange(pins_, {});
}

Session::Pins Session::TakePins(absl::string_view ns) {
  Pins taken;
  MutexLock lock(&mutex_);
  for (auto pin = pins_.begin(); pin != pins_.end();) {
    const auto next = std::next(pin);
    if (pin->first.ns == ns) taken.insert(pins_.extract(pin));
    pin = next;
  }
  return taken;
}

absl::StatusOr<std::shared_ptr<Session>> Sessions::Open(Grant grant, absl::string_view client) {
  MutexLock lock(&mutex_);
  const bool administers = grant.AllowsAll(Right::kAdmin).ok();
  const int most = limits_.sessions + (administers ? limits_.reserved : 0);
  if (sessions_.size() >= static_cast<size_t>(most)) {
    return absl::ResourceExhaustedError(absl::StrCat(most, " sessions are open, which is the most"));
  }
  int& of_grant = by_grant_[grant.name];
  if (!administers && of_grant >= limits_.per_grant) {
    return absl::ResourceExhaustedError(
        absl::StrCat(of_grant, " sessions of this key are open, which is the most of one"));
  }
  ++of_grant;
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
  // Under the lock under which Sweep decides, so that a session it has taken stays ended.
  if (sessions_.find(session->token()) == sessions_.end() || !session->live(SteadyNow())) return Ended();
  session->Renew(SteadyNow() + lifetime_);
  return absl::OkStatus();
}

std::shared_ptr<Session> Sessions::Take(OpenSessions::iterator session) {
  std::shared_ptr<Session> taken = std::move(session->second);
  sessions_.erase(session);
  const auto count = by_grant_.find(taken->grant().name);
  if (--count->second == 0) by_grant_.erase(count);
  return taken;
}

std::vector<std::shared_ptr<Session>> Sessions::TakeIf(const std::function<bool(const Session&)>& ends) {
  std::vector<std::shared_ptr<Session>> taken;
  MutexLock lock(&mutex_);
  for (auto session = sessions_.begin(); session != sessions_.end();) {
    const auto here = session++;
    if (ends(*here->second)) taken.push_back(Take(here));
  }
  return taken;
}

void Sessions::Close(Session* session) {
  std::shared_ptr<Session> taken;
  {
    MutexLock lock(&mutex_);
    const auto found = sessions_.find(session->token());
    if (found == sessions_.end()) return;
    taken = Take(found);
  }
  Release(taken);
}

void Sessions::CloseAll() {
  for (const auto& session : TakeIf([](const Session&) { return true; })) Release(session);
}

int64_t Sessions::CloseUnless(const std::function<bool(const Grant&)>& holds) {
  const auto ended = TakeIf([&](const Session& session) { return !holds(session.grant()); });
  for (const auto& session : ended) Release(session);
  return static_cast<int64_t>(ended.size());
}

int64_t Sessions::Sweep(absl::Time now) {
  const auto expired = TakeIf([now](const Session& session) { return !session.live(now); });
  for (const auto& session : expired) Release(session);
  return static_cast<int64_t>(expired.size());
}

int64_t Sessions::DropPins(absl::string_view ns) {
  std::vector<std::shared_ptr<Session>> all;
  {
    MutexLock lock(&mutex_);
    for (const auto& [token, session] : sessions_) all.push_back(session);
  }
  int64_t dropped = 0;
  for (const auto& session : all) {
    for (const auto& [key, pins] : session->TakePins(ns)) {
      for (int64_t i = 0; i < pins.count; ++i) unpin_(key, pins.sequence);
      dropped += pins.count;
    }
  }
  return dropped;
}

void Sessions::Release(const std::shared_ptr<Session>& session) {
  for (const auto& [key, pins] : session->Close()) {
    for (int64_t i = 0; i < pins.count; ++i) unpin_(key, pins.sequence);
  }
}

int64_t Sessions::size() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(sessions_.size());
}

}  // namespace kvlink::store::node
