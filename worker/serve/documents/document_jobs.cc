// A job has one task at a time in the worker's queue, for its next change; so the worker's fairness is that of the
// jobs' owners, and a job's changes take effect in their order.
#include "worker/serve/documents/document_jobs.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"

namespace kvlink::serve {
namespace {

// Nobody else may guess it.
std::string NewJobId() {
  std::random_device random;
  std::string id = "batch_";
  for (int i = 0; i < 4; ++i) absl::StrAppend(&id, absl::Hex(uint32_t{random()}, absl::kZeroPad8));
  return id;
}

}  // namespace

DocumentJobs::DocumentJobs(const Options& options, Apply apply, Failed failed)
    : options_(options),
      apply_(std::move(apply)),
      failed_(std::move(failed)),
      worker_({.name = "batches", .threads = options.threads}) {}

int64_t DocumentJobs::BytesOf(const DocumentChange& change) {
  return static_cast<int64_t>(sizeof(change) + change.id.size() + change.title.size() + change.text.size());
}

absl::Status DocumentJobs::CheckRoom(const std::string& owner, int64_t bytes) const {
  const int64_t max_bytes = options_.max_bytes / options_.shares;
  if (bytes > max_bytes) {
    return TooLargeError(absl::StrCat("a batch of ", bytes, " bytes; it may have ", max_bytes, ": send it in several"));
  }
  const int64_t max_jobs = std::max(1, options_.max_jobs / options_.shares);
  int64_t jobs = 0, own_jobs = 0, own_bytes = 0;
  for (const auto& [id, job] : jobs_) {
    if (!job->under_way) continue;
    ++jobs;
    if (job->owner != owner) continue;
    ++own_jobs;
    own_bytes += job->bytes;
  }
  if (jobs < options_.max_jobs && own_jobs < max_jobs && stats_.bytes + bytes <= options_.max_bytes &&
      own_bytes + bytes <= max_bytes) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(jobs, " batches are under way, ", own_jobs, " of them with this key; try again when one has ended"));
}

void DocumentJobs::Forget() {
  const absl::Time now = SteadyNow();
  struct Owner {
    int64_t ended = 0;
    std::map<std::string, JobPtr>::iterator oldest;
  };
  std::map<absl::string_view, Owner> owners;
  int64_t ended = 0;
  for (auto it = jobs_.begin(); it != jobs_.end();) {
    const Job& job = *it->second;
    if (job.under_way) {
      ++it;
    } else if (now - job.ended_at > options_.kept) {
      it = jobs_.erase(it);
    } else {
      Owner& owner = owners[job.owner];
      if (owner.ended++ == 0 || job.ended_at < owner.oldest->second->ended_at) owner.oldest = it;
      ++ended;
      ++it;
    }
  }
  if (ended <= options_.max_ended) return;
  const auto most = std::max_element(owners.begin(), owners.end(),
                                     [](const auto& a, const auto& b) { return a.second.ended < b.second.ended; });
  jobs_.erase(most->second.oldest);
}

absl::StatusOr<std::string> DocumentJobs::Begin(const std::string& owner, std::vector<DocumentChange> changes) {
  if (stopped_) return absl::UnavailableError("the server is shutting down");
  const auto job = std::make_shared<Job>();
  job->owner = owner;
  job->deadline = SteadyNow() + options_.timeout;
  job->progress.changes = static_cast<int64_t>(changes.size());
  for (const DocumentChange& change : changes) job->bytes += BytesOf(change);
  job->changes = std::move(changes);
  const std::string id = NewJobId();
  {
    MutexLock lock(&mutex_);
    Forget();
    if (absl::Status room = CheckRoom(owner, job->bytes); !room.ok()) {
      ++stats_.refused;
      return room;
    }
    ++stats_.running;
    stats_.bytes += job->bytes;
    jobs_[id] = job;
  }
  const absl::Status queued = Queue(job);
  if (queued.ok()) return id;
  MutexLock lock(&mutex_);
  End(*job, State::kFailed, queued);
  return queued;
}

absl::StatusOr<DocumentJobs::JobPtr> DocumentJobs::Find(const std::string& owner, const std::string& id) {
  Forget();
  const auto found = jobs_.find(id);
  if (found != jobs_.end() && found->second->owner == owner) return found->second;
  return absl::NotFoundError(absl::StrCat("there is no batch ", Quoted(id), "; one that has ended is forgotten after ",
                                          absl::FormatDuration(options_.kept)));
}

