// The repairer's thread decides when a pass runs, and over which slots. The parts do the work: plan.h derives from a
// view what this node must repair, pass.h compares and lists, copier.h copies, unowned.h removes, and hot_copies.h
// makes further copies on a thread of its own.
#include "store/cluster/repair/repair.h"

#include <algorithm>
#include <bitset>
#include <set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/thread.h"
#include "store/cluster/repair/context.h"
#include "store/cluster/repair/copier.h"
#include "store/cluster/repair/hot_copies.h"
#include "store/cluster/repair/pass.h"
#include "store/cluster/repair/plan.h"
#include "store/cluster/repair/unowned.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(50);  // how often it looks for Stop and Restart
constexpr absl::Duration kMaxRetry = absl::Minutes(1);
constexpr absl::Duration kRemoveTurn = absl::Seconds(1);  // of removals, between passes

}  // namespace

class Repairer::Impl {
 public:
  Impl(engine::Engine* engine, const ViewSource* views, std::shared_ptr<const DropMemory> drops, RepairOptions options)
      : context_(engine, views, std::move(drops), std::move(options)),
        copier_(&context_, context_.options.copies),
        unowned_(&context_) {}
  ~Impl() { Stop(); }

  void Start() {
    thread_ = Thread("repair", [this] {
      AddNiceness(kRepairNice);
      Run();
    });
    if (!context_.options.hold) return;
    hot_ = std::make_unique<HotCopies>(&context_);
    hot_thread_ = Thread("hot-copies", [this] { hot_->Run(); });
  }
  void Stop() {
    context_.stopping.Begin();
    thread_.Join();
    hot_thread_.Join();
  }
  void Restart() { context_.ledger.Reset(); }
  const RepairContext& context() const { return context_; }

 private:
  void Run();
  void SeeView(std::shared_ptr<const View> view);
  void RunPass(bool whole);
  // When the next pass is due, as known now, and whether it is a whole one.
  absl::Time NextPass(bool* whole);

  RepairContext context_;
  Copier copier_;
  Unowned unowned_;
  std::unique_ptr<HotCopies> hot_;  // null: no further copies

  // Used by the thread `repair` only.
  std::shared_ptr<const View> view_;
  RepairPlan plan_;
  bool fresh_ = true;         // no whole pass since the members changed
  std::bitset<kSlots> left_;  // slots not done by the last pass
  std::set<uint16_t> back_;   // members that came alive and are yet to be compared with
  absl::Duration retry_;
  absl::Time whole_at_ = absl::InfinitePast(), last_at_ = absl::InfinitePast();  // when passes ended
  Thread thread_, hot_thread_;
};

void Repairer::Impl::SeeView(std::shared_ptr<const View> view) {
  if (view == view_) return;
  // The epoch alone does not tell: after etcd went back, it may reach the same epoch with other members.
  const bool moved = view_ == nullptr || view->placement.epoch() != view_->placement.epoch() ||
                     view->placement.members() != view_->placement.members();
  const std::vector<Member>& members = view->placement.members();
  const bool only_hot = !moved && view->status == view_->status;
  bool anew = moved;
  if (!moved) {
    for (const uint16_t member : CameBack(*view_, *view)) {
      // While this node counted as dead, clients did not write to it.
      anew |= members[member].node_id == context_.options.self;
      context_.peers.CameBack(members[member].node_id);
      back_.insert(member);
    }
  }
  if (anew) {
    context_.peers.Keep(members);
    back_.clear();
    fresh_ = true;
  }
  view_ = std::move(view);
  if (only_hot) return;
  plan_ = PlanRepair(*view_, context_.options.self);
  context_.ledger.Begin(plan_, moved);
  unowned_.Follow(plan_);
  retry_ = context_.options.retry;
  if (moved) last_at_ = absl::InfinitePast();
  context_.ledger.Tell();
}

absl::Time Repairer::Impl::NextPass(bool* whole) {
  *whole = true;
  // Not at once after every change, since leases may come and go.
  if (fresh_) return last_at_ + context_.options.retry;
  const absl::Time due = whole_at_ + context_.options.interval;
  const absl::Time next = back_.empty() ? last_at_ + retry_ : last_at_ + context_.options.retry;
  if ((left_.none() && back_.empty()) || next >= due) return due;
  *whole = false;
  return next;
}

void Repairer::Impl::RunPass(bool whole) {
  const size_t before = left_.count();
  Pass pass(&context_, &copier_, view_, plan_, {whole, left_, back_});
  const bool ended = pass.Run();
  last_at_ = SteadyNow();
  left_ = pass.left();
  const bool better = whole || left_.count() < before;
  retry_ = better ? context_.options.retry : std::min(2 * retry_, kMaxRetry);
  if (ended) back_.clear();
  if (ended && whole) {
    fresh_ = false;
    whole_at_ = last_at_;
    context_.ledger.Count([](RepairStatistics* counts) { ++counts->passes; });
  }
  context_.ledger.Tell(/*at_once=*/left_.none());
}

void Repairer::Impl::Run() {
  while (!context_.stopping.begun()) {
    SeeView(context_.views->view());
    if (!context_.ledger.valid()) {
      context_.ledger.Begin(plan_, /*moved=*/true);
      context_.ledger.Tell(/*at_once=*/true);
      fresh_ = true;
    }
    if (context_.kept.TakeReleased()) unowned_.LookAgain();
    // Only once the node's own slots are filled; and in turns with passes: members that come and go make one due again
    // and again, and what comes back must not wait until all is removed.
    const bool removes = plan_.member && !fresh_ && context_.ledger.progress().complete();
    if (removes && SteadyNow() >= unowned_.due()) unowned_.Remove(*view_, SteadyNow() + kRemoveTurn);
    bool whole = false;
    const absl::Time due = NextPass(&whole);
    if (plan_.member && SteadyNow() >= due) {
      RunPass(whole);
      continue;
    }
    const absl::Time next =
        std::min(plan_.member ? due : absl::InfiniteFuture(), removes ? unowned_.due() : absl::InfiniteFuture());
    const absl::Time until = std::min(next, SteadyNow() + kLook);
    (void)context_.views->WaitForChange(view_, until);
  }
}

Repairer::Repairer(engine::Engine* engine, const ViewSource* views, std::shared_ptr<const DropMemory> drops,
                   RepairOptions options)
    : impl_(std::make_unique<Impl>(engine, views, std::move(drops), std::move(options))) {}
Repairer::~Repairer() = default;
void Repairer::Start() { impl_->Start(); }
void Repairer::Stop() { impl_->Stop(); }
void Repairer::Restart() { impl_->Restart(); }
RepairProgress Repairer::progress() const { return impl_->context().ledger.progress(); }
RepairStatistics Repairer::statistics() const {
  RepairStatistics statistics = impl_->context().ledger.statistics();
  statistics.peers_failing = impl_->context().peers.failing();
  return statistics;
}

}  // namespace kvlink::store::cluster
