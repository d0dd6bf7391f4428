// One table per part, over a snapshot of that part.
#include "store/cluster/node/figures.h"

#include <algorithm>
#include <cstdint>
#include <memory>

#include "absl/algorithm/container.h"
#include "base/clock.h"
#include "store/node/watch/figure_rows.h"

namespace kvlink::store::cluster {
namespace {

using node::FigureRow, node::kCount, node::kGauge;

int64_t SecondsSince(absl::Time time) { return absl::ToInt64Seconds(SteadyNow() - time); }

// `status`: the outcome of the latest call; `heard`: when a call last succeeded. At least 1 while there is no answer.
int64_t UnreachableSeconds(const absl::Status& status, absl::Time heard) {
  if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) return 0;
  return std::max<int64_t>(SecondsSince(heard), 1);
}

struct Place {
  std::shared_ptr<const View> view;
  MembershipHealth health;

  int64_t In(MemberState state) const {
    return absl::c_count_if(view->placement.members(), [state](const Member& one) { return one.state == state; });
  }
  int64_t Alive() const {
    return absl::c_count_if(view->status, [](const MemberStatus& one) { return one.incarnation.has_value(); });
  }
};

struct Repairs {
  RepairProgress progress;
  RepairStatistics statistics;
};

// clang-format off
constexpr FigureRow<Place> kPlaceRows[] = {
    {{"cluster_epoch", kGauge, "cluster_epoch", "", "Epoch of the placement in use"},
     [](const Place& from) { return static_cast<int64_t>(from.view->placement.epoch()); }},
    {{"cluster_members_joining", kGauge, "cluster_members", "state=joining", "Members of the cluster, by state"},
     [](const Place& from) { return from.In(MemberState::kJoining); }},
    {{"cluster_members_active", kGauge, "cluster_members", "state=active", "Members of the cluster, by state"},
     [](const Place& from) { return from.In(MemberState::kActive); }},
    {{"cluster_members_draining", kGauge, "cluster_members", "state=draining", "Members of the cluster, by state"},
     [](const Place& from) { return from.In(MemberState::kDraining); }},
    {{"cluster_members_alive", kGauge, "cluster_members_alive", "", "Members whose lease in etcd is alive"},
     [](const Place& from) { return from.Alive(); }},
    {{"cluster_etcd_unreachable_s", kGauge, "cluster_etcd_unreachable_seconds", "",
      "Time since etcd last answered; 0 while it answers"},
     [](const Place& from) { return UnreachableSeconds(from.health.status, from.health.since); }},
    {{"cluster_view_old_s", kGauge, "cluster_view_old_seconds", "",
      "Time since the view of the cluster was known to match etcd; 0 while it does"},
     [](const Place& from) {
       return from.health.status.ok() ? 0 : std::max<int64_t>(SecondsSince(from.health.since), 1);
     }},
};

constexpr FigureRow<bool> kLeaseRows[] = {
    {{"cluster_lease_held", kGauge, "cluster_lease_held", "", "1 while etcd holds the lease that marks the node alive"},
     [](const bool& held) -> int64_t { return held ? 1 : 0; }},
};

constexpr FigureRow<Repairs> kRepairRows[] = {
    {{"cluster_slots", kGauge, "cluster_slots", "", "Slots that the node owns under the next placement"},
     [](const Repairs& from) { return from.progress.slots; }},
    {{"cluster_slots_done", kGauge, "cluster_slots_done", "", "Owned slots that hold all that their other owners hold"},
     [](const Repairs& from) { return from.progress.slots_done; }},
    {{"cluster_bytes_left", kGauge, "cluster_bytes_left", "", "Known bytes still to be copied to the node"},
     [](const Repairs& from) { return from.progress.bytes_left; }},
    {{"cluster_copied_encodings", kCount, "cluster_copied_encodings_total", "", "Encodings copied from other members"},
     [](const Repairs& from) { return from.statistics.copied; }},
    {{"cluster_copied_bytes", kCount, "cluster_copied_bytes_total", "", "Bytes copied from other members"},
     [](const Repairs& from) { return from.statistics.copied_bytes; }},
    {{"cluster_failed_copies", kCount, "cluster_failed_copies_total", "", "Failed copies, which are retried"},
     [](const Repairs& from) { return from.statistics.failed; }},
    {{"cluster_copies_without_room", kCount, "cluster_copies_without_room_total", "",
      "Encodings not copied because they would have evicted others"},
     [](const Repairs& from) { return from.statistics.left_for_room; }},
    {{"cluster_hot_copies", kGauge, "cluster_hot_copies", "", "Further copies of hot encodings that the node holds"},
     [](const Repairs& from) { return from.statistics.hot_held; }},
    {{"cluster_peers_failing", kGauge, "cluster_peers_failing", "", "Members whose latest answer to repair was an error"},
     [](const Repairs& from) { return from.statistics.peers_failing; }},
    {{"cluster_unowned_removed", kCount, "cluster_unowned_removed_total", "", "Encodings removed because other members own them now"},
     [](const Repairs& from) { return from.statistics.removed; }},
};

constexpr FigureRow<DropStatistics> kDropRows[] = {
    {{"cluster_drops", kCount, "cluster_drops_total", "", "Drop log entries carried out"},
     [](const DropStatistics& from) { return from.drops; }},
    {{"cluster_drop_log_transaction", kGauge, "cluster_drop_log_transaction", "",
      "Database transaction up to which the drop log is carried out"},
     [](const DropStatistics& from) { return static_cast<int64_t>(from.position.transaction); }},
    {{"cluster_drop_log_lag_s", kGauge, "cluster_drop_log_lag_seconds", "",
      "Time since the whole drop log was carried out"},
     [](const DropStatistics& from) { return SecondsSince(from.caught_up_at); }},
    {{"cluster_database_unreachable_s", kGauge, "cluster_database_unreachable_seconds", "",
      "Time since the database last answered; 0 while it answers"},
     [](const DropStatistics& from) { return UnreachableSeconds(from.look, from.read_at); }},
    {{"cluster_emptied", kCount, "cluster_emptied_total", "",
      "Times the node emptied itself because it may have missed drops"},
     [](const DropStatistics& from) { return from.emptied; }},
    {{"cluster_drop_log_went_back", kCount, "cluster_drop_log_went_back_total", "",
      "Times the drop log was found restored to an older state"},
     [](const DropStatistics& from) { return from.went_back; }},
};
// clang-format on

}  // namespace

std::vector<node::Figure> MembershipFigures(const Membership& membership) {
  return node::FiguresOf(kPlaceRows, Place{membership.view(), membership.health()});
}

std::vector<node::Figure> LeaseFigures(bool held) { return node::FiguresOf(kLeaseRows, held); }

std::vector<node::Figure> RepairFigures(const Repairer& repairer) {
  return node::FiguresOf(kRepairRows, Repairs{repairer.progress(), repairer.statistics()});
}

std::vector<node::Figure> DropFigures(const DropConsumer& drops) {
  return node::FiguresOf(kDropRows, drops.statistics());
}

}  // namespace kvlink::store::cluster