absl::StatusOr<DocumentJobs::Progress> DocumentJobs::Show(const std::string& owner, const std::string& id) {
  MutexLock lock(&mutex_);
  KVLINK_ASSIGN_OR_RETURN(const JobPtr job, Find(owner, id));
  return job->progress;
}

absl::StatusOr<DocumentJobs::Progress> DocumentJobs::Cancel(const std::string& owner, const std::string& id) {
  MutexLock lock(&mutex_);
  KVLINK_ASSIGN_OR_RETURN(const JobPtr job, Find(owner, id));
  if (job->progress.state == State::kRunning) job->progress.state = State::kCancelled;
  job->cancelled = true;
  stirred_.SignalAll();
  return job->progress;
}

void DocumentJobs::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    stirred_.SignalAll();
  }
  worker_.Stop();
}

DocumentJobs::Stats DocumentJobs::stats() const {
  MutexLock lock(&mutex_);
  return stats_;
}

void DocumentJobs::End(Job& job, State state, const absl::Status& why) {
  if (!job.under_way) return;
  job.under_way = false;
  job.ended_at = SteadyNow();
  if (job.progress.state == State::kRunning) {  // otherwise it was cancelled
    job.progress.state = state;
    job.progress.why = why;
  }
  --stats_.running;
  stats_.bytes -= std::exchange(job.bytes, 0);
  switch (job.progress.state) {
    case State::kDone:
      ++stats_.done;
      break;
    case State::kCancelled:
      ++stats_.cancelled;
      break;
    default:
      ++stats_.failed;
  }
}

absl::Status DocumentJobs::Queue(const JobPtr& job) {
  return worker_.AddAdmitted({.work = [this, job](const absl::Status& turn) { Turn(job, turn); },
                              .deadline = job->deadline,
                              .owner = job->owner});
}

void DocumentJobs::Turn(const JobPtr& job, const absl::Status& turn) {
  absl::Status status = turn;
  if (turn.ok() && job->cancelled) status = absl::CancelledError("the batch was cancelled");
  if (status.ok()) {
    const bool more = Note(*job, Try(*job, job->changes[job->next]));
    if (!more) return;
    status = Queue(job);
    if (status.ok()) return;
  }
  const bool late = absl::IsDeadlineExceeded(status);
  if (late) status = absl::DeadlineExceededError("the batch took too long");
  if (absl::IsUnavailable(status)) status = absl::UnavailableError("the server is shutting down");
  job->changes.clear();
  MutexLock lock(&mutex_);
  End(*job, State::kFailed, status);
}

absl::Status DocumentJobs::Try(const Job& job, const DocumentChange& change) {
  const absl::Time deadline = std::min(job.deadline, SteadyNow() + options_.document_timeout);
  const auto over = [this, &job] { return stopped_ || job.cancelled; };
  for (bool first = true;; first = false) {
    const absl::Status status = apply_(change, deadline, over);
    if (status.ok()) return status;
    if (over()) return absl::CancelledError("the batch has ended");
    if (first && failed_) failed_(job.owner, status);
    if (absl::IsCancelled(status)) return absl::InternalError(status.message());  // by nobody here
    if (!absl::IsUnavailable(status) || SteadyNow() + options_.pause >= deadline) return status;
    MutexLock lock(&mutex_);
    const absl::Time again = SteadyNow() + options_.pause;
    while (!over() && stirred_.WaitUntil(&mutex_, again)) {
    }
    if (over()) return absl::CancelledError("the batch has ended");
  }
}

bool DocumentJobs::Note(Job& job, const absl::Status& status) {
  DocumentChange& change = job.changes[job.next];
  const int64_t bytes = BytesOf(change);
  MutexLock lock(&mutex_);
  Progress& progress = job.progress;
  if (absl::IsCancelled(status)) {
    job.changes.clear();
    End(job, State::kFailed, absl::UnavailableError("the server is shutting down"));
    return false;
  }
  if (status.ok()) {
    ++progress.done;
    ++stats_.changes_done;
  } else {
    ++progress.failed;
    ++stats_.changes_failed;
    if (static_cast<int>(progress.failures.size()) < options_.max_failures) {
      progress.failures.push_back({static_cast<int64_t>(job.next), change.id, std::string(status.message())});
    }
  }
  job.bytes -= bytes;
  stats_.bytes -= bytes;
  change = {};
  ++job.next;
  // The store has not answered for as long as one change may take.
  const bool useless = absl::IsUnavailable(status);
  if (!useless && job.next < job.changes.size()) return true;
  job.changes.clear();
  End(job, useless ? State::kFailed : State::kDone, useless ? status : absl::OkStatus());
  return false;
}

}  // namespace kvlink::serve
