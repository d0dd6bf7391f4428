// If a connection breaks, the idle ones are closed too, since they lead to the same server. The pause between attempts
// grows from 20 ms to half a second, with jitter, so that clients do not return all at once.
#include "store/database/pool.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/database/schema.h"
#include "store/database/server_errors.h"

namespace kvlink::store::database {
namespace {

constexpr int kMaxConflicts = 20;
constexpr absl::Duration kMinPause = absl::Milliseconds(20), kMaxPause = absl::Milliseconds(500);

// A random duration between 0.5 and 1.5 times `pause`.
absl::Duration Jittered(absl::Duration pause) {
  const auto chance = static_cast<double>(absl::GetCurrentTimeNanos() / 1000 % 1000) / 1000;
  return pause * (0.5 + chance);
}

}  // namespace

Pool::Pool(const DatabaseOptions& options, std::vector<Host> hosts) : options_(options), hosts_(std::move(hosts)) {}

absl::Status Pool::Run(absl::Time deadline, Work work) { return Repeat(deadline, /*check=*/true, work); }

absl::Status Pool::RunUnchecked(absl::Time deadline, Work work) { return Repeat(deadline, /*check=*/false, work); }

absl::Status Pool::Repeat(absl::Time deadline, bool check, Work work) {
  if (options_.connection.empty()) {
    return absl::FailedPreconditionError(
        "the cluster was created without a database, so it keeps encodings but neither documents nor limits; create "
        "one that has them with kvlink cluster create --database CONNSTRING");
  }
  deadline = std::min(deadline, SteadyNow() + options_.operation_timeout);
  absl::Time patient_until = absl::InfiniteFuture();
  absl::Duration pause = kMinPause;
  for (int conflicts = 0;;) {
    auto taken = Take(deadline);
    absl::Status status = taken.status();
    // The server had no memory left for this client, as after a failover, when all clients return together.
    const bool full = absl::IsResourceExhausted(status);
    const bool used = taken.ok() && taken->used;
    if (taken.ok()) {
      status = Attempt(*taken, check, deadline, work);
      Give(*std::move(taken));
    }
    if (absl::IsAborted(status) && ++conflicts <= kMaxConflicts) {
      pause = kMinPause;
    } else if (absl::IsUnavailable(status) || full) {
      if (used) continue;  // the idle connections are closed too, so the next one is new
      patient_until = std::min(patient_until, SteadyNow() + options_.patience);
    } else {
      return status;
    }
    const absl::Duration wait = Jittered(pause);
    if (SteadyNow() + wait >= std::min(deadline, patient_until)) return status;
    absl::SleepFor(wait);
    pause = std::min(pause * 2, kMaxPause);
  }
}

absl::Status Pool::Attempt(Pooled& pooled, bool check, absl::Time deadline, Work work) {
  Connection& connection = *pooled.connection;
  absl::Status status;
  if (check && !pooled.checked) {
    status = CheckSchema(connection, options_.cluster_id, deadline);
    pooled.checked = status.ok();
    MutexLock lock(&mutex_);
    right_ = right_ || status.ok();
  }
  if (status.ok()) status = work(connection, deadline);
  if (IsUnrestored(status)) {
    MutexLock lock(&mutex_);
    pooled.stale = right_;
    status = absl::Status(right_ ? absl::StatusCode::kUnavailable : status.code(), status.message());  // unmarked
  }
  if (!connection.broken() && connection.in_transaction()) {
    // If this fails, the connection is broken, and the server rolls back by itself.
    (void)connection.Run({Query{&kRollback, {}}}, deadline);
  }
  return status;
}

absl::StatusOr<Pool::Pooled> Pool::Take(absl::Time deadline) {
  {
    MutexLock lock(&mutex_);
    while (taken_ >= options_.max_connections) {
      if (!returned_.WaitUntil(&mutex_, deadline) && taken_ >= options_.max_connections) {
        return absl::DeadlineExceededError(absl::StrCat("database ", hosts_[first_].name, ": all ",
                                                        options_.max_connections,
                                                        " connections of this process are in use"));
      }
    }
    ++taken_;
    while (!idle_.empty()) {
      Pooled pooled = std::move(idle_.back());
      idle_.pop_back();
      if (!pooled.connection->broken()) return pooled;
    }
  }
  auto pooled = Connect(deadline);
  if (!pooled.ok()) {
    MutexLock lock(&mutex_);
    --taken_;
    returned_.Signal();
  }
  return pooled;
}

void Pool::Give(Pooled pooled) {
  std::vector<Pooled> closed;  // destroyed after the lock is released
  const bool broken = pooled.stale || pooled.connection->broken() || pooled.connection->in_transaction();
  MutexLock lock(&mutex_);
  --taken_;
  returned_.Signal();
  if (broken) {
    closed.swap(idle_);
    closed.push_back(std::move(pooled));
  } else {
    pooled.used = true;
    idle_.push_back(std::move(pooled));
  }
}

absl::StatusOr<Pool::Pooled> Pool::Connect(absl::Time deadline) {
  size_t first = 0;
  bool connected = false;
  {
    MutexLock lock(&mutex_);
    first = first_;
    connected = connected_;
  }
  absl::Status error;
  std::vector<std::string> reasons;
  for (size_t i = 0; i < hosts_.size(); ++i) {
    const size_t index = (first + i) % hosts_.size();
    const absl::Time until = std::min(deadline, SteadyNow() + options_.host_timeout);
    auto connection = Connection::Open(hosts_[index], until);
    absl::Status status = connection.status();
    if (status.ok()) {
      const std::string timeout = absl::StrCat(absl::ToInt64Milliseconds(options_.operation_timeout));
      status = (*connection)->Run({Query{&kSetSession, Parameters().Text(timeout)}}, until).status();
      if (absl::IsDeadlineExceeded(status)) status = absl::UnavailableError(status.message());  // another may answer
    }
    if (status.ok()) {
      MutexLock lock(&mutex_);
      first_ = index;
      connected_ = true;
      return Pooled{*std::move(connection)};
    }
    // What was right before is being changed: TLS files are replaced one after the other, the database is restored.
    if (connected && absl::IsFailedPrecondition(status)) status = absl::UnavailableError(status.message());
    reasons.emplace_back(status.message());
    // Prefers an error that another attempt would not fix: it tells most.
    if (error.ok() || absl::IsUnavailable(error)) error = status;
  }
  if (hosts_.size() == 1) return error;
  return absl::Status(error.code(), absl::StrJoin(reasons, "; "));
}

}  // namespace kvlink::store::database
