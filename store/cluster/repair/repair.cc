// The repairer's thread: when a pass runs, over which slots, and what follows it. The parts do the work: plan.h says
// what a view asks of this node, pass.h compares and lists, copier.h copies, unowned.h removes.
#include "store/cluster/repair/repair.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/thread.h"
#include "store/cluster/repair/context.h"
#include "store/cluster/repair/copier.h"
#include "store/cluster/repair/pass.h"
#include "store/cluster/repair/plan.h"
#include "store/cluster/repair/unowned.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(50);  // for the repairer's end, and Ask, while it waits for views
constexpr absl::Duration kMaxRetry = absl::Minutes(1);
constexpr int kRestTimes = 9;  // as long as a pass compared, before the next one that nothing but Ask wants

}  // namespace

class Repairer::Impl {
 public:
  Impl(engine::Engine* engine, const ViewSource* views, std::shared_ptr<const DropMemory> drops, RepairOptions options)
      : context_(engine, views, std::move(drops), std::move(options)), copier_(&context_), unowned_(&context_) {}
  ~Impl() { Stop(); }

  void Start() {
    thread_ = Thread("repair", [this] { Run(); });
  }
  void Stop() {
    context_.stopping.Begin();
    thread_.Join();
  }
  void Ask() {
    MutexLock lock(&mutex_);
    asked_ = true;
  }
  const Ledger& ledger() const { return context_.ledger; }

 private:
  void Run();
  void SeeView(std::shared_ptr<const View> view);
  void RunPass(bool pending_only);
  // When the next pass is due, with what is known now.
  absl::Time NextPass(bool* pending_only);
  bool asked() {
    MutexLock lock(&mutex_);
    return asked_;
  }

  RepairContext context_;
  Copier copier_;
  Unowned unowned_;
  Mutex mutex_;
  bool asked_ ABSL_GUARDED_BY(mutex_) = false;

  // Of the thread.
  std::shared_ptr<const View> view_;
  RepairPlan plan_;
  bool fresh_ = true;  // no whole pass since the view changed
  bool left_ = false;  // the last pass left slots
  absl::Duration retry_, compared_for_;
  absl::Time whole_at_ = absl::InfinitePast(), last_at_ = absl::InfinitePast();  // passes ended
  Thread thread_;
};

void Repairer::Impl::SeeView(std::shared_ptr<const View> view) {
  if (view == view_) return;
  const bool moved = view_ == nullptr || view->placement.epoch() != view_->placement.epoch();
  view_ = std::move(view);
  plan_ = PlanRepair(*view_, context_.options.self);
  context_.ledger.Begin(plan_);
  unowned_.Follow(plan_);
  context_.peers.Keep(view_->placement.members());
  fresh_ = true;
  retry_ = context_.options.retry;
  if (moved) last_at_ = absl::InfinitePast();
  context_.ledger.Tell();
}

absl::Time Repairer::Impl::NextPass(bool* pending_only) {
  *pending_only = false;
  // Leases may come and go: not at every change at once.
  if (fresh_) return last_at_ + context_.options.retry;
  const absl::Time asked = last_at_ + std::max(context_.options.retry, kRestTimes * compared_for_);
  absl::Time due = whole_at_ + context_.options.interval;
  if (this->asked()) due = std::min(due, asked);
  if (left_ && last_at_ + retry_ < due) {
    *pending_only = true;
    return last_at_ + retry_;
  }
  return due;
}

void Repairer::Impl::RunPass(bool pending_only) {
  if (!pending_only) {
    MutexLock lock(&mutex_);
    asked_ = false;
  }
  const int64_t done_before = context_.ledger.progress().slots_done;
  Pass pass(&context_, &copier_, view_, plan_, pending_only);
  const bool whole = pass.Run();
  last_at_ = SteadyNow();
  left_ = pass.left() || !whole;
  const bool better = context_.ledger.progress().slots_done > done_before;
  retry_ = better || !left_ ? context_.options.retry : std::min(2 * retry_, kMaxRetry);
  if (whole && !pending_only) {
    fresh_ = false;
    whole_at_ = last_at_;
    compared_for_ = pass.comparing();
    context_.ledger.Count([](RepairStatistics* counts) { ++counts->passes; });
  }
  context_.ledger.Tell(/*at_once=*/!left_);
}

void Repairer::Impl::Run() {
  while (!context_.stopping.begun()) {
    SeeView(context_.views->view());
    bool pending_only = false;
    const absl::Time due = NextPass(&pending_only);
    if (plan_.member && SteadyNow() >= due) {
      RunPass(pending_only);
      continue;
    }
    // Not while slots of its own may still come from where it would be removed.
    if (plan_.member && !fresh_ && !left_ && SteadyNow() >= unowned_.due()) unowned_.Remove(*view_);
    const absl::Time until = std::min(plan_.member ? due : absl::InfiniteFuture(), SteadyNow() + kLook);
    (void)context_.views->WaitForChange(view_, until);
  }
}

Repairer::Repairer(engine::Engine* engine, const ViewSource* views, std::shared_ptr<const DropMemory> drops,
                   RepairOptions options)
    : impl_(std::make_unique<Impl>(engine, views, std::move(drops), std::move(options))) {}
Repairer::~Repairer() = default;
void Repairer::Start() { impl_->Start(); }
void Repairer::Stop() { impl_->Stop(); }
void Repairer::Ask() { impl_->Ask(); }
RepairProgress Repairer::progress() const { return impl_->ledger().progress(); }
RepairStatistics Repairer::statistics() const { return impl_->ledger().statistics(); }

}  // namespace kvlink::store::cluster
