// A request ends at the end of a run, of a chunk of registered memory, or at the maximum size. Bytes that follow on
// both in memory and on disk extend the previous request, across pieces.
#include "store/engine/request_cutter.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace kvlink::engine {

RequestCutter::RequestCutter(SegmentFiles* segments, Runs runs, int64_t chunk_bytes, bool write, Done done)
    : segments_(segments),
      runs_(std::move(runs)),
      chunk_bytes_(chunk_bytes),
      max_bytes_(write ? kWriteBytes : kReadBytes),
      write_(write),
      done_(std::make_shared<const Done>(std::move(done))) {}

absl::Status RequestCutter::EnterRun() {
  if (run_ < runs_.size() && in_run_ == int64_t{runs_[run_].count} * kSegmentBlockBytes) {
    ++run_;
    in_run_ = 0;
  }
  return run_ < runs_.size() ? absl::OkStatus() : absl::DataLossError("the location record has too few blocks");
}

absl::Status RequestCutter::Skip(int64_t bytes) {
  while (bytes > 0) {
    KVLINK_RETURN_IF_ERROR(EnterRun());
    const int64_t length = std::min(bytes, int64_t{runs_[run_].count} * kSegmentBlockBytes - in_run_);
    in_run_ += length;
    position_ += length;
    bytes -= length;
  }
  return absl::OkStatus();
}

absl::Status RequestCutter::Add(absl::Span<std::byte> piece) {
  while (!piece.empty()) {
    KVLINK_RETURN_IF_ERROR(EnterRun());
    int64_t file_offset = 0;
    auto located = segments_->Locate(runs_[run_].first, &file_offset);
    if (absl::IsNotFound(located.status())) {
      return absl::DataLossError("the location record names a segment that is not there");
    }
    KVLINK_RETURN_IF_ERROR(located.status());
    const std::shared_ptr<File> file = *std::move(located);
    file_offset += in_run_;
    // Not beyond the run, nor beyond the chunk of registered memory.
    const int64_t in_chunk = static_cast<int64_t>(reinterpret_cast<uintptr_t>(piece.data()) % chunk_bytes_);
    const int64_t length =
        std::min({static_cast<int64_t>(piece.size()), int64_t{runs_[run_].count} * kSegmentBlockBytes - in_run_,
                  max_bytes_, chunk_bytes_ - in_chunk});
    IoRequest* const last = requests_.empty() ? nullptr : &requests_.back();
    const bool joins = last != nullptr && last->file == file && last->offset + last->length == file_offset &&
                       last->data + last->length == piece.data() && last->length + length <= max_bytes_ &&
                       in_chunk != 0;
    if (joins) {
      last->length += length;
    } else {
      start_ = position_;
      requests_.push_back(
          {.file = file, .write = write_, .offset = file_offset, .data = piece.data(), .length = length});
    }
    IoRequest& request = requests_.back();
    request.done = [done = done_, start = start_, bytes = request.length](const absl::Status& status) {
      (*done)(start, bytes, status);
    };
    piece.remove_prefix(length);
    in_run_ += length;
    position_ += length;
  }
  return absl::OkStatus();
}

std::vector<IoRequest> RequestCutter::Take(bool all) {
  std::vector<IoRequest> taken = std::exchange(requests_, {});
  if (!all && !taken.empty()) {
    requests_.push_back(std::move(taken.back()));
    taken.pop_back();
  }
  return taken;
}

}  // namespace kvlink::engine
