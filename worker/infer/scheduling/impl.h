// The state of a scheduler, and which thread does what. Private to scheduler.cc and this folder.
//
// One thread owns all requests and is the only one that decides. Callers and landing threads leave what is new in a box
// under the lock and wake it; it never computes, or calls a listener, with the lock held. While a request lands, its
// conversation belongs to the thread that lands it: if it is to end meanwhile, it ends at once, and what is left is
// dropped when that thread returns it.
#ifndef KVLINK_WORKER_INFER_SCHEDULING_IMPL_H_
#define KVLINK_WORKER_INFER_SCHEDULING_IMPL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "base/worker.h"
#include "worker/infer/scheduler.h"
#include "worker/infer/scheduling/turns.h"

namespace kvlink::infer {

class Scheduler::Impl {
 public:
  Impl(Generator* generator, const Options& options);
  ~Impl();

  absl::StatusOr<std::vector<uint64_t>> Submit(std::vector<Submission> submissions);
  void Cancel(uint64_t number);
  void Drain(absl::Time deadline);
  Stats stats() const {
    MutexLock lock(&mutex_);
    return stats_;
  }

 private:
  using Entry = SchedulerEntry;
  using EntryPtr = std::shared_ptr<Entry>;
  using Place = Entry::Place;

  // Whether there is room for one more request of `owner`. `instead`: whose place it takes; nullptr: nobody's.
  absl::Status CheckOpen(const std::string& owner, EntryPtr* instead) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckSize(const Conversation& conversation) const;
  absl::StatusOr<EntryPtr> Admit(Submission submission);
  // All of them or none.
  absl::Status Open(absl::Span<const EntryPtr> entries) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // It is open no more.
  void Close(const Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // On a landing thread.
  void LandRequest(const EntryPtr& entry, const absl::Status& turn);
  absl::Status ComputeAlone(Entry& entry, const Limits& limits);

  // On the scheduler's thread.
  void Run();
  // Waits until there is something to do, and takes what is new. False: the scheduler ends.
  bool Await();
  absl::Time NextDeadline() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends those that are cancelled, displaced or late; looks at no others.
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
  // Of these, by when they have to end, where that is limited; and those that were cancelled or displaced since the
  // last look.
  std::set<std::pair<absl::Time, uint64_t>> deadlines_ ABSL_GUARDED_BY(mutex_);
  std::vector<EntryPtr> ending_ ABSL_GUARDED_BY(mutex_);
  std::vector<EntryPtr> submitted_ ABSL_GUARDED_BY(mutex_);  // new
  std::vector<EntryPtr> returned_ ABSL_GUARDED_BY(mutex_);   // by landing threads
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t displaced_ ABSL_GUARDED_BY(mutex_) = 0;  // of those that wait, whose place another one took
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time drained_by_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  Stats stats_ ABSL_GUARDED_BY(mutex_);

  Worker worker_;
  Thread thread_;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_SCHEDULING_IMPL_H_
