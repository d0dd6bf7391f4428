// As deep as BareDisk, so that both see the same disk.
#include "bench/transfer/disk_feed.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "bench/store/bare_disk.h"

namespace kvlink::bench {
namespace {

absl::Status Failed(absl::string_view what, int error) {
  return absl::UnavailableError(absl::StrCat("disk feed: ", what, ": ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DiskFeed>> DiskFeed::Create(const std::string& path, std::byte* memory, int64_t bytes) {
  Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
  if (file.get() < 0) return Failed("O_DIRECT", errno);
  for (int64_t at = 0; at < bytes; at += BareDisk::kRequest) {
    const int64_t some = std::min(BareDisk::kRequest, bytes - at);
    if (pwrite(file.get(), memory + at, static_cast<size_t>(some), at) != some) return Failed("writing", errno);
  }
  if (fdatasync(file.get()) != 0) return Failed("flushing", errno);
  std::unique_ptr<DiskFeed> feed(new DiskFeed(std::move(file), memory));
  const int made = io_uring_queue_init(BareDisk::kDepth, &feed->ring_, 0);
  if (made < 0) return Failed("a ring", -made);
  feed->ready_ = true;
  const iovec vec = {memory, static_cast<size_t>(bytes)};
  feed->registered_ = io_uring_register_buffers(&feed->ring_, &vec, 1) == 0;
  return feed;
}

DiskFeed::~DiskFeed() {
  if (ready_) io_uring_queue_exit(&ring_);
}

void DiskFeed::Begin(int64_t at, int64_t bytes) {
  at_ = at;
  bytes_ = bytes;
  next_ = in_order_ = 0;
  read_.assign(static_cast<size_t>((bytes + BareDisk::kRequest - 1) / BareDisk::kRequest), false);
}

absl::StatusOr<int64_t> DiskFeed::Poll() {
  const auto requests = static_cast<int64_t>(read_.size());
  bool submit = false;
  for (; next_ < requests && in_flight_ < BareDisk::kDepth; ++next_, ++in_flight_, submit = true) {
    io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
    const int64_t offset = next_ * BareDisk::kRequest;
    const auto length = static_cast<unsigned>(std::min(BareDisk::kRequest, bytes_ - offset));
    if (registered_) {
      io_uring_prep_read_fixed(sqe, file_.get(), memory_ + at_ + offset, length, at_ + offset, 0);
    } else {
      io_uring_prep_read(sqe, file_.get(), memory_ + at_ + offset, length, at_ + offset);
    }
    io_uring_sqe_set_data64(sqe, static_cast<uint64_t>(next_));
  }
  if (submit) io_uring_submit(&ring_);
  io_uring_cqe* cqe = nullptr;
  while (in_flight_ > 0 && io_uring_peek_cqe(&ring_, &cqe) == 0) {
    if (cqe->res < 0) return Failed("reading", -cqe->res);
    read_[static_cast<size_t>(io_uring_cqe_get_data64(cqe))] = true;
    io_uring_cqe_seen(&ring_, cqe);
    --in_flight_;
  }
  while (in_order_ < requests && read_[static_cast<size_t>(in_order_)]) ++in_order_;
  return std::min(in_order_ * BareDisk::kRequest, bytes_);
}

}  // namespace kvlink::bench
