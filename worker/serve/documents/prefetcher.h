// Loads encodings into memory before anybody asks for them, at the lowest priority: one after another, and only while
// no request waits. What cannot be done soon is dropped, so that nobody ever waits for it; a request that comes
// meanwhile shares the load. Nothing is encoded, and no encoding that is in use leaves memory.
//
// Thread-safety: all methods. Lifetime: the pool, and what `busy` uses, outlive the object.
#ifndef KVLINK_WORKER_SERVE_DOCUMENTS_PREFETCHER_H_
#define KVLINK_WORKER_SERVE_DOCUMENTS_PREFETCHER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/worker.h"
#include "worker/infer/resident_pool.h"

namespace kvlink::serve {

class Prefetcher {
 public:
  struct Options {
    int64_t layers = 0;                               // of an encoding
    int max_queued = 64;                              // calls of Add that wait
    int shares = 1;                                   // one owner may have one of so many parts of them
    absl::Duration patience = absl::Seconds(10);      // after Add: then nothing more of it is begun
    absl::Duration load_timeout = absl::Seconds(10);  // of a layer
  };
  // `busy`: whether requests wait, so that a prefetch gives way.
  Prefetcher(infer::ResidentPool* pool, const Options& options, std::function<bool()> busy);
  ~Prefetcher() { Stop(); }

  // Begins to load these. False: they are dropped, since too many wait already.
  bool Add(const std::string& owner, std::vector<infer::ResidentPool::Wanted> wanted);
  // Drops what waits, and returns once the load that is under way has ended.
  void Stop();

  struct Stats {
    int64_t loaded = 0;   // encodings
    int64_t there = 0;    // that were in memory, or on their way
    int64_t missed = 0;   // that the store had lost, or that did not arrive
    int64_t dropped = 0;  // for want of time or room, or since requests waited
  };
  Stats stats() const;

 private:
  using Wanted = infer::ResidentPool::Wanted;
  bool MayWait(const std::string& owner);
  void WaitsNoMore(const std::string& owner);
  void LoadAll(const std::vector<Wanted>& wanted, absl::Time deadline);
  // Counts what became of it.
  void Load(const Wanted& wanted);
  void Count(int64_t Stats::*what, int64_t encodings);

  infer::ResidentPool* const pool_;
  const Options options_;
  const std::function<bool()> busy_;
  std::atomic<bool> stopped_{false};
  mutable Mutex mutex_;
  std::map<std::string, int> waiting_ ABSL_GUARDED_BY(mutex_);  // by owner
  Stats stats_ ABSL_GUARDED_BY(mutex_);
  Worker worker_;  // last: its tasks use the other members
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_DOCUMENTS_PREFETCHER_H_
