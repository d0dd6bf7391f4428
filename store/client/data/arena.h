// Registered memory handed out in ranges: what encodings land in and are sent from. A range comes back when nobody
// refers to it any more, the transport included.
//
// Thread-safety: all methods. Ownership: slices share the arena.
#ifndef KVLINK_STORE_CLIENT_DATA_ARENA_H_
#define KVLINK_STORE_CLIENT_DATA_ARENA_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "transport/transport.h"

namespace kvlink::store {

class Arena : public std::enable_shared_from_this<Arena> {
 public:
  // `name` for messages: "landing memory". The memory is made with the first range; the transport lives longer.
  Arena(transport::Transport* transport, int64_t bytes, std::string name)
      : transport_(transport), bytes_(bytes), name_(std::move(name)) {}
  // Over memory that is registered already.
  Arena(std::shared_ptr<transport::RegisteredBuffer> buffer, std::string name);

  // Ranges of these lengths, on page boundaries, all or none; an empty slice for 0. RESOURCE_EXHAUSTED: no room now.
  absl::StatusOr<std::vector<transport::Slice>> Take(absl::Span<const int64_t> lengths);
  // One range; waits for room. RESOURCE_EXHAUSTED: larger than the arena. DEADLINE_EXCEEDED.
  absl::StatusOr<transport::Slice> TakeOne(int64_t length, absl::Time deadline);
  int64_t used() const;

 private:
  struct Range;
  absl::Status Prepare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<int64_t> Allocate(int64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Free(int64_t offset, int64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Give(int64_t offset, int64_t length);
  transport::Slice SliceOf(int64_t offset, int64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  transport::Transport* const transport_;
  const int64_t bytes_;
  const std::string name_;
  mutable Mutex mutex_;
  CondVar freed_;
  std::shared_ptr<transport::RegisteredBuffer> buffer_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, int64_t> free_ ABSL_GUARDED_BY(mutex_);  // offset -> length, never adjacent
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_CLIENT_DATA_ARENA_H_
