#include "store/client/data/arena.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/slab.h"
#include "base/status.h"

namespace kvlink::store {
namespace {

int64_t Rounded(int64_t length) { return (length + kSlabAlignment - 1) / kSlabAlignment * kSlabAlignment; }

}  // namespace

// What a slice's buffer owns.
struct Arena::Range {
  Range(std::shared_ptr<Arena> arena, std::shared_ptr<transport::RegisteredBuffer> buffer, int64_t offset,
        int64_t length)
      : arena(std::move(arena)), buffer(std::move(buffer)), offset(offset), length(length) {}
  ~Range() { arena->Give(offset, length); }
  const std::shared_ptr<Arena> arena;
  const std::shared_ptr<transport::RegisteredBuffer> buffer;
  const int64_t offset, length;
};

Arena::Arena(std::shared_ptr<transport::RegisteredBuffer> buffer, std::string name)
    : transport_(nullptr), bytes_(buffer->size()), name_(std::move(name)), buffer_(std::move(buffer)) {
  free_[0] = bytes_ / kSlabAlignment * kSlabAlignment;
}

absl::Status Arena::Prepare() {
  if (buffer_ != nullptr) return absl::OkStatus();
  auto buffer = transport_->Allocate(Rounded(bytes_));
  if (!buffer.ok()) return Annotate(buffer.status(), name_);
  buffer_ = *std::move(buffer);
  free_[0] = Rounded(bytes_);
  return absl::OkStatus();
}

std::optional<int64_t> Arena::Allocate(int64_t length) {
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < length) continue;
    const int64_t offset = it->first, left = it->second - length;
    free_.erase(it);
    if (left > 0) free_[offset + length] = left;
    used_ += length;
    return offset;
  }
  return std::nullopt;
}

void Arena::Free(int64_t offset, int64_t length) {
  used_ -= length;
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && offset + length == next->first) {
    length += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += length;
      return;
    }
  }
  free_[offset] = length;
}

void Arena::Give(int64_t offset, int64_t length) {
  MutexLock lock(&mutex_);
  Free(offset, length);
  freed_.SignalAll();
}

transport::Slice Arena::SliceOf(int64_t offset, int64_t length) {
  auto range = std::make_shared<Range>(shared_from_this(), buffer_, offset, Rounded(length));
  transport::RegisteredBuffer* const buffer = buffer_.get();
  return {std::shared_ptr<transport::RegisteredBuffer>(std::move(range), buffer), offset, length};
}

absl::StatusOr<std::vector<transport::Slice>> Arena::Take(absl::Span<const int64_t> lengths) {
  std::vector<std::pair<int64_t, int64_t>> taken;  // offset, length
  std::vector<transport::Slice> slices(lengths.size());
  MutexLock lock(&mutex_);
  KVLINK_RETURN_IF_ERROR(Prepare());
  for (size_t i = 0; i < lengths.size(); ++i) {
    taken.emplace_back(0, Rounded(lengths[i]));
    if (lengths[i] == 0) continue;
    const std::optional<int64_t> offset = Allocate(taken.back().second);
    if (!offset.has_value()) {
      taken.pop_back();
      for (const auto& [at, length] : taken) {
        if (length > 0) Free(at, length);
      }
      return absl::ResourceExhaustedError(
          absl::StrCat("the ", name_, " of ", bytes_, " bytes is full of encodings in use: ", used_, " bytes"));
    }
    taken.back().first = *offset;
  }
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] > 0) slices[i] = SliceOf(taken[i].first, lengths[i]);
  }
  return slices;
}

absl::StatusOr<transport::Slice> Arena::TakeOne(int64_t length, absl::Time deadline) {
  MutexLock lock(&mutex_);
  KVLINK_RETURN_IF_ERROR(Prepare());
  if (length > bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a slab of ", length, " bytes does not fit into the ", name_, " of ", bytes_, " bytes"));
  }
  while (true) {
    if (const std::optional<int64_t> offset = Allocate(Rounded(length))) return SliceOf(*offset, length);
    if (!freed_.WaitUntil(&mutex_, deadline)) {
      return absl::DeadlineExceededError(absl::StrCat("no room in the ", name_, " in time"));
    }
  }
}

int64_t Arena::used() const {
  MutexLock lock(&mutex_);
  return used_;
}

}  // namespace kvlink::store
