// One thread owns all requests and is the only one that decides. Callers and landing threads leave what is new in a box
// under the lock and wake it; it never computes, or calls a listener, with the lock held. While a request lands, its
// conversation belongs to the thread that lands it: if it is to end meanwhile, it ends at once, and what is left is
// dropped when that thread returns it.
//
// Few requests are kept ahead (landing, or landed and without private KV): as many as there are landing threads, and
// beside them as many that had nothing to land. So who is next is decided late, and fairly, and what has landed is not
// evicted before it is used. One thread more is for those that have joined before.
//
// A request that finds nobody else computes its prompt on the thread that would land it, layer by layer as they arrive.
// That is sooner than to land first, and those that come meanwhile need not wait for it.
#include "worker/infer/scheduler.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/worker.h"
#include "worker/infer/scheduler_turns.h"

namespace kvlink::infer {
namespace {

// Rows of prompts in a pass, however many answers are under way.
constexpr int64_t kMinPromptTokens = 16;

using Entry = SchedulerEntry;
using EntryPtr = std::shared_ptr<Entry>;

Scheduler::Options AtLeastOne(Scheduler::Options options) {
  options.max_running = std::max<int64_t>(options.max_running, 1);
  options.pass_tokens = std::max<int64_t>(options.pass_tokens, 1);
  options.landing_threads = std::max(options.landing_threads, 1);
  return options;
}

}  // namespace

class Scheduler::Impl {
 public:
  Impl(Generator* generator, const Options& options)
      : generator_(generator),
        options_(AtLeastOne(options)),
        worker_({.name = "landing", .threads = options_.landing_threads + 1}),
        thread_("scheduler", [this] { Run(); }) {}
  ~Impl();

  absl::StatusOr<uint64_t> Submit(Job job, std::shared_ptr<Listener> listener);
  void Cancel(uint64_t number);
  void Drain(absl::Time deadline);
  Stats stats() const {
    MutexLock lock(&mutex_);
    return stats_;
  }

 private:
  using Place = Entry::Place;

  // Whether there is room for one more request of `owner`. `instead`: whose place it takes; nullptr: nobody's.
  absl::Status CheckOpen(const std::string& owner, EntryPtr* instead) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckSize(const Conversation& conversation) const;
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // On a landing thread.
  void LandRequest(const EntryPtr& entry, const absl::Status& turn);
  absl::Status ComputeAlone(Entry& entry, const Limits& limits);

  // On the scheduler's thread.
  void Run();
  // Waits until there is something to do, and takes what is new. False: the scheduler ends.
  bool Await();
  absl::Time NextDeadline() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndLate();
  void StartLanding();
  bool MayLand(Entry& entry) const;
  void SendToLand(const EntryPtr& entry);
  // Back from its thread.
  void Return(const EntryPtr& entry);
  void KeepAhead(const EntryPtr& entry);
  // An encoding of one that runs was taken back.
  void LandAgain(const EntryPtr& entry);
  // Pages that those away will take.
  int64_t PagesAway() const;
  int64_t PagesOfRunning() const;
  // Whether others than this one have private KV.
  bool OthersHold(const Entry& entry) const;
  bool Fits(const Entry& entry) const;
  // True if a request joined.
  bool Join();
  void Compute();
  std::vector<std::pair<EntryPtr, int64_t>> PromptPieces(int64_t left) const;
  // Leaves those away the pages that they will take.
  void KeepPagesAway();
  // Gives out the token that was sampled, which may end the answer.
  void Give(const EntryPtr& entry);
  // Frees private KV for a request that lacks it, as `full` says.
  void MakeRoom(const Entry& lacking, const absl::Status& full);
  void Preempt(const EntryPtr& entry);
  void Finish(const EntryPtr& entry, const absl::Status& status, End end);

  Generator* const generator_;
  const Options options_;

