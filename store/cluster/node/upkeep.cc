// The consumer of drops starts before repair and ends after it: nothing is copied while it is unknown what was dropped.
#include "store/cluster/node/upkeep.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "store/cluster/node/figures.h"
#include "store/cluster/node/limit_follower.h"
#include "store/cluster/repair/drops.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kForgetTimeout = absl::Seconds(5);

ProgressRecord RecordOf(const RepairProgress& progress) {
  // Clamped, since the numbers come from peers and readers refuse a record with numbers out of range.
  const auto number = [](int64_t value) {
    return static_cast<uint64_t>(std::clamp<int64_t>(value, 0, int64_t{1} << 62));
  };
  return {progress.epoch, static_cast<uint32_t>(progress.slots), static_cast<uint32_t>(progress.slots_done),
          number(progress.bytes_left), number(progress.bytes_per_second)};
}

class Upkeep final : public Companion {
 public:
  Upkeep(const CompanionContext& context, const UpkeepOptions& options) : context_(context), options_(options) {}

  absl::Status Prepare(absl::Time deadline) override {
    const std::shared_ptr<const View> view = context_.membership->view();
    const ClusterSettings& settings = view->settings;
    const auto report = [events = context_.events](absl::string_view event, absl::string_view what) {
      events(Severity::kWarning, event, what);
    };
    if (!settings.database.empty()) {
      // etcd may have been restored from before this node joined.
      const bool is_new = view->placement.epoch() == 0 && context_.engine->dropped().log != settings.id;
      KVLINK_ASSIGN_OR_RETURN(database_, options_.open_database(settings, /*make_tables=*/is_new, deadline));
      DropOptions drops;
      drops.node = context_.node;
      drops.log = settings.id;
      drops.report = report;
      drops.may_empty = [this] { return MayEmpty(); };
      drops.emptied = [this] { Emptied(); };
      drops_ = std::make_unique<DropConsumer>(context_.engine, database_.get(), std::move(drops));
      KVLINK_RETURN_IF_ERROR(drops_->CatchUp(deadline));
      context_.ownership->AskDropsOf(
          [memory = drops_->memory()](absl::string_view ns, const Identity& identity, const DropPosition& since) {
            return memory->DroppedSince(ns, identity, since);
          });
      limits_ = std::make_unique<LimitFollower>(context_.engine, database_.get(), context_.events);
      KVLINK_RETURN_IF_ERROR(limits_->CatchUp(deadline));
    }
    client::RemoteOptions peers = options_.peers;
    peers.placement = [membership = context_.membership] { return membership->view()->placement.epoch(); };
    RepairOptions repair = options_.repair;
    repair.self = context_.node;
    repair.open_peer = RemotePeers(std::move(peers));
    repair.report = report;
    repair.progress = [this](const RepairProgress&) { Publish(); };
    repair.hold = context_.hold;
    repairer_ = std::make_unique<Repairer>(context_.engine, context_.membership,
                                           drops_ == nullptr ? nullptr : drops_->memory(), std::move(repair));
    return absl::OkStatus();
  }
  void Start() override {
    if (drops_ != nullptr) drops_->Start();
    if (limits_ != nullptr) limits_->Start();
    repairer_->Start();
  }
  void Stop(bool left) override {
    if (repairer_ != nullptr) repairer_->Stop();
    if (limits_ != nullptr) limits_->Stop();
    if (drops_ != nullptr) drops_->Stop();
    // If this fails, the log forgets the node by itself after a while.
    if (left && database_ != nullptr) database_->Forget(context_.node, SteadyNow() + kForgetTimeout).IgnoreError();
  }
  std::vector<node::Figure> Figures() const override {
    std::vector<node::Figure> figures = RepairFigures(*repairer_);
    if (drops_ != nullptr) absl::c_move(DropFigures(*drops_), std::back_inserter(figures));
    return figures;
  }

 private:
  // Returns the record. What the repairer passes may be from before it was told that the node is empty, so its progress
  // is read anew.
  ProgressRecord Publish() {
    MutexLock lock(&mutex_);
    ProgressRecord record = RecordOf(repairer_->progress());
    if (emptying_) record = {record.epoch, std::max(record.slots, uint32_t{1}), 0, 0, 0};
    context_.publish(record);
    return record;
  }
  // Before it starts, the previous process's record may be left, until that one's lease ends.
  bool MayEmpty() {
    std::optional<ProgressRecord> incomplete;
    if (repairer_ != nullptr) {
      {
        MutexLock lock(&mutex_);
        emptying_ = true;
      }
      incomplete = Publish();
    }
    const auto progress = context_.membership->progress();
    const auto shown = progress.find(context_.node);
    if (shown == progress.end()) return true;
    return incomplete.has_value() ? shown->second == *incomplete : !shown->second.complete();
  }
  void Emptied() {
    if (repairer_ == nullptr) return;
    repairer_->Restart();
    MutexLock lock(&mutex_);
    emptying_ = false;
  }

  const CompanionContext context_;
  const UpkeepOptions options_;
  std::unique_ptr<database::DatabaseCatalog> database_;
  std::unique_ptr<Repairer> repairer_;
  std::unique_ptr<DropConsumer> drops_;  // tells the repairer
  std::unique_ptr<LimitFollower> limits_;
  Mutex mutex_;
  // The others are not to rely on what the node holds, since it is about to remove it.
  bool emptying_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

MakeCompanion MakeUpkeep(UpkeepOptions options) {
  return [options = std::move(options)](const CompanionContext& context) -> absl::StatusOr<std::unique_ptr<Companion>> {
    return std::make_unique<Upkeep>(context, options);
  };
}

}  // namespace kvlink::store::cluster
