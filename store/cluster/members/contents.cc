// Keeps each parsed record, or the error if it could not be parsed, by key: once a malformed record is rewritten, its
// error goes without reading everything again.
#include "store/cluster/members/contents.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::store::cluster {
namespace {

// Passes a parsed record to `take`. If parsing failed, calls `drop` and keeps the error in `wrong`.
template <typename Record, typename Take, typename Drop>
void TakeOr(const std::string& key, absl::StatusOr<Record> parsed, std::map<std::string, absl::Status>* wrong,
            const Take& take, const Drop& drop) {
  if (parsed.ok()) {
    wrong->erase(key);
    take(*std::move(parsed));
    return;
  }
  drop();
  (*wrong)[key] = Annotate(parsed.status(), absl::StrCat("etcd's ", kKeyPrefix, key));
}

bool SamePlaced(const Member& a, const Member& b) {
  return a.node_id == b.node_id && a.zone == b.zone && a.weight == b.weight && a.state == b.state &&
         a.former == b.former;
}

}  // namespace

void Contents::Put(const etcd::KeyValue& kv) {
  const std::optional<ParsedKey> key = ParseKey(cluster_name_, kv.key);
  if (!key.has_value()) return;
  const NodeId& id = key->id;
  switch (key->kind) {
    case KeyKind::kCluster:
      TakeOr(
          kv.key, ParseCluster(cluster_name_, kv.value), &wrong_,
          [&](ClusterSettings settings) {
            settings_ = {std::move(settings), kv.mod_revision};
          },
          [&] { settings_.reset(); });
      break;
    case KeyKind::kEpoch:
      TakeOr(
          kv.key, ParseEpoch(kv.value), &wrong_,
          [&](EpochRecord record) {
            epoch_ = {std::move(record), kv.mod_revision};
          },
          [&] { epoch_.reset(); });
      break;
    case KeyKind::kMember:
      TakeOr(
          kv.key, ParseMember(kv.value), &wrong_,
          [&](MemberRecord record) {
            members_[id] = {std::move(record), kv.mod_revision};
          },
          [&] { members_.erase(id); });
      break;
    case KeyKind::kEntered:  // read when a node enters
      break;
    case KeyKind::kAlive:
      TakeOr(
          kv.key, ParseAlive(kv.value), &wrong_liveness_,
          [&](AliveRecord record) {
            alive_[id] = {std::move(record), kv.mod_revision};
          },
          [&] { alive_.erase(id); });
      break;
    case KeyKind::kProgress:
      TakeOr(
          kv.key, ParseProgress(kv.value), &wrong_liveness_,
          [&](ProgressRecord record) {
            progress_[id] = {record, kv.mod_revision};
          },
          [&] { progress_.erase(id); });
      break;
    case KeyKind::kHot:
      TakeOr(
          kv.key, ParseHot(kv.value), &wrong_liveness_,
          [&](HotRecord record) {
            hot_[id] = {std::move(record), kv.mod_revision};
          },
          [&] { hot_.erase(id); });
      break;
  }
}

void Contents::Delete(absl::string_view name) {
  const std::optional<ParsedKey> key = ParseKey(cluster_name_, name);
  if (!key.has_value()) return;
  wrong_.erase(std::string(name));
  wrong_liveness_.erase(std::string(name));
  switch (key->kind) {
    case KeyKind::kCluster:
      settings_.reset();
      break;
    case KeyKind::kEpoch:
      epoch_.reset();
      break;
    case KeyKind::kMember:
      members_.erase(key->id);
      break;
    case KeyKind::kEntered:
      break;
    case KeyKind::kAlive:
      alive_.erase(key->id);
      break;
    case KeyKind::kProgress:
      progress_.erase(key->id);
      break;
    case KeyKind::kHot:
      hot_.erase(key->id);
      break;
  }
}

absl::Status Contents::Check() const {
  if (!wrong_.empty()) return wrong_.begin()->second;
  if (!settings_.has_value()) {
    return absl::NotFoundError(absl::StrCat("etcd holds no cluster '", cluster_name_, "'"));
  }
  if (!epoch_.has_value() && !members_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("etcd's ", kKeyPrefix, KeyOf(cluster_name_, KeyKind::kEpoch),
                                                   " is missing, though every change of the members writes it"));
  }
  return absl::OkStatus();
}

absl::Status Contents::CheckLiveness() const {
  return wrong_liveness_.empty() ? absl::OkStatus() : wrong_liveness_.begin()->second;
}

bool Contents::Removed(const NodeId& id) const {
  if (!epoch_.has_value()) return false;
  const std::vector<NodeId>& removed = epoch_->record.removed;
  return std::find(removed.begin(), removed.end(), id) != removed.end();
}

std::map<NodeId, ProgressRecord> Contents::progress() const {
  std::map<NodeId, ProgressRecord> records;
  for (const auto& [id, stored] : progress_) records.emplace_hint(records.end(), id, stored.record);
  return records;
}

int64_t Contents::RevisionOf(KeyKind kind, const NodeId& id) const {
  const auto of = [&id](const auto& records) {
    const auto found = records.find(id);
    return found == records.end() ? 0 : found->second.revision;
  };
  return kind == KeyKind::kHot ? of(hot_) : of(progress_);
}

absl::StatusOr<std::shared_ptr<const View>> Contents::MakeView(const std::shared_ptr<const View>& before) const {
  auto view = std::make_shared<View>();
  view->settings = settings_->record;
  const uint64_t epoch = epoch_.has_value() ? static_cast<uint64_t>(epoch_->revision) : 0;
  std::vector<Member> members;
  std::vector<std::pair<uint16_t, const HotRecord*>> hot;
  // In order of node id, like Placement::members().
  for (const auto& [id, stored] : members_) {
    members.push_back({id, stored.record.zone, stored.record.weight, stored.record.state, stored.record.former});
    MemberStatus status{stored.record.address, stored.record.build, std::nullopt};
    if (const auto alive = alive_.find(id); alive != alive_.end()) {
      status.incarnation = alive->second.record.incarnation;
      // The member's record may hold that of a copy: an older build writes it before it is refused.
      status.address = alive->second.record.address;
      status.alive_since = alive->second.revision;
    }
    if (const auto known = hot_.find(id); known != hot_.end()) {
      hot.emplace_back(static_cast<uint16_t>(view->status.size()), &known->second.record);
    }
    view->status.push_back(std::move(status));
  }
  view->hot = HotView::Make(hot);
  const bool kept = before != nullptr && before->placement.epoch() == epoch &&
                    before->placement.copies() == view->settings.copies &&
                    std::equal(members.begin(), members.end(), before->placement.members().begin(),
                               before->placement.members().end(), SamePlaced);
  if (kept) {
    view->placement = before->placement;
  } else {
    KVLINK_ASSIGN_OR_RETURN(view->placement, Placement::Compute(epoch, view->settings.copies, std::move(members),
                                                                before == nullptr ? nullptr : &before->placement));
  }
  return view;
}

}  // namespace kvlink::store::cluster
