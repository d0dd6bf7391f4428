// Which requests land, and where. Few are kept ahead (landing, or landed and without private KV): as many as there are
// landing threads, and beside them as many that had nothing to land. So who is next is decided late, and fairly, and
// what has landed is not evicted before it is used. One thread more is for those that have joined before.
//
// A request that finds nobody else computes its prompt on the thread that would land it, layer by layer as they arrive.
// That is sooner than to land first, and those that come meanwhile need not wait for it.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "worker/infer/scheduling/impl.h"

namespace kvlink::infer {

void Scheduler::Impl::StartLanding() {
  while (const EntryPtr entry = turns_.Next([this](Entry& one) { return MayLand(one); })) {
    entry->alone =
        landing_ == 0 && landed_.empty() && running_.empty() && turns_.empty() && !entry->conversation->landed();
    if (!entry->alone && generator_->Attach(*entry->conversation)) {
      KeepAhead(entry);
      continue;
    }
    if (entry->alone) {
      std::erase(preempted_, entry);
      away_.push_back(entry);
    }
    SendToLand(entry);
  }
}

bool Scheduler::Impl::MayLand(Entry& entry) const {
  const int64_t most = options_.landing_threads, landed = std::ssize(landed_);
  if (landed >= most) return false;
  const auto mine = landing_of_.find(entry.owner);
  const bool thread = landing_ + landed < most && (mine == landing_of_.end() || mine->second < (most + 1) / 2);
  return thread || generator_->Attach(*entry.conversation);
}

void Scheduler::Impl::SendToLand(const EntryPtr& entry) {
  entry->place = Place::kLanding;
  entry->pages = entry->conversation->pages_held() + entry->conversation->pages_wanted();
  entry->landed = absl::OkStatus();
  entry->lacks_pages = false;
  ++landing_;
  ++landing_of_[entry->owner];
  // Limited by the threads, and by max_running for those that have joined before.
  const absl::Status added =
      worker_.AddAdmitted({[this, entry](const absl::Status& turn) { LandRequest(entry, turn); }});
  if (!added.ok()) LandRequest(entry, added);
}

void Scheduler::Impl::LandRequest(const EntryPtr& entry, const absl::Status& turn) {
  const Limits limits{entry->deadline - SteadyNow(), [&] { return entry->cancelled.load(); }};
  entry->landed = !turn.ok()     ? turn
                  : entry->alone ? ComputeAlone(*entry, limits)
                                 : generator_->LandDocuments(*entry->conversation, limits);
  MutexLock lock(&mutex_);
  returned_.push_back(entry);
  Wake();
}

absl::Status Scheduler::Impl::ComputeAlone(Entry& entry, const Limits& limits) {
  Work work{entry.conversation.get()};
  while (work.status.ok() && entry.conversation->prompt_left() > 0) {
    work.tokens = std::min(generator_->options().prefill_chunk, entry.conversation->prompt_left());
    generator_->Pass(absl::MakeSpan(&work, 1), limits);
    ++entry.passes;
    if (work.status.ok()) entry.prompt_tokens += work.tokens;
    if (work.lapsed) work.status = absl::OkStatus();  // the next pass reads it again
  }
  entry.lacks_pages = work.lacks_pages;
  return work.status;
}

void Scheduler::Impl::Return(const EntryPtr& entry) {
  --landing_;
  if (--landing_of_[entry->owner] == 0) landing_of_.erase(entry->owner);
  std::erase(away_, entry);
  if (entry->place == Place::kEnded) {
    entry->conversation = nullptr;
    return;
  }
  {
    MutexLock lock(&mutex_);
    stats_.passes += std::exchange(entry->passes, 0);
    stats_.prompt_tokens += std::exchange(entry->prompt_tokens, 0);
  }
  const bool room = OthersHold(*entry) || entry->conversation->pages_wanted() <= generator_->free_pages();
  if (entry->lacks_pages && room) return Preempt(entry);
  if (!entry->landed.ok()) return Finish(entry, entry->landed, End::kError);
  if (!std::exchange(entry->returns, false)) return KeepAhead(entry);
  entry->place = Place::kRunning;
  running_.push_back(entry);
  MutexLock lock(&mutex_);
  --stats_.waiting;
  ++stats_.running;
}

void Scheduler::Impl::KeepAhead(const EntryPtr& entry) {
  entry->place = Place::kLanded;
  const auto first = [](const EntryPtr& one) { return one->preempted || one->conversation->prompt_left() == 0; };
  landed_.insert(first(entry) ? std::find_if_not(landed_.begin(), landed_.end(), first) : landed_.end(), entry);
}

void Scheduler::Impl::LandAgain(const EntryPtr& entry) {
  std::erase(running_, entry);
  away_.push_back(entry);
  entry->alone = false;
  entry->returns = true;
  {
    MutexLock lock(&mutex_);
    --stats_.running;
    ++stats_.waiting;
  }
  SendToLand(entry);
}

}  // namespace kvlink::infer
