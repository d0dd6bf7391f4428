// Admission, the passes, and the ends of requests.
#include "worker/infer/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/infer/scheduling/impl.h"

namespace kvlink::infer {
namespace {

// Rows of prompts in a pass, however many answers are under way.
constexpr int64_t kMinPromptTokens = 16;

Scheduler::Options AtLeastOne(Scheduler::Options options) {
  options.max_running = std::max<int64_t>(options.max_running, 1);
  options.pass_tokens = std::max<int64_t>(options.pass_tokens, 1);
  options.landing_threads = std::max(options.landing_threads, 1);
  return options;
}

}  // namespace

Scheduler::Impl::Impl(Generator* generator, const Options& options)
    : generator_(generator),
      options_(AtLeastOne(options)),
      worker_({.name = "landing", .threads = options_.landing_threads + 1}),
      thread_("scheduler", [this] { Run(); }) {}

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

absl::StatusOr<Scheduler::Impl::EntryPtr> Scheduler::Impl::Admit(Submission submission) {
  Job& job = submission.job;
  if (job.max_tokens < 1) return absl::InvalidArgumentError("an answer must have room for at least one token");
  const auto entry = std::make_shared<Entry>();
  entry->submitted = SteadyNow();
  KVLINK_ASSIGN_OR_RETURN(entry->conversation, generator_->Admit(job.request));
  KVLINK_RETURN_IF_ERROR(CheckSize(*entry->conversation));
  entry->owner = std::move(job.owner);
  entry->max_tokens = job.max_tokens;
  entry->deadline = job.deadline;
  entry->listener = std::move(submission.listener);
  return entry;
}

absl::Status Scheduler::Impl::Open(absl::Span<const EntryPtr> entries) {
  std::vector<EntryPtr> displaced;
  size_t opened = 0;
  absl::Status status;
  for (; opened < entries.size(); ++opened) {
    EntryPtr instead;
    status = CheckOpen(entries[opened]->owner, &instead);
    if (!status.ok()) break;
    if (instead != nullptr) {
      instead->displaced = true;
      ++displaced_;
      displaced.push_back(std::move(instead));
    }
    const EntryPtr& entry = entries[opened];
    entry->number = ++last_number_;
    entry->waits = true;
    open_[entry->number] = entry;
    if (entry->deadline < absl::InfiniteFuture()) deadlines_.insert({entry->deadline, entry->number});
    ++stats_.waiting;
  }
  if (status.ok()) {
    ending_.insert(ending_.end(), displaced.begin(), displaced.end());
    return status;
  }
  for (const EntryPtr& entry : entries.first(opened)) Close(*entry);
  stats_.waiting -= static_cast<int64_t>(opened);
  for (const EntryPtr& entry : displaced) entry->displaced = false;
  displaced_ -= static_cast<int64_t>(displaced.size());
  return status;
}

void Scheduler::Impl::Close(const Entry& entry) {
  open_.erase(entry.number);
  deadlines_.erase({entry.deadline, entry.number});
}

absl::StatusOr<std::vector<uint64_t>> Scheduler::Impl::Submit(std::vector<Submission> submissions) {
  const auto count = static_cast<int64_t>(submissions.size());
  std::vector<EntryPtr> entries;
  const auto admit = [&]() -> absl::Status {
    for (Submission& submission : submissions) {
      {
        MutexLock lock(&mutex_);  // before anything is computed
        EntryPtr instead;
        KVLINK_RETURN_IF_ERROR(CheckOpen(submission.job.owner, &instead));
      }
      KVLINK_ASSIGN_OR_RETURN(EntryPtr entry, Admit(std::move(submission)));
      entries.push_back(std::move(entry));
    }
    return absl::OkStatus();
  };
  absl::Status status = admit();
  MutexLock lock(&mutex_);
  if (status.ok()) status = Open(entries);
  if (!status.ok()) {
    stats_.refused += count;
    return status;
  }
  std::vector<uint64_t> numbers;
  for (const EntryPtr& entry : entries) {
    numbers.push_back(entry->number);
    submitted_.push_back(entry);
  }
  stats_.submitted += count;
  Wake();
  return numbers;
}

void Scheduler::Impl::Cancel(uint64_t number) {
  MutexLock lock(&mutex_);
  const auto found = open_.find(number);
  if (found == open_.end() || found->second->cancelled.exchange(true)) return;
  ending_.push_back(found->second);
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
  const absl::Time next = open_.empty() ? absl::InfiniteFuture() : drained_by_;
  return deadlines_.empty() ? next : std::min(next, deadlines_.begin()->first);
}

void Scheduler::Impl::EndLate() {
  std::vector<std::pair<EntryPtr, absl::Status>> ends;
  {
    MutexLock lock(&mutex_);
    const absl::Time now = SteadyNow();
    for (const EntryPtr& entry : std::exchange(ending_, {})) {
      if (entry->place == Place::kNew) {
        ending_.push_back(entry);  // it has not come here yet
      } else if (entry->cancelled) {
        ends.emplace_back(entry, absl::CancelledError("the request was cancelled"));
      } else if (entry->displaced) {
        ends.emplace_back(
            entry, absl::ResourceExhaustedError("too many requests wait, most of them of this owner; try again later"));
      }
    }
    for (auto it = deadlines_.begin(); it != deadlines_.end() && it->first <= now; ++it) {
      ends.emplace_back(open_.at(it->second), absl::DeadlineExceededError("the request timed out"));
    }
    if (now >= drained_by_) {
      for (const auto& [number, entry] : open_) {
        ends.emplace_back(entry, absl::CancelledError("the request was cancelled"));
      }
    }
  }
  for (const auto& [entry, status] : ends) {
    // It may have ended for another of these reasons.
    if (entry->place != Place::kNew && entry->place != Place::kEnded) Finish(entry, status, End::kError);
  }
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

std::vector<std::pair<SchedulerTurns::EntryPtr, int64_t>> Scheduler::Impl::PromptPieces(int64_t left) const {
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
  const SampledToken& sampled = entry->conversation->sampled();
  const int32_t token = sampled.token;
  if (entry->first_token == absl::ZeroDuration()) entry->first_token = SteadyNow() - entry->submitted;
  if (generator_->IsEnd(token)) return Finish(entry, absl::OkStatus(), End::kModel);
  entry->answer.push_back(token);
  {
    MutexLock lock(&mutex_);
    ++stats_.answer_tokens;
  }
  if (!entry->listener->OnToken(sampled)) return Finish(entry, absl::OkStatus(), End::kListener);
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
  Close(*held);
  if (open_.empty()) idle_.SignalAll();
}

Scheduler::Scheduler(Generator* generator, const Options& options)
    : impl_(std::make_unique<Impl>(generator, options)) {}
Scheduler::~Scheduler() = default;

absl::StatusOr<std::vector<uint64_t>> Scheduler::Submit(std::vector<Submission> submissions) {
  return impl_->Submit(std::move(submissions));
}
void Scheduler::Cancel(uint64_t number) { impl_->Cancel(number); }
void Scheduler::Drain(absl::Time deadline) { impl_->Drain(deadline); }
Scheduler::Stats Scheduler::stats() const { return impl_->stats(); }

}  // namespace kvlink::infer
