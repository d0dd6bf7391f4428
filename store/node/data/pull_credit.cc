// A waiter is woken only by returns of its own connection. That suffices: every waiter's connection has bytes in
// flight, which will be returned.
#include "store/node/data/pull_credit.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace kvlink::store::node {

void PullCredit::Began(const Pull& pull) {
  MutexLock lock(&mutex_);
  Key& key = keys_[pull.key];
  ++(pull.from == Tier::kDisk ? key.disk_pulls : key.memory_pulls);
}

void PullCredit::Ended(const Pull& pull) {
  MutexLock lock(&mutex_);
  Key& key = keys_[pull.key];
  --(pull.from == Tier::kDisk ? key.disk_pulls : key.memory_pulls);
  const auto connection = connections_.find(pull.connection);
  if (connection == connections_.end()) return;
  std::deque<Waiter>& waiting = connection->second.waiting;
  waiting.erase(std::remove_if(waiting.begin(), waiting.end(), [&](const Waiter& w) { return w.pull == &pull; }),
                waiting.end());
}

// A key that was sent nothing for a while delays no other, whatever it has requested.
bool PullCredit::GoesFirst(const Pull& pull) const {
  const auto found = keys_.find(pull.key);
  const int64_t sent = found == keys_.end() ? 0 : found->second.sent_lately;
  return std::none_of(keys_.begin(), keys_.end(), [&](const auto& entry) {
    const Key& other = entry.second;
    if (entry.first == pull.key || other.sent_lately == 0) return false;
    if (pull.from == Tier::kDisk && other.memory_pulls > 0) return true;
    const int64_t alike = pull.from == Tier::kDisk ? other.disk_pulls : other.memory_pulls;
    return alike > 0 && other.sent_lately < sent;
  });
}

bool PullCredit::HasRoom(const Connection& connection, const Pull& pull, int64_t bytes) const {
  const int64_t then = connection.in_flight + bytes;
  return connection.in_flight == 0 || then <= behind_ || (then <= first_ && GoesFirst(pull));
}

bool PullCredit::Take(const Pull& pull, int64_t bytes, std::function<void()> again) {
  MutexLock lock(&mutex_);
  Age();
  Connection& connection = connections_[pull.connection];
  if (!HasRoom(connection, pull, bytes)) {
    connection.waiting.push_back({&pull, bytes, std::move(again)});
    return false;
  }
  connection.in_flight += bytes;
  keys_[pull.key].sent_lately += bytes;
  return true;
}

void PullCredit::Return(const Pull& pull, int64_t bytes) {
  size_t left;
  {
    MutexLock lock(&mutex_);
    Connection& connection = connections_[pull.connection];
    connection.in_flight -= bytes;
    left = connection.waiting.size();
  }
  // One at a time: each takes its bytes before the next is considered, and a pull that is ending takes none.
  while (true) {
    std::function<void()> again;
    {
      MutexLock lock(&mutex_);
      const auto found = connections_.find(pull.connection);
      if (found == connections_.end()) return;
      Connection& connection = found->second;
      if (connection.waiting.empty()) {
        if (connection.in_flight == 0) connections_.erase(found);
        return;
      }
      const Waiter& next = connection.waiting.front();
      if (left-- == 0 || !HasRoom(connection, *next.pull, next.bytes)) return;
      again = std::move(connection.waiting.front().again);
      connection.waiting.pop_front();
    }
    again();
  }
}

void PullCredit::Age() {
  const absl::Time now = SteadyNow();
  if (now - aged_ < half_life_) return;
  const auto halvings = static_cast<int>(std::min(absl::FDivDuration(now - aged_, half_life_), 63.0));
  aged_ = now;
  absl::erase_if(keys_, [&](auto& entry) {
    Key& key = entry.second;
    key.sent_lately >>= halvings;
    return key.memory_pulls + key.disk_pulls == 0 && key.sent_lately == 0;
  });
}

}  // namespace kvlink::store::node
