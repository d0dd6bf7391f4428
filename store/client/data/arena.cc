// First fit within pieces. A new piece is created without the lock, its bytes counted beforehand: populating and
// registering memory takes milliseconds, and meanwhile ranges are returned on the carrier's thread. One piece is
// created at a time: of threads that find no room together, all but one wait for its piece, which may have room for
// them too.
#include "store/client/data/arena.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/slab.h"
#include "base/status.h"

namespace kvlink::store::client {
namespace {

// A piece is at least as large as needed and as all existing memory, so that pieces stay few; within these limits.
constexpr int64_t kMinPiece = int64_t{2} << 20, kMaxStep = int64_t{32} << 20;

int64_t Rounded(int64_t length) { return (length + kSlabAlignment - 1) / kSlabAlignment * kSlabAlignment; }

}  // namespace

// Owned by a slice's buffer.
struct Arena::Range {
  Range(std::shared_ptr<Arena> arena, std::shared_ptr<transport::RegisteredBuffer> buffer, const Place& place)
      : arena(std::move(arena)), buffer(std::move(buffer)), place(place) {}
  ~Range() { arena->Give(place); }
  const std::shared_ptr<Arena> arena;
  const std::shared_ptr<transport::RegisteredBuffer> buffer;
  const Place place;
};

Arena::Arena(transport::Transport* transport, int64_t max_bytes, std::string name, std::function<void()> grown)
    : transport_(transport), max_bytes_(Rounded(max_bytes)), name_(std::move(name)), grown_(std::move(grown)) {}

Arena::Arena(std::shared_ptr<transport::RegisteredBuffer> buffer, std::string name)
    : transport_(nullptr),
      max_bytes_(buffer->size() / kSlabAlignment * kSlabAlignment),
      name_(std::move(name)),
      bytes_(max_bytes_) {
  pieces_.push_back({.buffer = std::move(buffer), .bytes = max_bytes_, .free = {{0, max_bytes_}}});
}

std::optional<Arena::Place> Arena::AllocateOne(int64_t length) {
  for (Piece& piece : pieces_) {
    for (auto it = piece.free.begin(); it != piece.free.end(); ++it) {
      if (it->second < length) continue;
      const int64_t offset = it->first, left = it->second - length;
      piece.free.erase(it);
      if (left > 0) piece.free[offset + length] = left;
      piece.used += length;
      used_ += length;
      return Place{&piece, offset, length};
    }
  }
  return std::nullopt;
}

std::optional<std::vector<Arena::Place>> Arena::Allocate(absl::Span<const int64_t> lengths, int64_t* missing) {
  std::vector<Place> places;
  *missing = 0;
  for (const int64_t length : lengths) {
    places.emplace_back();
    if (length == 0) continue;
    const std::optional<Place> place = AllocateOne(Rounded(length));
    if (place.has_value()) {
      places.back() = *place;
    } else {
      *missing += Rounded(length);
    }
  }
  if (*missing == 0) return places;
  for (const Place& place : places) {
    if (place.piece != nullptr) Free(place);
  }
  return std::nullopt;
}

void Arena::Free(const Place& place) {
  Piece& piece = *place.piece;
  piece.used -= place.length;
  used_ -= place.length;
  if (piece.used == 0) piece.idle_since = SteadyNow();
  int64_t length = place.length;
  auto next = piece.free.lower_bound(place.offset);
  if (next != piece.free.end() && place.offset + length == next->first) {
    length += next->second;
    next = piece.free.erase(next);
  }
  if (next != piece.free.begin()) {
    const auto prev = std::prev(next);
    if (prev->first + prev->second == place.offset) {
      prev->second += length;
      return;
    }
  }
  piece.free[place.offset] = length;
}

void Arena::Give(const Place& place) {
  MutexLock lock(&mutex_);
  Free(place);
  freed_.SignalAll();
}

int64_t Arena::Reserve(int64_t missing, std::list<Piece>* given_up) {
  if (transport_ == nullptr) return 0;
  // Gives up idle pieces, each too small for the request, to make room for one that is large enough.
  for (auto it = pieces_.begin(); it != pieces_.end() && bytes_ + missing > max_bytes_;) {
    const auto piece = it++;
    if (piece->used > 0) continue;
    bytes_ -= piece->bytes;
    given_up->splice(given_up->end(), pieces_, piece);
  }
  if (bytes_ + missing > max_bytes_) return 0;
  const int64_t step = std::max({missing, kMinPiece, std::min(bytes_, kMaxStep)});
  const int64_t piece = std::min((step + kMinPiece - 1) / kMinPiece * kMinPiece, max_bytes_ - bytes_);
  bytes_ += piece;
  growing_ = true;
  return piece;
}

absl::Status Arena::Grow(int64_t bytes) {
  auto buffer = transport_->Allocate(bytes);
  {
    MutexLock lock(&mutex_);
    growing_ = false;
    if (buffer.ok()) {
      pieces_.push_back(
          {.buffer = *std::move(buffer), .bytes = bytes, .free = {{0, bytes}}, .idle_since = SteadyNow()});
    } else {
      bytes_ -= bytes;
    }
    freed_.SignalAll();
  }
  if (!buffer.ok()) return Annotate(buffer.status(), name_);
  if (grown_) grown_();
  return absl::OkStatus();
}

transport::Slice Arena::SliceOf(const Place& place, int64_t length) {
  transport::RegisteredBuffer* const buffer = place.piece->buffer.get();
  auto range = std::make_shared<Range>(shared_from_this(), place.piece->buffer, place);
  return {std::shared_ptr<transport::RegisteredBuffer>(std::move(range), buffer), place.offset, length};
}

absl::StatusOr<std::vector<transport::Slice>> Arena::Take(absl::Span<const int64_t> lengths) {
  while (true) {
    std::list<Piece> given_up;  // freed without the lock
    int64_t grow = 0;
    {
      MutexLock lock(&mutex_);
      int64_t missing = 0;
      auto places = Allocate(lengths, &missing);
      for (; !places.has_value() && growing_; places = Allocate(lengths, &missing)) freed_.Wait(&mutex_);
      if (places.has_value()) {
        std::vector<transport::Slice> slices(lengths.size());
        for (size_t i = 0; i < lengths.size(); ++i) {
          if (lengths[i] > 0) slices[i] = SliceOf((*places)[i], lengths[i]);
        }
        return slices;
      }
      grow = Reserve(missing, &given_up);
      if (grow == 0) {
        return absl::ResourceExhaustedError(
            absl::StrCat("the ", name_, " of ", max_bytes_, " bytes is full: encodings in use take ", used_, " bytes"));
      }
    }
    given_up.clear();
    KVLINK_RETURN_IF_ERROR(Grow(grow));
  }
}

absl::StatusOr<transport::Slice> Arena::TakeOne(int64_t length, absl::Time deadline) {
  if (Rounded(length) > max_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat("a slab of ", length, " bytes does not fit into the ", name_, " of ",
                                                   max_bytes_, " bytes; allow more (--memory), or cut the document"));
  }
  while (true) {
    std::list<Piece> given_up;
    int64_t grow = 0;
    {
      MutexLock lock(&mutex_);
      while (true) {
        if (const auto place = AllocateOne(Rounded(length))) return SliceOf(*place, length);
        if (!growing_) grow = Reserve(Rounded(length), &given_up);
        if (grow > 0) break;
        if (!freed_.WaitUntil(&mutex_, deadline)) {
          return absl::DeadlineExceededError(absl::StrCat("no room in the ", name_, " in time"));
        }
      }
    }
    given_up.clear();
    KVLINK_RETURN_IF_ERROR(Grow(grow));
  }
}

void Arena::Trim(absl::Time before) {
  if (transport_ == nullptr) return;
  std::list<Piece> given_up;  // freed without the lock
  MutexLock lock(&mutex_);
  for (auto it = pieces_.begin(); it != pieces_.end();) {
    const auto piece = it++;
    if (piece->used > 0 || piece->idle_since > before) continue;
    bytes_ -= piece->bytes;
    given_up.splice(given_up.end(), pieces_, piece);
  }
}

int64_t Arena::used() const {
  MutexLock lock(&mutex_);
  return used_;
}

int64_t Arena::bytes() const {
  MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace kvlink::store::client