  // Of the scheduler's thread.
  SchedulerTurns turns_;
  int64_t landing_ = 0;                        // on landing threads, those that have ended meanwhile included
  std::map<std::string, int64_t> landing_of_;  // the same of each owner
  std::vector<EntryPtr> away_;                 // of those, the ones with private KV: alone, or to return
  std::vector<EntryPtr> preempted_;            // and not joined again yet
  std::deque<EntryPtr> landed_;                // without private KV, unless the prompt is computed
  std::vector<EntryPtr> running_;              // in the order of joining
  bool moved_ = false;                         // something happened that may let others go on

  std::atomic<bool> stopping_{false};  // ends a pass
  mutable Mutex mutex_;
  CondVar changed_, idle_;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<uint64_t, EntryPtr> open_ ABSL_GUARDED_BY(mutex_);  // whose OnEnd has not returned
  std::vector<EntryPtr> submitted_ ABSL_GUARDED_BY(mutex_);    // new
  std::vector<EntryPtr> returned_ ABSL_GUARDED_BY(mutex_);     // by landing threads
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t displaced_ ABSL_GUARDED_BY(mutex_) = 0;  // of those that wait, whose place another one took
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time drained_by_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  Stats stats_ ABSL_GUARDED_BY(mutex_);

  Worker worker_;
  Thread thread_;
};

Scheduler::Impl::~Impl() {
  stopping_ = true;
  {
    MutexLock lock(&mutex_);
    draining_ = true;
    drained_by_ = absl::InfinitePast();
    Wake();
  }
  thread_.Join();
  worker_.Stop();
}

void Scheduler::Impl::Wake() {
  woken_ = true;
  changed_.Signal();
}

absl::Status Scheduler::Impl::CheckOpen(const std::string& owner, EntryPtr* instead) const {
  *instead = nullptr;
  if (draining_) return absl::UnavailableError("this server takes no more requests: it is shutting down");
  if (stats_.waiting - displaced_ < options_.max_waiting) return absl::OkStatus();
  struct Owner {
    int64_t waiting = 0;
    EntryPtr newest;
  };
  std::map<std::string, Owner> owners = {{owner, {}}};
  for (const auto& [number, entry] : open_) {
    if (!entry->waits || entry->displaced) continue;
    ++owners[entry->owner].waiting;
    owners[entry->owner].newest = entry;
  }
  const Owner& most = std::max_element(owners.begin(), owners.end(), [](const auto& a, const auto& b) {
                        return a.second.waiting < b.second.waiting;
                      })->second;
  const int64_t share = options_.max_waiting / static_cast<int64_t>(owners.size());
  if (owners[owner].waiting < std::min(share, most.waiting)) {
    *instead = most.newest;
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat(stats_.waiting, " requests wait already; try again later"));
}

absl::Status Scheduler::Impl::CheckSize(const Conversation& conversation) const {
  const int64_t needed = conversation.tokens_wanted(), there = generator_->options().private_tokens;
  if (needed <= there) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the request computes ", needed,
                                                 " tokens, and there is private KV for ", there,
                                                 "; ask for less, or reserve more private tokens"));
}

absl::StatusOr<uint64_t> Scheduler::Impl::Submit(Job job, std::shared_ptr<Listener> listener) {
  const auto entry = std::make_shared<Entry>();
  entry->submitted = SteadyNow();
  EntryPtr instead;
  const auto admit = [&]() -> absl::Status {
    {
      MutexLock lock(&mutex_);
      KVLINK_RETURN_IF_ERROR(CheckOpen(job.owner, &instead));
    }
    if (job.max_tokens < 1) return absl::InvalidArgumentError("an answer must have room for at least one token");
    KVLINK_ASSIGN_OR_RETURN(entry->conversation, generator_->Admit(job.request));
    return CheckSize(*entry->conversation);
  };
  absl::Status status = admit();
  entry->owner = std::move(job.owner);
  entry->max_tokens = job.max_tokens;
  entry->deadline = job.deadline;
  entry->listener = std::move(listener);
  MutexLock lock(&mutex_);
  if (status.ok()) status = CheckOpen(entry->owner, &instead);
  if (!status.ok()) {
    ++stats_.refused;
    return status;
  }
  if (instead != nullptr) {
    instead->displaced = true;
    ++displaced_;
  }
  entry->number = ++last_number_;
  entry->waits = true;
  open_[entry->number] = entry;
  submitted_.push_back(entry);
  ++stats_.submitted;
  ++stats_.waiting;
  Wake();
  return entry->number;
}

