// Each read fetches all limits, and the engine writes nothing if they are unchanged: few namespaces have limits, and no
// revision would show which ones were deleted.
#include "store/cluster/node/limit_follower.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kPoll = absl::Seconds(1), kReadTimeout = absl::Seconds(5);

}  // namespace

LimitFollower::LimitFollower(engine::Engine* engine, database::DatabaseCatalog* database, EventSink events)
    : engine_(engine), database_(database), events_(std::move(events)) {}

LimitFollower::~LimitFollower() { Stop(); }

absl::Status LimitFollower::ReadLimits(absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto limits, database_->ListNamespaces(deadline));
  std::map<std::string, engine::NamespaceSettings> all;
  for (const NamespaceLimits& one : limits) {
    all.emplace(one.name, engine::NamespaceSettings{one.capacity_bytes, one.pinned_bytes, one.revision});
  }
  return Annotate(engine_->ReplaceNamespaces(all), "limits of the cluster");
}

absl::Status LimitFollower::CatchUp(absl::Time deadline) {
  for (;;) {
    const absl::Status read = ReadLimits(std::min(deadline, SteadyNow() + kReadTimeout));
    const bool may_pass = absl::IsUnavailable(read) || absl::IsDeadlineExceeded(read);
    const absl::Time again = SteadyNow() + kPoll;
    if (!may_pass || again >= deadline || !stopping_.WaitUntil(again)) return read;
  }
}

void LimitFollower::Start() {
  thread_ = Thread("limits", [this] { Follow(); });
}

void LimitFollower::Stop() {
  stopping_.Begin();
  thread_.Join();
}

void LimitFollower::Follow() {
  bool gone = false;
  while (stopping_.WaitUntil(SteadyNow() + kPoll)) {
    const absl::Status read = ReadLimits(SteadyNow() + kReadTimeout);
    const bool was_gone = std::exchange(gone, !read.ok());
    if (gone && !was_gone) events_(Severity::kWarning, "limits_not_followed", read.message());
    if (!gone && was_gone)
      events_(Severity::kInfo, "limits_followed", "namespace limits are read from the database again");
  }
}

}  // namespace kvlink::store::cluster
