// Keeps a fixed number of reads or writes in flight: the rate a disk offers to a process that does nothing else.
#include "bench/store/bare_disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::bench {
namespace {

absl::Status Failed(absl::string_view what, int error) {
  return absl::UnavailableError(absl::StrCat("bare io_uring: ", what, ": ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<BareDisk>> BareDisk::Create(const std::string& path, int64_t bytes,
                                                           int64_t memory_bytes) {
  Descriptor fd(open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0644));
  if (fd.get() < 0) return Failed("O_DIRECT", errno);
  std::unique_ptr<BareDisk> disk(new BareDisk(std::move(fd), bytes));
  const int made = io_uring_queue_init(kDepth, &disk->ring_, 0);
  if (made < 0) return Failed("a ring", -made);
  disk->ready_ = true;
  KVLINK_ASSIGN_OR_RETURN(disk->memory_,
                          engine::Mapping::Create({.bytes = memory_bytes, .alignment = int64_t{2} << 20}));
  KVLINK_RETURN_IF_ERROR(disk->memory_->Populate(0, memory_bytes));
  std::memset(disk->memory_->base(), 7, static_cast<size_t>(memory_bytes));
  const iovec vec = {disk->memory_->base(), static_cast<size_t>(memory_bytes)};
  disk->registered_ = io_uring_register_buffers(&disk->ring_, &vec, 1) == 0;
  if (fallocate(disk->fd_.get(), 0, 0, bytes) != 0) return Failed("making room", errno);
  KVLINK_RETURN_IF_ERROR(disk->Write(1));
  return disk;
}

BareDisk::~BareDisk() {
  if (ready_) io_uring_queue_exit(&ring_);
}

absl::Status BareDisk::Flush() { return fdatasync(fd_.get()) == 0 ? absl::OkStatus() : Failed("flushing", errno); }

absl::Status BareDisk::Write(int64_t flushes) {
  const int64_t requests = (bytes_ + kRequest - 1) / kRequest;
  const int64_t each = std::max<int64_t>(1, requests / std::max<int64_t>(1, flushes)) * kRequest;
  for (int64_t at = 0; at < bytes_; at += each) {
    KVLINK_RETURN_IF_ERROR(Transfer(true, at, std::min(each, bytes_ - at)));
    KVLINK_RETURN_IF_ERROR(Flush());
  }
  return absl::OkStatus();
}

absl::Status BareDisk::Transfer(bool write, int64_t offset, int64_t bytes) {
  const int64_t end = offset + bytes;
  int in_flight = 0;
  int failed = 0;
  while ((offset < end && failed == 0) || in_flight > 0) {
    for (; offset < end && in_flight < kDepth && failed == 0; ++in_flight) {
      io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
      std::byte* const data = memory_->base() + slot_;
      slot_ = (slot_ + kRequest) % memory_->bytes();
      const unsigned length = static_cast<unsigned>(std::min(kRequest, end - offset));
      if (registered_) {
        write ? io_uring_prep_write_fixed(sqe, fd_.get(), data, length, offset, 0)
              : io_uring_prep_read_fixed(sqe, fd_.get(), data, length, offset, 0);
      } else {
        write ? io_uring_prep_write(sqe, fd_.get(), data, length, offset)
              : io_uring_prep_read(sqe, fd_.get(), data, length, offset);
      }
      offset += length;
    }
    io_uring_submit_and_wait(&ring_, 1);
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
      if (cqe->res < 0) failed = -cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      --in_flight;
    }
  }
  return failed == 0 ? absl::OkStatus() : Failed(write ? "writing" : "reading", failed);
}

}  // namespace kvlink::bench
