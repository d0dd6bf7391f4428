// A request of the scheduler, and whose turn it is among those that wait. Private to scheduler.cc and this folder.
// Thread-safety: SchedulerTurns by one thread at a time; a SchedulerEntry as its members say.
#ifndef KVLINK_WORKER_INFER_SCHEDULING_TURNS_H_
#define KVLINK_WORKER_INFER_SCHEDULING_TURNS_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/infer/generator.h"
#include "worker/infer/scheduler.h"

namespace kvlink::infer {

struct SchedulerEntry {
  enum class Place : uint8_t { kNew, kWaiting, kLanding, kLanded, kRunning, kEnded };

  uint64_t number = 0;
  std::string owner;
  int64_t max_tokens = 0;
  absl::Time submitted, deadline;
  std::atomic<bool> cancelled{false};

  // Under the scheduler's lock.
  bool waits = false;      // for its first turn, so that another owner's request may take its place
  bool displaced = false;  // one has

  // Of the thread that lands it, while it is at kLanding; otherwise of the scheduler's.
  std::unique_ptr<Conversation> conversation;
  bool alone = false;                     // it computes its prompt there
  bool returns = false;                   // it was running, and goes on
  absl::Status landed;                    // how that ended
  bool lacks_pages = false;               // Work
  int64_t passes = 0, prompt_tokens = 0;  // that were computed there

  // Of the scheduler's thread.
  std::shared_ptr<Scheduler::Listener> listener;
  Place place = Place::kNew;
  bool preempted = false;
  int64_t pages = 0;            // of private KV that it is to have, while it is away or preempted
  std::vector<int32_t> answer;  // given out
  absl::Duration first_token;   // since it was submitted
};

// Requests that wait. Next are those that gave up their private KV; then, of the owners with waiting requests, the one
// with the fewest under way, of equals the one whose last turn is the longest ago.
class SchedulerTurns {
 public:
  using EntryPtr = std::shared_ptr<SchedulerEntry>;

  bool empty() const { return waiting_ == 0; }
  void Add(EntryPtr entry);
  // Before all others. It was under way.
  void AddFirst(EntryPtr entry);
  // Next is the first that `may`, of a few that each owner has waited with the longest; who gave up its private KV
  // always may. nullptr: there is none. Otherwise it is under way now. Linear in the number of owners, but for sorting
  // them.
  EntryPtr Next(const std::function<bool(SchedulerEntry&)>& may);
  // One that waits does so no more.
  void Remove(const EntryPtr& entry);
  // One that was under way is so no more.
  void Left(const std::string& owner);

 private:
  struct Owner {
    std::deque<EntryPtr> waiting;
    int64_t under_way = 0;
    uint64_t turn = 0;  // the last one; a new owner is as if it had just had one
  };
  Owner& Find(const std::string& name);
  void Forget(const std::string& name);  // unless it has requests

  std::deque<EntryPtr> first_;
  std::map<std::string, Owner> owners_;  // with requests that wait or are under way
  uint64_t turn_ = 0;
  int64_t waiting_ = 0;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_SCHEDULING_TURNS_H_
