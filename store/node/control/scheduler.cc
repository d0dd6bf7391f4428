// One lock for all calls: there are at most about a thousand, and only counting is done under it. gRPC is never called
// under it, because gRPC may call back at once.
#include "store/node/control/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/thread.h"

namespace kvlink::store::node {
namespace {

constexpr absl::Duration kSweepEvery = absl::Milliseconds(100);
constexpr absl::Duration kForever = absl::Hours(24);
constexpr int kStreams = 4;  // executed at a time
constexpr int kNice = 15;    // of stream threads: reading the whole store must not take processors from readers

}  // namespace

CallScheduler::CallScheduler(const NodeLimits& limits, Metrics* metrics) : limits_(limits), metrics_(metrics) {
  for (int i = 0; i < limits_.control_threads; ++i) {
    threads_.emplace_back("control-worker", [this] { Work(false, false); });
  }
  threads_.emplace_back("control-admin", [this] { Work(false, true); });
  for (int i = 0; i < kStreams; ++i) {
    threads_.emplace_back("control-stream", [this] {
      AddNiceness(kNice);
      Work(true, true);
    });
  }
  threads_.emplace_back("control-sweep", [this] { Sweep(); });
}

CallScheduler::~CallScheduler() {
  {
    MutexLock lock(&mutex_);
    closed_ = true;
    work_.SignalAll();
    sweep_.SignalAll();
  }
  threads_.clear();
}

bool CallScheduler::IsAdministrator(const ControlCall& call) {
  return call.grant().every_namespace && call.grant().right >= Right::kAdmin;
}

CallScheduler::Share& CallScheduler::ShareOf(const ControlCall& call) { return shares_[call.grant().name]; }

absl::Status CallScheduler::Add(const std::shared_ptr<ControlCall>& call) {
  Calls begun;
  {
    MutexLock lock(&mutex_);
    if (stopping_) return absl::UnavailableError("the node is closing");
    if (call->method().streams && streams_ >= kStreams) {
      return absl::ResourceExhaustedError(absl::StrCat(kStreams, " such calls are in progress, the maximum"));
    }
    const int64_t most = limits_.control_calls + (IsAdministrator(*call) ? limits_.control_calls_reserved : 0);
    Share& share = ShareOf(*call);
    const auto full = [](const char* whose, int64_t limit) {
      return absl::ResourceExhaustedError(absl::StrCat(whose, " has ", limit, " calls in progress, the maximum"));
    };
    if (call->session() != nullptr && sessions_[call->session()] >= limits_.control_calls_per_session) {
      return full("the session", limits_.control_calls_per_session);
    }
    if (share.calls >= limits_.control_calls_per_grant) return full("the key", limits_.control_calls_per_grant);
    if (admitted_ >= most) return full("the node", most);
    ++admitted_;
    ++share.calls;
    if (call->session() != nullptr) ++sessions_[call->session()];
    calls_.insert(call);
    Enter(call.get(), Phase::kWaiting, limits_.control_wait);
    waiting_.push_back(call);
    begun = Activate();
  }
  Begin(begun);
  return absl::OkStatus();
}

void CallScheduler::AddAnswered(const std::shared_ptr<ControlCall>& call) {
  MutexLock lock(&mutex_);
  calls_.insert(call);
  Enter(call.get(), Phase::kAnswering, limits_.control_answer);
}

void CallScheduler::Enter(ControlCall* call, Phase phase, absl::Duration within) {
  call->phase_ = phase;
  call->deadline_ = SteadyNow() + within;
}

CallScheduler::Calls CallScheduler::Activate() {
  Calls begun;
  const int64_t places_of_all = limits_.control_active + limits_.control_active_reserved;
  for (auto it = waiting_.begin(); it != waiting_.end() && active_ < places_of_all;) {
    ControlCall* const call = it->get();
    Share& share = ShareOf(*call);
    const int64_t places = limits_.control_active + (IsAdministrator(*call) ? limits_.control_active_reserved : 0);
    if (!call->method().streams && (active_ >= places || share.active >= limits_.control_active_per_grant)) {
      ++it;
      continue;
    }
    if (call->method().streams) {
      ++streams_;
    } else {
      ++active_;
      ++share.active;
    }
    call->holds_slot_ = true;
    Enter(call, Phase::kBeginning, limits_.control_receive);
    begun.push_back(std::move(*it));
    it = waiting_.erase(it);
  }
  return begun;
}

void CallScheduler::Begin(const Calls& calls) {
  for (const auto& call : calls) {
    call->Read();
    {
      MutexLock lock(&mutex_);
      if (call->phase_ != Phase::kBeginning) continue;  // its message has already arrived
      call->phase_ = Phase::kReceiving;
      if (!call->ended_early_) continue;
      (void)TakeForAnswer(call);
    }
    call->Answer(absl::CancelledError("the call has ended"));
  }
}

void CallScheduler::Received(const std::shared_ptr<ControlCall>& call) {
  MutexLock lock(&mutex_);
  if (call->phase_ != Phase::kReceiving && call->phase_ != Phase::kBeginning) return;
  Enter(call.get(), Phase::kQueued, limits_.control_wait);
  queue_.push_back(call);
  work_.SignalAll();
}

bool CallScheduler::TakeForAnswer(const std::shared_ptr<ControlCall>& call) {
  if (call->phase_ == Phase::kRunning || call->phase_ == Phase::kAnswering) return false;
  // Its Read is about to be called, and gRPC may be done with an answered call, so Begin answers it afterwards.
  if (call->phase_ == Phase::kBeginning) {
    call->ended_early_ = true;
    return false;
  }
  if (call->phase_ == Phase::kWaiting) waiting_.remove(call);
  if (call->phase_ == Phase::kQueued) queue_.erase(std::find(queue_.begin(), queue_.end(), call));
  Enter(call.get(), Phase::kAnswering, limits_.control_answer);
  return true;
}

void CallScheduler::Abandon(const std::shared_ptr<ControlCall>& call, const absl::Status& why) {
  {
    MutexLock lock(&mutex_);
    if (!TakeForAnswer(call)) return;
  }
  call->Answer(why);
}

void CallScheduler::Writes(ControlCall* call) {
  MutexLock lock(&mutex_);
  call->deadline_ = SteadyNow() + limits_.control_answer;
}

void CallScheduler::Wrote(ControlCall* call) {
  MutexLock lock(&mutex_);
  if (call->phase_ == Phase::kRunning) call->deadline_ = SteadyNow() + kForever;
}

void CallScheduler::Done(const std::shared_ptr<ControlCall>& call) {
  Calls begun;
  {
    MutexLock lock(&mutex_);
    calls_.erase(call);
    if (call->method_ == nullptr) return;
    Share& share = ShareOf(*call);
    if (call->holds_slot_) {
      if (call->method().streams) {
        --streams_;
      } else {
        --active_;
        --share.active;
      }
    }
    --admitted_;
    if (--share.calls == 0) shares_.erase(call->grant().name);
    if (call->session() != nullptr && --sessions_[call->session()] == 0) sessions_.erase(call->session());
    begun = Activate();
  }
  Begin(begun);
}

std::shared_ptr<ControlCall> CallScheduler::NextToRun(bool streams, bool administrators) {
  for (auto it = queue_.begin(); it != queue_.end(); ++it) {
    ControlCall* const call = it->get();
    if (call->method().streams != streams || (administrators && !IsAdministrator(*call))) continue;
    // One grant must leave a thread to the others.
    Share& share = ShareOf(*call);
    if (!streams && share.running >= std::max(1, limits_.control_threads - 1)) continue;
    std::shared_ptr<ControlCall> next = std::move(*it);
    queue_.erase(it);
    if (!streams) ++share.running;
    Enter(next.get(), Phase::kRunning, streams ? kForever : limits_.control_run);
    return next;
  }
  return nullptr;
}

void CallScheduler::Work(bool streams, bool administrators) {
  while (true) {
    std::shared_ptr<ControlCall> call;
    {
      MutexLock lock(&mutex_);
      while (!closed_ && (call = NextToRun(streams, administrators)) == nullptr) work_.Wait(&mutex_);
      if (call == nullptr) return;
    }
    const auto answer = call->Run();
    {
      MutexLock lock(&mutex_);
      if (!streams) --ShareOf(*call).running;
      Enter(call.get(), Phase::kAnswering, limits_.control_answer);
      work_.SignalAll();
    }
    call->Answer(answer);
  }
}

void CallScheduler::Stop() {
  Calls streams, refused;
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    for (const auto& call : calls_) {
      if (call->phase_ == Phase::kRunning && call->method().streams) streams.push_back(call);
    }
    const Calls all(calls_.begin(), calls_.end());
    for (const auto& call : all) {
      if (TakeForAnswer(call)) refused.push_back(call);
    }
  }
  for (const auto& call : streams) call->SetCancelled();
  for (const auto& call : refused) call->Answer(absl::UnavailableError("the node is closing"));
}

void CallScheduler::Sweep() {
  while (true) {
    Calls late, cut;
    {
      MutexLock lock(&mutex_);
      if (closed_) return;
      sweep_.WaitUntil(&mutex_, SteadyNow() + kSweepEvery);
      if (closed_) return;
      const absl::Time now = SteadyNow();
      for (const auto& call : calls_) {
        if (now >= call->deadline_) late.push_back(call);
      }
      for (auto& call : late) {
        if (TakeForAnswer(call)) continue;
        call->deadline_ = now + limits_.control_answer;
        cut.push_back(std::exchange(call, nullptr));
      }
    }
    for (const auto& call : late) {
      if (call != nullptr) call->Answer(absl::ResourceExhaustedError("the call did not complete in time"));
    }
    for (const auto& call : cut) {
      call->SetCancelled();
      call->Cancel();
    }
  }
}

int64_t CallScheduler::waiting() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(waiting_.size());
}

}  // namespace kvlink::store::node
