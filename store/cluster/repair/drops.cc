// Works batch by batch: drops are remembered, then carried out, and only then does the position advance: in the store
// together with the removals, in memory after them, in the database last.
#include "store/cluster/repair/drops.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::store::cluster {
namespace {

constexpr int64_t kDropsRead = 4096;  // drops of one read
constexpr absl::Duration kMaxPause = absl::Seconds(5);

bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsAborted(status) ||
         absl::IsResourceExhausted(status);
}

}  // namespace

DropConsumer::DropConsumer(engine::Engine* engine, database::DropLog* log, DropOptions options)
    : engine_(engine),
      log_(log),
      options_(std::move(options)),
      memory_(std::make_shared<DropMemory>(options_.remembered)) {}

DropConsumer::~DropConsumer() { Stop(); }

DropPosition DropConsumer::Ours(const database::DropPosition& position) const {
  return {options_.log, position.transaction, position.sequence};
}

database::DropPosition DropConsumer::Theirs(const DropPosition& position) const {
  return {position.transaction, position.sequence};
}

// Once Stop was called, no further call to the log waits.
absl::Time DropConsumer::Deadline() const {
  return SteadyNow() + (stopping_.begun() ? absl::ZeroDuration() : options_.request_timeout);
}

void DropConsumer::Report(absl::string_view event, absl::string_view what) const {
  if (options_.report) options_.report(event, what);
}

// Finds this node's position in the log; registers or empties the node if it has none.
absl::Status DropConsumer::Begin() {
  const DropPosition kept = engine_->dropped();
  if (kept.log != options_.log) {
    if (!engine_->Stats().namespaces.empty()) return Empty("its encodings were not stored under this drop log");
    KVLINK_ASSIGN_OR_RETURN(const auto registered, log_->Register(options_.node, Deadline()));
    KVLINK_RETURN_IF_ERROR(engine_->Drop({}, Ours(registered)));
    memory_->Reset(Ours(registered));
    return absl::OkStatus();
  }
  const auto known = log_->PositionOf(options_.node, Deadline());
  if (absl::IsOutOfRange(known.status())) return Lost(known.status().message());
  KVLINK_RETURN_IF_ERROR(known.status());
  memory_->Reset(kept);
  return absl::OkStatus();
}

// Meanwhile the node goes on as before it knew that it must be emptied: it takes pushes, and serves what it holds.
absl::Status DropConsumer::AwaitConsent() {
  if (!options_.may_empty) return absl::OkStatus();
  emptying_ = true;
  const absl::Time until = Deadline();
  while (!options_.may_empty()) {
    const absl::Time again = SteadyNow() + options_.poll;
    if (again >= until || !stopping_.WaitUntil(again)) {
      return absl::UnavailableError(
          "the node must empty itself, but other members may still rely on what it holds: etcd shows its progress as "
          "complete");
    }
  }
  return absl::OkStatus();
}

void DropConsumer::EndEmptying() {
  emptying_ = false;
  if (options_.emptied) options_.emptied();
}

absl::Status DropConsumer::Empty(absl::string_view why) {
  KVLINK_RETURN_IF_ERROR(AwaitConsent());
  memory_->Close();
  begun_ = false;
  // Register first: if the log were unreachable after emptying, the node would be emptied again and again, losing what
  // it stored meanwhile. If a later step fails, the node still has its old position and tries again.
  KVLINK_ASSIGN_OR_RETURN(const auto registered, log_->Register(options_.node, Deadline()));
  Report("drop_log_emptied", why);
  KVLINK_RETURN_IF_ERROR(engine_->DropAll(Ours(registered)));
  memory_->Reset(Ours(registered));
  begun_ = true;
  EndEmptying();
  MutexLock lock(&mutex_);
  ++statistics_.emptied;
  return absl::OkStatus();
}

// Handles a log that does not continue from this node's position.
absl::Status DropConsumer::Lost(absl::string_view why) {
  KVLINK_ASSIGN_OR_RETURN(const auto end, log_->End(Deadline()));
  const auto go_to = [this](const database::DropPosition& position) -> absl::Status {
    memory_->Close();
    begun_ = false;  // so that after an error the memory is opened again
    KVLINK_RETURN_IF_ERROR(engine_->Drop({}, Ours(position)));
    memory_->Reset(Ours(position));
    return absl::OkStatus();
  };
  if (Ours(end) < engine_->dropped()) {
    // Register, rather than a start at `end`, gives a position below all open transactions, whose drops would else
    // never be read.
    KVLINK_ASSIGN_OR_RETURN(const auto registered, log_->Register(options_.node, Deadline()));
    KVLINK_RETURN_IF_ERROR(go_to(registered));
  } else {
    auto from = log_->Resume(options_.node, Theirs(engine_->dropped()), Deadline());
    if (from.ok() && Ours(*from) != engine_->dropped()) {
      // In the store before the log knows the node: a node that it knows continues at the position in its store.
      KVLINK_RETURN_IF_ERROR(go_to(*from));
      from = log_->Resume(options_.node, *from, Deadline());
    }
    if (absl::IsOutOfRange(from.status())) return Empty(why);
    KVLINK_RETURN_IF_ERROR(from.status());
  }
  Report("drop_log_went_back", why);
  memory_->Reset(engine_->dropped());
  begun_ = true;
  MutexLock lock(&mutex_);
  ++statistics_.went_back;
  return absl::OkStatus();
}

