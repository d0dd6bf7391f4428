// Changes of many documents that clients hand over at once. A job carries its changes out one after another, in turn
// with the jobs of other owners; it goes on when its client has gone, and ends with the server. It is remembered for a
// while after its end.
//
// What is waited for is bounded: the jobs under way and the bytes of their texts, for each owner too. A change is tried
// again while it is UNAVAILABLE, until its own time is over; then its job ends. Any other error is that of one
// document.
//
// Thread-safety: all methods. Lifetime: what `apply` and `failed` use outlives the object.
#ifndef KVLINK_WORKER_SERVE_DOCUMENTS_DOCUMENT_JOBS_H_
#define KVLINK_WORKER_SERVE_DOCUMENTS_DOCUMENT_JOBS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/worker.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve {

class DocumentJobs {
 public:
  struct Options {
    int threads = 2;                         // jobs that compute at a time
    int max_jobs = 64;                       // under way
    int64_t max_bytes = int64_t{128} << 20;  // of what they have yet to do
    int shares = 1;                          // one owner may have one of so many parts of both
    int max_ended = 256;                     // remembered, for as long as `kept`
    int max_failures = 100;                  // of one job, that are told; all are counted
    absl::Duration document_timeout = absl::Minutes(10);
    absl::Duration timeout = absl::Hours(24);  // of a job
    absl::Duration kept = absl::Minutes(10);
    absl::Duration pause = absl::Seconds(1);  // before a change is tried again
  };
  // Carries one change out. `deadline`: SteadyNow() time; `cancelled`: asked now and then; CANCELLED if it says so.
  using Apply = std::function<absl::Status(const DocumentChange& change, absl::Time deadline,
                                           const std::function<bool()>& cancelled)>;
  // Called for the first error of each change; must not block.
  using Failed = std::function<void(const std::string& owner, const absl::Status& status)>;
  DocumentJobs(const Options& options, Apply apply, Failed failed);
  ~DocumentJobs() { Stop(); }

  enum class State : uint8_t {
    kRunning,    // or waiting for its turn
    kDone,       // every change was tried
    kFailed,     // it ended before that; `why` says why
    kCancelled,  // by Cancel
  };
  struct Failure {
    int64_t index = 0;  // of the change
    std::string id;
    std::string reason;
  };
  struct Progress {
    State state = State::kRunning;
    int64_t changes = 0, done = 0, failed = 0;
    std::vector<Failure> failures;
    absl::Status why;
  };

  // Returns the id of a new job, of one change at least. RESOURCE_EXHAUSTED: there are too many, or too large ones.
  // UNAVAILABLE: Stop was called. TooLargeError (errors.h): this one alone is too large.
  absl::StatusOr<std::string> Begin(const std::string& owner, std::vector<DocumentChange> changes);
  // NOT_FOUND: the owner has no such job, or it is forgotten.
  absl::StatusOr<Progress> Show(const std::string& owner, const std::string& id);
  // Ends a job; what is done stays, and the change that it is at may still be carried out. Returns how far it is.
  // NOT_FOUND as Show.
  absl::StatusOr<Progress> Cancel(const std::string& owner, const std::string& id);
  // Ends all jobs with UNAVAILABLE, and returns once the changes under way have ended. Show still answers.
  void Stop();

  struct Stats {
    int64_t running = 0, bytes = 0;  // now
    int64_t done = 0, failed = 0, cancelled = 0, refused = 0;
    int64_t changes_done = 0, changes_failed = 0;
  };
  Stats stats() const;

 private:
  struct Job {
    std::string owner;
    absl::Time deadline;
    std::vector<DocumentChange> changes;  // of the thread whose turn it is
    size_t next = 0;                      // likewise
    std::atomic<bool> cancelled{false};
    // Under mutex_.
    bool under_way = true;  // a turn is to come, or has not ended
    int64_t bytes = 0;      // of changes that are not done
    Progress progress;
    absl::Time ended_at;
  };
  using JobPtr = std::shared_ptr<Job>;

  static int64_t BytesOf(const DocumentChange& change);
  absl::Status CheckRoom(const std::string& owner, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets jobs that ended long ago; if there are too many, also the oldest one of the owner that has the most.
  void Forget() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<JobPtr> Find(const std::string& owner, const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(Job& job, State state, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Queue(const JobPtr& job);
  // One change of a job.
  void Turn(const JobPtr& job, const absl::Status& turn);
  // Tries it until it is done, or an error is final.
  absl::Status Try(const Job& job, const DocumentChange& change);
  // Notes how a change ended. True: the job goes on.
  bool Note(Job& job, const absl::Status& status);

  const Options options_;
  const Apply apply_;
  const Failed failed_;
  std::atomic<bool> stopped_{false};
  mutable Mutex mutex_;
  CondVar stirred_;  // stopped, or a job was cancelled
  std::map<std::string, JobPtr> jobs_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
  Worker worker_;  // last: its tasks use the other members
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_DOCUMENTS_DOCUMENT_JOBS_H_
