// Groups puts that arrive together into one flush and one commit: up to 2 ms while other puts are still writing, or 64
// MiB. A group is flushed while the one before it is committed. Thread-safety: all methods. Destruction commits what is
// ready.
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

// A put on its way. Shared by its caller, its writes and the committer, because the caller may give up at its deadline.
struct PendingPut {
  // Its progress. Its source is read while it is written and flushed; where one of these fails, it is written once
  // more, elsewhere.
  enum class Stage : uint8_t { kWriting, kFlushing, kCommitting, kDone };

  // Constant while it is written.
  EncodingKey key;
  PutMode mode = PutMode::kKeepExisting;
  Location location;
  std::function<absl::Status()> admit;       // the caller's; may be empty
  Pages manifest;                            // serialised, with zeros to the end of its area
  std::vector<std::shared_ptr<File>> files;  // that it is written to: open until they are flushed
  int tries = 1;                             // how often writing began
  // The committer's once all is written.
  std::shared_ptr<Residency> source;  // what is written
  std::shared_ptr<Residency> kept;    // what the DRAM tier gets; none where it has no room
  bool borrowed = false;              // the source is the caller's memory, who waits until all is written
  bool copied = false;                // the source is a copy of the caller's memory
  // Called once, at the end; may be empty.
  std::function<void(const absl::Status& outcome, const Etag& stored, bool was_written)> on_done;

  Mutex mutex;
  CondVar finished;
  Stage stage ABSL_GUARDED_BY(mutex) = Stage::kWriting;
  int64_t left ABSL_GUARDED_BY(mutex) = 0;  // bytes to write, and what else must end before
  absl::Status status ABSL_GUARDED_BY(mutex);
  absl::Status device ABSL_GUARDED_BY(mutex);          // why the device did not take or keep the bytes
  std::vector<Run> bad_blocks ABSL_GUARDED_BY(mutex);  // blocks that could not be written
  Etag etag ABSL_GUARDED_BY(mutex);                    // what is stored
  bool written ABSL_GUARDED_BY(mutex) = false;

  // The one place where the stage changes; wakes who waits for it. REQUIRES: one of the arrows kWriting -> kFlushing ->
  // kWriting | kCommitting -> kDone.
  void Enter(Stage next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Whether the source's memory may be the caller's again.
  bool source_in_use() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return stage < Stage::kCommitting; }
  // Keeps the files open that the requests write to. REQUIRES: not all of it is written.
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

  // `flush` makes the bytes of a group durable, notes in each put what came of it, and takes out of the group those
  // that it has begun to write again; `commit` makes the records durable, and finishes each put. Each is called by one
  // thread, for the groups in their order.
  GroupCommit(std::function<void(Group*)> flush, std::function<void(const Group&)> commit);
  ~GroupCommit() { Stop(); }

  // Waits for what is being written, and commits it.
  void Stop();

  // A put begins writing; then exactly one of the two follows.
  void Begin();
  void Written(std::shared_ptr<PendingPut> put);
  void Abandon();

 private:
  void Flush();
  void Commit();
  // Waits for puts and takes them. Empty: there will be none.
  Group Take();

  const std::function<void(Group*)> flush_;
  const std::function<void(const Group&)> commit_;
  Mutex mutex_;
  CondVar wake_;
  int writing_ ABSL_GUARDED_BY(mutex_) = 0;
  Group ready_ ABSL_GUARDED_BY(mutex_);
  int64_t ready_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Group> flushed_ ABSL_GUARDED_BY(mutex_);  // a group without puts is the last
  CondVar handed_over_;
  Thread flusher_, committer_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_GROUP_COMMIT_H_