void Scheduler::Impl::Cancel(uint64_t number) {
  MutexLock lock(&mutex_);
  const auto found = open_.find(number);
  if (found == open_.end()) return;
  found->second->cancelled = true;
  Wake();
}

void Scheduler::Impl::Drain(absl::Time deadline) {
  MutexLock lock(&mutex_);
  draining_ = true;
  drained_by_ = std::min(drained_by_, deadline);
  Wake();
  while (!open_.empty()) idle_.Wait(&mutex_);
}

void Scheduler::Impl::Run() {
  while (Await()) {
    EndLate();
    do {
      StartLanding();
    } while (Join());
    if (!running_.empty()) Compute();
  }
}

bool Scheduler::Impl::Await() {
  std::vector<EntryPtr> returned;
  {
    MutexLock lock(&mutex_);
    while (running_.empty() && !moved_ && !woken_) {
      if (stopping_ && open_.empty()) return false;
      if (!changed_.WaitUntil(&mutex_, NextDeadline())) break;
    }
    woken_ = moved_ = false;
    for (EntryPtr& entry : submitted_) {
      entry->place = Place::kWaiting;
      turns_.Add(std::move(entry));
    }
    submitted_.clear();
    returned.swap(returned_);
  }
  for (const EntryPtr& entry : returned) Return(entry);
  return true;
}

absl::Time Scheduler::Impl::NextDeadline() const {
  absl::Time next = open_.empty() ? absl::InfiniteFuture() : drained_by_;
  for (const auto& [number, entry] : open_) next = std::min(next, entry->deadline);
  return next;
}

void Scheduler::Impl::EndLate() {
  std::vector<EntryPtr> cancelled, displaced, late;
  {
    MutexLock lock(&mutex_);
    const absl::Time now = SteadyNow();
    for (const auto& [number, entry] : open_) {
      if (entry->place == Place::kNew) continue;
      if (entry->cancelled || now >= drained_by_) {
        cancelled.push_back(entry);
      } else if (entry->displaced) {
        displaced.push_back(entry);
      } else if (now >= entry->deadline) {
        late.push_back(entry);
      }
    }
  }
  for (const EntryPtr& entry : cancelled) {
    Finish(entry, absl::CancelledError("the request was cancelled"), End::kError);
  }
  for (const EntryPtr& entry : displaced) {
    Finish(entry, absl::ResourceExhaustedError("too many requests wait, most of them of this owner; try again later"),
           End::kError);
  }
  for (const EntryPtr& entry : late) Finish(entry, absl::DeadlineExceededError("the request timed out"), End::kError);
}

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

int64_t Scheduler::Impl::PagesAway() const {
  int64_t pages = 0;
  for (const EntryPtr& one : away_) pages += std::max<int64_t>(0, one->pages - one->conversation->pages_held());
  return pages;
}

int64_t Scheduler::Impl::PagesOfRunning() const {
  int64_t pages = 0;
  for (const EntryPtr& one : running_) pages += one->conversation->pages_wanted();
  return pages;
}

bool Scheduler::Impl::OthersHold(const Entry& entry) const {
  const auto other = [&](const EntryPtr& one) { return one.get() != &entry; };
  return std::any_of(running_.begin(), running_.end(), other) || std::any_of(away_.begin(), away_.end(), other) ||
         std::any_of(landed_.begin(), landed_.end(),
                     [](const EntryPtr& one) { return one->conversation->pages_held() > 0; });
}

