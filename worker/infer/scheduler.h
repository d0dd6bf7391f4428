// Answers many requests at once by continuous batching: one thread computes pass after pass, each with one row for
// every answer under way and, in the rows left, the next pieces of prompts. A request joins and leaves between two
// passes.
//
// A request waits (bounded, fairly among owners), then its documents land on other threads, so that a slow store delays
// no one else: whoever has nothing to land needs none of them. Only then does it take private KV and join. (One that
// finds nobody else does not wait for all layers: it computes its prompt there as they arrive, and joins with its first
// token.) If the store takes back an encoding, its readers land it again while the others go on. If private KV runs
// out, the request that joined last gives up its own and is computed again later, before any that has not joined yet,
// from its prompt and the tokens it has already given out. Each request has a status of its own: one that fails fails
// alone, unless the device fails.
//
// An answer is the same whatever else is computed: to the bit on the host, if its prompt is computed in the same pieces
// or the backend's arithmetic does not depend on them.
//
// Thread-safety: all methods. Lifetime: generator and listeners' surroundings outlive the scheduler; it keeps each
// listener until its OnEnd has returned. The destructor cancels what is left.
#ifndef KVLINK_WORKER_INFER_SCHEDULER_H_
#define KVLINK_WORKER_INFER_SCHEDULER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/infer/generator.h"

namespace kvlink::infer {

class Scheduler {
 public:
  struct Options {
    int64_t max_running = 64;   // requests that share passes at a time; at least 1
    int64_t max_waiting = 256;  // requests that wait for that or for their documents, shared out among their owners
    int64_t pass_tokens = 256;  // rows of a pass, unless more answers are under way; at least 1
    int landing_threads = 4;    // load or encode documents, at most half of them for one owner; at least 1
  };

  enum class End : uint8_t {
    kModel,      // the model ended its answer
    kMaxTokens,  // Job::max_tokens
    kContext,    // the model's context is full
    kListener,   // OnToken returned false
    kError,      // the status says why
  };

  // What a request tells whoever submitted it, on the scheduler's thread: must not block, and may call Cancel but
  // neither Submit nor Drain.
  class Listener {
   public:
    virtual ~Listener() = default;
    // The next token of the answer; never one of the end-of-sequence set. False ends the answer.
    virtual bool OnToken(const SampledToken& token) = 0;
    // Once, after the last token. CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, and errors of Generator. The time
    // to the first token is that since Submit; other statistics are missing if the documents were still landing.
    virtual void OnEnd(const absl::Status& status, End end, const RequestStats& stats) = 0;
  };

  struct Job {
    Request request;           // its limits are those below; answer_tokens is the room it needs at least
    int64_t max_tokens = 256;  // of the answer, at least 1
    std::string owner;         // those that wait are served in turn by owner
    absl::Time deadline = absl::InfiniteFuture();  // SteadyNow() time, for the whole answer
  };

  Scheduler(Generator* generator, const Options& options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  struct Submission {
    Job job;
    std::shared_ptr<Listener> listener;
  };
  // Takes all of them, or none: several answers to one question, say, which share the documents that land. Returns
  // their numbers, in their order. On error no listener is ever called. RESOURCE_EXHAUSTED: too many wait, and the
  // owner has its share of them; if it has less, the newest of the owner with the most ends with RESOURCE_EXHAUSTED
  // instead. INVALID_ARGUMENT: a request alone needs more private KV than there is, or, like FAILED_PRECONDITION, as
  // Generator::Admit. UNAVAILABLE: Drain was called.
  absl::StatusOr<std::vector<uint64_t>> Submit(std::vector<Submission> submissions);
  // Ends a request with CANCELLED between two passes, wherever it is; nothing if it has ended.
  void Cancel(uint64_t number);
  // Refuses new requests, and returns once the others have ended; cancels those that have not by `deadline`.
  void Drain(absl::Time deadline);

  struct Stats {
    int64_t waiting = 0;  // now: not landed, or without private KV
    int64_t running = 0;  // now
    int64_t submitted = 0, refused = 0;
    int64_t ended = 0, failed = 0, cancelled = 0;  // of those submitted, with OK, with an error, with CANCELLED
    int64_t preempted = 0;                         // times that a request gave up its private KV
    int64_t passes = 0;
    int64_t prompt_tokens = 0;  // rows of prompts computed, those computed again included
    int64_t answer_tokens = 0;  // given out
  };
  Stats stats() const;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_SCHEDULER_H_