absl::Status DropConsumer::CarryOut(const database::DropBatch& batch) {
  const DropPosition end = Ours(batch.end);
  // Advancing costs a commit in the store.
  const bool waits = batch.caught_up && SteadyNow() < moved_on_at_ + options_.move_on;
  if (batch.drops.empty() && (waits || end == engine_->dropped())) return absl::OkStatus();
  memory_->Remember(batch.drops, end);
  std::set<std::string> namespaces;
  std::vector<engine::Engine::DroppedName> names;
  for (const database::Drop& drop : batch.drops) {
    if (drop.identity.has_value()) {
      names.push_back({drop.ns, *drop.identity});
    } else {
      namespaces.insert(drop.ns);
    }
  }
  for (const std::string& ns : namespaces) KVLINK_RETURN_IF_ERROR(engine_->DeleteNamespace(ns).status());
  KVLINK_RETURN_IF_ERROR(engine_->Drop(names, end));
  memory_->Advance(end);
  moved_on_at_ = SteadyNow();
  MutexLock lock(&mutex_);
  statistics_.drops += static_cast<int64_t>(batch.drops.size());
  return absl::OkStatus();
}

absl::Status DropConsumer::StorePosition(bool dropped) {
  if (!dropped && SteadyNow() < stored_at_ + options_.store_position) return absl::OkStatus();
  const absl::Status stored = log_->StorePosition(options_.node, Theirs(engine_->dropped()), Deadline());
  if (absl::IsOutOfRange(stored)) return Lost(stored.message());
  KVLINK_RETURN_IF_ERROR(stored);
  stored_at_ = SteadyNow();
  return absl::OkStatus();
}

absl::Status DropConsumer::Step(bool* caught_up) {
  *caught_up = false;
  if (!begun_) KVLINK_RETURN_IF_ERROR(Begin());
  begun_ = true;
  const auto batch = log_->ReadDrops(Theirs(engine_->dropped()), kDropsRead, Deadline());
  if (absl::IsOutOfRange(batch.status())) return Lost(batch.status().message());
  KVLINK_RETURN_IF_ERROR(batch.status());
  KVLINK_RETURN_IF_ERROR(CarryOut(*batch));
  // While the node is behind, an empty batch is not worth reporting: others wait for the drops.
  const DropPosition read = engine_->dropped();
  if (!batch->drops.empty() || batch->caught_up) KVLINK_RETURN_IF_ERROR(StorePosition(!batch->drops.empty()));
  *caught_up = batch->caught_up && engine_->dropped() == read;
  if (emptying_) EndEmptying();
  return absl::OkStatus();
}

void DropConsumer::Looked(const absl::Status& status, bool caught_up) {
  MutexLock lock(&mutex_);
  statistics_.look = status;
  statistics_.caught_up = status.ok() && caught_up;
  if (!status.ok()) ++statistics_.errors;
  if (status.ok()) statistics_.read_at = SteadyNow();
  if (statistics_.caught_up) statistics_.caught_up_at = SteadyNow();
}

absl::Status DropConsumer::CatchUp(absl::Time deadline) {
  absl::Duration pause = options_.poll;
  for (;;) {
    bool caught_up = false;
    const absl::Status status = Step(&caught_up);
    Looked(status, caught_up);
    if (status.ok() && caught_up) return absl::OkStatus();
    if (!status.ok()) {
      const absl::Time again = SteadyNow() + pause;
      if (!MayPass(status) || again >= deadline || !stopping_.WaitUntil(again)) return status;
      pause = std::min(2 * pause, kMaxPause);
    } else if (SteadyNow() >= deadline) {
      return absl::DeadlineExceededError("the node did not carry out the drops of the cluster in time");
    } else if (stopping_.begun()) {
      return absl::UnavailableError("the node is closing");
    }
  }
}

void DropConsumer::Start() {
  thread_ = Thread("drop-log", [this] { Follow(); });
}

void DropConsumer::Stop() {
  stopping_.Begin();
  thread_.Join();
}

void DropConsumer::Follow() {
  absl::Duration pause = options_.poll;
  bool gone = false;
  TrimLater();
  for (;;) {
    bool caught_up = false;
    absl::Status status = Step(&caught_up);
    if (stopping_.begun()) return;
    if (status.ok() && caught_up && SteadyNow() >= trim_at_) {
      trim_at_ = SteadyNow() + options_.trim;
      status = log_->Trim(options_.retention, Deadline()).status();
    }
    if (!status.ok() && !std::exchange(gone, true)) Report("drop_log_gone", status.message());
    if (status.ok() && std::exchange(gone, false)) {
      TrimLater();
      Report("drop_log_back", "the drop log can be read again");
    }
    pause = status.ok() ? options_.poll : std::min(2 * pause, kMaxPause);
    Looked(status, caught_up);
    if (status.ok() && !caught_up) continue;
    if (!stopping_.WaitUntil(SteadyNow() + pause)) return;
  }
}

DropStatistics DropConsumer::statistics() const {
  MutexLock lock(&mutex_);
  DropStatistics statistics = statistics_;
  statistics.position = engine_->dropped();
  return statistics;
}

}  // namespace kvlink::store::cluster