bool Scheduler::Impl::Fits(const Entry& entry) const {
  // One that has not joined yet leaves those that had joined before what they need.
  const bool joined = entry.preempted || entry.conversation->pages_held() > 0 || preempted_.empty();
  if (joined && running_.empty() && away_.empty()) return true;
  int64_t slots = std::ssize(running_) +
                  std::count_if(away_.begin(), away_.end(), [](const EntryPtr& one) { return one->returns; });
  int64_t pages = entry.conversation->pages_wanted() + PagesOfRunning() + PagesAway();
  for (const EntryPtr& one : preempted_) {
    if (joined) break;
    ++slots;
    pages += one->pages;
  }
  return slots < options_.max_running && pages <= generator_->free_pages();
}

bool Scheduler::Impl::Join() {
  bool joined = false;
  while (!landed_.empty() && Fits(*landed_.front())) {
    const EntryPtr entry = std::move(landed_.front());
    landed_.pop_front();
    std::erase(preempted_, entry);
    entry->place = Place::kRunning;
    running_.push_back(entry);
    {
      MutexLock lock(&mutex_);
      --stats_.waiting;
      ++stats_.running;
      entry->waits = false;
      displaced_ -= std::exchange(entry->displaced, false) ? 1 : 0;  // too late: it runs
    }
    joined = true;
    if (entry->conversation->prompt_left() == 0) Give(entry);
  }
  return joined;
}

std::vector<std::pair<EntryPtr, int64_t>> Scheduler::Impl::PromptPieces(int64_t left) const {
  std::vector<std::pair<EntryPtr, int64_t>> pieces;
  const int64_t chunk = generator_->options().prefill_chunk;
  for (const EntryPtr& entry : running_) {
    const int64_t tokens = std::min({left, chunk, entry->conversation->prompt_left(), kMinPromptTokens});
    if (tokens <= 0) continue;
    pieces.emplace_back(entry, tokens);
    left -= tokens;
  }
  for (auto& [entry, tokens] : pieces) {
    const int64_t more = std::min({left, chunk - tokens, entry->conversation->prompt_left() - tokens});
    tokens += more;
    left -= more;
  }
  return pieces;
}

void Scheduler::Impl::KeepPagesAway() {
  if (away_.empty()) return;
  while (!running_.empty() && PagesOfRunning() + PagesAway() > generator_->free_pages()) Preempt(running_.back());
}

void Scheduler::Impl::Compute() {
  KeepPagesAway();
  std::vector<EntryPtr> entries;
  std::vector<Work> works;
  const auto add = [&](const EntryPtr& entry, int64_t tokens) {
    entries.push_back(entry);
    works.push_back({entry->conversation.get(), tokens});
  };
  for (const EntryPtr& entry : running_) {
    if (entry->conversation->prompt_left() == 0) add(entry, 1);
  }
  const size_t answers = works.size();
  // Every prompt gets a little, so that a long one does not delay those behind it; the first get the rest.
  for (const auto& [entry, tokens] : PromptPieces(std::max(options_.pass_tokens - static_cast<int64_t>(answers),
                                                           std::min(options_.pass_tokens, kMinPromptTokens)))) {
    add(entry, tokens);
  }
  if (works.empty()) return;
  generator_->Pass(absl::MakeSpan(works), Limits{.cancelled = [this] { return stopping_.load(); }});
  {
    MutexLock lock(&mutex_);
    ++stats_.passes;
    for (size_t i = answers; i < works.size(); ++i) stats_.prompt_tokens += works[i].status.ok() ? works[i].tokens : 0;
  }
  const Work* lacking = nullptr;
  EntryPtr lacks;
  for (size_t i = 0; i < works.size(); ++i) {
    if (works[i].lacks_pages) {
      if (lacking == nullptr) lacking = &works[i], lacks = entries[i];
    } else if (works[i].lapsed) {
      LandAgain(entries[i]);
    } else if (!works[i].status.ok()) {
      Finish(entries[i], works[i].status, End::kError);
    } else if (works[i].conversation->prompt_left() == 0) {
      Give(entries[i]);
    }
  }
  if (lacking != nullptr) MakeRoom(*lacks, lacking->status);
}

