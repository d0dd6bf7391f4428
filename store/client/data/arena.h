// Registered memory handed out in ranges: what encodings are received in and are sent from. A range comes back when
// nobody refers to it any more, the transport included.
//
// The memory is as large as its use: it grows piece by piece, each registered by itself, up to a limit, and a piece
// that nobody has used for a while is given back (Trim). So the first read of a process waits for the memory of that
// read and not for all that may ever be needed. A range lies in one piece.
//
// Thread-safety: all methods. Ownership: slices share the arena.
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
  // `name` for messages: "receive memory". `grown` (may be empty) is called after the arena has taken memory, so that
  // somebody trims it later. The transport lives longer.
  Arena(transport::Transport* transport, int64_t max_bytes, std::string name, std::function<void()> grown = {});
  // Over memory that is registered already, and stays.
  Arena(std::shared_ptr<transport::RegisteredBuffer> buffer, std::string name);

  // Ranges of these lengths, on page boundaries, all or none; an empty slice for 0. RESOURCE_EXHAUSTED: no room now.
  absl::StatusOr<std::vector<transport::Slice>> Take(absl::Span<const int64_t> lengths);
  // One range; waits for room. INVALID_ARGUMENT: larger than the arena. DEADLINE_EXCEEDED.
  absl::StatusOr<transport::Slice> TakeOne(int64_t length, absl::Time deadline);
  // Gives back pieces that nobody has used since `before`.
  void Trim(absl::Time before);
  int64_t used() const;
  // Memory that the arena has now.
  int64_t bytes() const;

 private:
  struct Range;
  struct Piece {
    std::shared_ptr<transport::RegisteredBuffer> buffer;
    int64_t bytes = 0;
    std::map<int64_t, int64_t> free;  // offset -> length, never adjacent
    int64_t used = 0;
    absl::Time idle_since;
  };
  struct Place {
    Piece* piece = nullptr;
    int64_t offset = 0, length = 0;
  };

  // Finds room without growing. Where there is none: *missing, the bytes for which there was none, and nothing is
  // taken.
  std::optional<std::vector<Place>> Allocate(absl::Span<const int64_t> lengths, int64_t* missing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<Place> AllocateOne(int64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Free(const Place& place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Give(const Place& place);
  // How large a piece for `missing` bytes becomes, its bytes reserved; idle pieces make room for it. 0: no room.
  int64_t Reserve(int64_t missing, std::list<Piece>* given_up) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes a piece whose bytes are reserved.
  absl::Status Grow(int64_t bytes);
  transport::Slice SliceOf(const Place& place, int64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  transport::Transport* const transport_;
  const int64_t max_bytes_;
  const std::string name_;
  const std::function<void()> grown_;
  mutable Mutex mutex_;
  CondVar freed_;  // or grown
  std::list<Piece> pieces_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of the pieces, and of those that are being made
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_ARENA_H_
