// Registered memory handed out in ranges, for receiving and sending encodings. A range is returned when its last
// reference, including the transport's, is dropped.
//
// The memory follows its use: it grows by pieces, each registered separately, up to a limit, and Trim releases pieces
// unused for a while. So a process's first read waits only for its own memory, not for all that may ever be needed. A
// range lies in one piece.
//
// Thread-safety: all methods. Ownership: slices share ownership of the arena.
#ifndef KVLINK_STORE_CLIENT_DATA_ARENA_H_
#define KVLINK_STORE_CLIENT_DATA_ARENA_H_

#include <cstdint>
#include <functional>
#include <list>
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

namespace kvlink::store::client {

class Arena : public std::enable_shared_from_this<Arena> {
 public:
  // `name`: used in messages, e.g. "receive memory". `grown` (may be empty): called after the arena has grown, so that
  // the owner can schedule Trim. The transport must outlive the arena.
  Arena(transport::Transport* transport, int64_t max_bytes, std::string name, std::function<void()> grown = {});
  // Over memory that is already registered and stays so.
  Arena(std::shared_ptr<transport::RegisteredBuffer> buffer, std::string name);

  // Takes ranges of these lengths, page-aligned, all or none; an empty slice for length 0. RESOURCE_EXHAUSTED: no room
  // now.
  absl::StatusOr<std::vector<transport::Slice>> Take(absl::Span<const int64_t> lengths);
  // Takes one range; waits for room. INVALID_ARGUMENT: larger than the arena. DEADLINE_EXCEEDED.
  absl::StatusOr<transport::Slice> TakeOne(int64_t length, absl::Time deadline);
  // Releases pieces unused since `before`.
  void Trim(absl::Time before);
  int64_t used() const;
  // Bytes of memory the arena has now.
  int64_t bytes() const;

 private:
  struct Range;
  struct Piece {
    std::shared_ptr<transport::RegisteredBuffer> buffer;
    int64_t bytes = 0;
    std::map<int64_t, int64_t> free;  // offset -> length; adjacent ranges are merged
    int64_t used = 0;
    absl::Time idle_since;
  };
  struct Place {
    Piece* piece = nullptr;
    int64_t offset = 0, length = 0;
  };

  // Finds room without growing. On failure takes nothing and sets *missing to the bytes that did not fit.
  std::optional<std::vector<Place>> Allocate(absl::Span<const int64_t> lengths, int64_t* missing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<Place> AllocateOne(int64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Free(const Place& place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Give(const Place& place);
  // Reserves bytes for a new piece with room for `missing`, giving up idle pieces if necessary. Returns the piece's
  // size, for Grow, or 0 if there is no room. REQUIRES: !growing_.
  int64_t Reserve(int64_t missing, std::list<Piece>* given_up) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Creates a piece whose bytes are reserved.
  absl::Status Grow(int64_t bytes);
  transport::Slice SliceOf(const Place& place, int64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  transport::Transport* const transport_;
  const int64_t max_bytes_;
  const std::string name_;
  const std::function<void()> grown_;
  mutable Mutex mutex_;
  CondVar freed_;  // a range was freed, or the arena has grown, or could not
  std::list<Piece> pieces_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of the pieces, including those being created
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  bool growing_ ABSL_GUARDED_BY(mutex_) = false;  // a thread creates a piece
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_ARENA_H_