void Scheduler::Impl::Give(const EntryPtr& entry) {
  const int32_t token = entry->conversation->next();
  if (entry->first_token == absl::ZeroDuration()) entry->first_token = SteadyNow() - entry->submitted;
  if (generator_->IsEnd(token)) return Finish(entry, absl::OkStatus(), End::kModel);
  entry->answer.push_back(token);
  {
    MutexLock lock(&mutex_);
    ++stats_.answer_tokens;
  }
  if (!entry->listener->OnToken(token)) return Finish(entry, absl::OkStatus(), End::kListener);
  if (static_cast<int64_t>(entry->answer.size()) >= entry->max_tokens) {
    Finish(entry, absl::OkStatus(), End::kMaxTokens);
  } else if (entry->conversation->length() >= generator_->model().config().context) {
    Finish(entry, absl::OkStatus(), End::kContext);
  }
}

void Scheduler::Impl::MakeRoom(const Entry& lacking, const absl::Status& full) {
  if (lacking.conversation->pages_wanted() <= generator_->free_pages()) return;  // others have ended
  if (running_.empty()) return;
  const EntryPtr last = running_.back();
  OthersHold(*last) ? Preempt(last) : Finish(last, full, End::kError);
}

void Scheduler::Impl::Preempt(const EntryPtr& entry) {
  generator_->Restart(*entry->conversation, entry->answer);
  const bool ran = std::erase(running_, entry) > 0;
  entry->place = Place::kWaiting;
  entry->preempted = true;
  entry->pages = entry->conversation->pages_wanted();
  preempted_.push_back(entry);
  turns_.AddFirst(entry);
  moved_ = true;
  MutexLock lock(&mutex_);
  ++stats_.preempted;
  if (!ran) return;
  --stats_.running;
  ++stats_.waiting;
}

void Scheduler::Impl::Finish(const EntryPtr& entry, const absl::Status& status, End end) {
  const EntryPtr held = entry;  // `entry` may be an element of what it is removed from
  const Place place = std::exchange(entry->place, Place::kEnded);
  RequestStats stats;
  if (place == Place::kLanding) {
    entry->cancelled = true;  // its thread has the conversation, and need not go on
  } else {
    stats = entry->conversation->stats();
    entry->conversation = nullptr;  // others may have its private KV
  }
  stats.time_to_first_token = entry->first_token;
  place == Place::kWaiting ? turns_.Remove(held) : turns_.Left(held->owner);
  std::erase(landed_, held);
  std::erase(running_, held);
  std::erase(preempted_, held);
  moved_ = true;
  {
    MutexLock lock(&mutex_);
    --(place == Place::kRunning ? stats_.running : stats_.waiting);
    held->waits = false;
    displaced_ -= std::exchange(held->displaced, false) ? 1 : 0;
    ++(status.ok() ? stats_.ended : absl::IsCancelled(status) ? stats_.cancelled : stats_.failed);
  }
  held->listener->OnEnd(status, end, stats);
  held->listener = nullptr;
  MutexLock lock(&mutex_);
  open_.erase(held->number);
  if (open_.empty()) idle_.SignalAll();
}

Scheduler::Scheduler(Generator* generator, const Options& options)
    : impl_(std::make_unique<Impl>(generator, options)) {}
Scheduler::~Scheduler() = default;

absl::StatusOr<uint64_t> Scheduler::Submit(Job job, std::shared_ptr<Listener> listener) {
  return impl_->Submit(std::move(job), std::move(listener));
}
void Scheduler::Cancel(uint64_t number) { impl_->Cancel(number); }
void Scheduler::Drain(absl::Time deadline) { impl_->Drain(deadline); }
Scheduler::Stats Scheduler::stats() const { return impl_->stats(); }

}  // namespace kvlink::infer
