// If a connection breaks, the idle ones are closed too, since they lead to the same server. The pause between attempts
// grows from 20 ms to half a second, with jitter, so that clients do not return all at once.
//
// A dump may be restored under connections that stay open, and a restored table is empty at first. So each transaction
// that writes checks, by a statement of its own (kGuard), that the tables are whole; reads do so once a second. What a
// dump restores last of all are rights. A statement is refused for good only if the user has every right that it ever
// had, and had it all the while: a check after the refusal may count what was granted since, so it must find what a
// check before the refusal found.
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
constexpr absl::Duration kLately = absl::Seconds(1);

// A random duration between 0.5 and 1.5 times `pause`.
absl::Duration Jittered(absl::Duration pause) {
  const auto chance = static_cast<double>(absl::GetCurrentTimeNanos() / 1000 % 1000) / 1000;
  return pause * (0.5 + chance);
}

}  // namespace

Pool::Pool(const DatabaseOptions& options, std::vector<Host> hosts)
    : options_(options), hosts_(std::move(hosts)), guard_(GuardOf(options.cluster_id)) {}

absl::Status Pool::Run(absl::Time deadline, Work work, Tables tables) {
  if (options_.connection.empty()) {
    return absl::FailedPreconditionError(
        "the cluster was created without a database, so it keeps encodings but neither documents nor limits; create "
        "one that has them with kvlink cluster create --database CONNSTRING");
  }
  deadline = std::min(deadline, SteadyNow() + options_.operation_timeout);
  absl::Time patient_until = absl::InfiniteFuture();
  absl::Duration pause = kMinPause;
  Rights seen;
  bool repeated = false;
  for (int conflicts = 0;;) {
    auto taken = Take(deadline);
    absl::Status status = taken.status();
    // The server had no memory left for this client, as after a failover, when all clients return together.
    const bool full = absl::IsResourceExhausted(status);
    bool used_broke = false;
    if (taken.ok()) {
      status = Attempt(*taken, tables, deadline, work, seen);
      used_broke = taken->used && taken->connection->broken();
      Give(*std::move(taken));
      if (IsUnrestored(status)) {
        if (!std::exchange(repeated, true)) continue;
        status = absl::UnavailableError(status.message());
      }
    }
    if (absl::IsAborted(status) && ++conflicts <= kMaxConflicts) {
      pause = kMinPause;
    } else if (absl::IsUnavailable(status) || full) {
      if (used_broke) continue;  // the idle connections are closed too, so the next one is new
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

absl::Status Pool::Attempt(Pooled& pooled, Tables tables, absl::Time deadline, Work work, Rights& seen) {
  Connection& connection = *pooled.connection;
  if (tables != Tables::kAny && pooled.checked == absl::InfinitePast()) {
    KVLINK_RETURN_IF_ERROR(Check(connection, absl::OkStatus(), deadline, seen));
    pooled.checked = SteadyNow();
  }
  const absl::Time began = SteadyNow();
  const bool guarded = tables == Tables::kNow || (tables == Tables::kLately && began - pooled.checked >= kLately);
  connection.SetGuard(guarded ? &guard_ : nullptr);
  absl::Status status = work(connection, deadline);
  connection.SetGuard(nullptr);
  if (status.ok() && guarded) pooled.checked = began;
  if (!connection.broken() && connection.in_transaction()) {
    // If this fails, the connection is broken, and the server rolls back by itself.
    (void)connection.Run({Query{&kRollback, {}}}, deadline);
  }
  if (!IsUnrestored(status)) return status;
  pooled.checked = absl::InfinitePast();
  if (tables == Tables::kAny) return absl::Status(status.code(), status.message());  // unmarked
  return Check(connection, status, deadline, seen);
}

absl::Status Pool::Check(Connection& connection, const absl::Status& refused, absl::Time deadline, Rights& seen) {
  const absl::StatusOr<Rights> rights = CheckSchema(connection, options_.cluster_id, deadline);
  MutexLock lock(&mutex_);
  if (rights.ok()) {
    const bool fewer = (rights_ & ~rights->held) != 0, changed = *rights != seen;
    rights_ |= rights->held;
    seen = *rights;
    if (refused.ok()) return absl::OkStatus();
    if (absl::IsPermissionDenied(refused) && !fewer) {
      return changed ? refused : absl::Status(refused.code(), refused.message());
    }
  }
  const absl::Status& why = rights.ok() ? refused : rights.status();
  const bool may_come_back = rights_ > 0 && IsUnrestored(why);
  return absl::Status(may_come_back ? absl::StatusCode::kUnavailable : why.code(), why.message());
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
  const bool broken = pooled.connection->broken() || pooled.connection->in_transaction();
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
    // What was right before is being changed: TLS files are replaced one after the other, the database is restored, a
    // password is renewed; or what the server asks about passwords is away.
    if (connected &&
        (absl::IsFailedPrecondition(status) || absl::IsPermissionDenied(status) || absl::IsUnauthenticated(status))) {
      status = absl::UnavailableError(status.message());
    }
    reasons.emplace_back(status.message());
    // Prefers an error that another attempt would not fix: it tells most.
    if (error.ok() || absl::IsUnavailable(error)) error = status;
  }
  if (hosts_.size() == 1) return error;
  return absl::Status(error.code(), absl::StrJoin(reasons, "; "));
}

}  // namespace kvlink::store::database
