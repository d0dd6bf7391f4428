// Groups concurrent puts into one flush and one commit: waits up to 2 ms while other puts are still writing, or until
// 64 MiB are ready. A group is flushed while the previous one is committed. Thread-safety: all methods. The destructor
// commits the puts that are ready.
#ifndef KVLINK_STORE_ENGINE_GROUP_COMMIT_H_
#define KVLINK_STORE_ENGINE_GROUP_COMMIT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/engine/disk/bulk_io.h"
#include "store/engine/disk/file.h"
#include "store/engine/disk/location.h"
#include "store/engine/memory/residency.h"
#include "store/engine/types.h"

namespace kvlink::engine {

// A put in progress. Shared by its caller, its writes and the committer, because the caller may give up at its
// deadline.
struct PendingPut {
  // Its progress. The source is read while it is written and flushed; if one of these fails, it is written once more,
  // elsewhere.
  enum class Stage : uint8_t { kWriting, kFlushing, kCommitting, kDone };

  // Constant while it is being written.
  EncodingKey key;
  PutMode mode = PutMode::kKeepExisting;
  Location location;
  std::function<absl::Status()> admit;       // the caller's check; may be empty
  Pages manifest;                            // serialised, zero-padded to the end of its area
  std::vector<std::shared_ptr<File>> files;  // the files it is written to, kept open until they are flushed
  int tries = 1;                             // number of times writing began
  // Used only by the committer once everything is written.
  std::shared_ptr<Residency> source;  // the bytes being written
  std::shared_ptr<Residency> kept;    // what the DRAM tier gets; null if it has no room
  bool borrowed = false;              // the source is the caller's memory; the caller waits until all is written
  bool copied = false;                // the source is a copy of the caller's memory
  // Called once, at the end; may be empty.
  std::function<void(const absl::Status& outcome, const Etag& stored, bool was_written)> on_done;

  Mutex mutex;
  CondVar finished;
  Stage stage ABSL_GUARDED_BY(mutex) = Stage::kWriting;
  int64_t left ABSL_GUARDED_BY(mutex) = 0;  // bytes to write, plus other work that must finish first
  absl::Status status ABSL_GUARDED_BY(mutex);
  absl::Status device ABSL_GUARDED_BY(mutex);          // why the device did not accept or keep the bytes
  std::vector<Run> bad_blocks ABSL_GUARDED_BY(mutex);  // blocks that could not be written
  Etag etag ABSL_GUARDED_BY(mutex);                    // of what is stored
  bool written ABSL_GUARDED_BY(mutex) = false;

  // The only place that changes the stage; wakes waiting threads. REQUIRES: one of the transitions kWriting ->
  // kFlushing -> kWriting | kCommitting -> kDone.
  void Enter(Stage next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Whether the source's memory is still in use. If not, the caller may reuse it.
  bool source_in_use() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return stage < Stage::kCommitting; }
  // Keeps open the files that the requests write to. REQUIRES: not all of the put is written.
  void Hold(absl::Span<const IoRequest> requests);
  // The outcome so far.
  absl::Status outcome() ABSL_LOCKS_EXCLUDED(mutex);
  void Finish(const absl::Status& outcome, const Etag& stored, bool was_written);
};

class GroupCommit {
 public:
  static constexpr absl::Duration kWait = absl::Milliseconds(2);
  static constexpr int64_t kGroupBytes = int64_t{64} << 20;

  using Group = std::vector<std::shared_ptr<PendingPut>>;

  // `flush` makes the bytes of a group durable, records each put's outcome, and removes those it has begun to write
  // again from the group. `commit` makes the records durable and finishes each put. Each is called by one thread, for
  // the groups in order.
  GroupCommit(std::function<void(Group*)> flush, std::function<void(const Group&)> commit);
  ~GroupCommit() { Stop(); }

  // Waits for the puts being written, and commits them.
  void Stop();

  // Begin: a put starts writing. Exactly one of Written and Abandon must follow.
  void Begin();
  void Written(std::shared_ptr<PendingPut> put);
  void Abandon();

 private:
  void Flush();
  void Commit();
  // Waits for puts and takes them. Empty: there will be no more.
  Group Take();

  const std::function<void(Group*)> flush_;
  const std::function<void(const Group&)> commit_;
  Mutex mutex_;
  CondVar wake_;
  int writing_ ABSL_GUARDED_BY(mutex_) = 0;
  Group ready_ ABSL_GUARDED_BY(mutex_);
  int64_t ready_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Group> flushed_ ABSL_GUARDED_BY(mutex_);  // an empty group is the last
  CondVar handed_over_;
  Thread flusher_, committer_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_GROUP_COMMIT_H_
