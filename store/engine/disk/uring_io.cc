// Segment I/O through io_uring. One thread reaps completions; the submitting thread fills the submission queue.
//
// All fields of a request are accessed under mutex_, by the submitter before it enters the ring and by the reaper after
// it has left. This gives ThreadSanitizer the happens-before that the kernel's ring provides but it cannot see.
#include <liburing.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "store/engine/disk/bulk_io.h"

namespace kvlink::engine {
namespace {

constexpr uint64_t kWake = UINT64_MAX;
constexpr int kMaxChunks = 16384;  // the kernel's limit
constexpr int64_t kRetryNanoseconds = 250'000'000;

class UringIo : public BulkIo {
 public:
  static absl::StatusOr<std::unique_ptr<BulkIo>> Open(const IoLimits& limits) {
    std::unique_ptr<UringIo> io(new UringIo(limits));
    const int error = io_uring_queue_init(2 * limits.all, &io->ring_, 0);
    if (error < 0) {
      return absl::UnavailableError(absl::StrCat("io_uring is not permitted here: ", std::strerror(-error)));
    }
    io->started_ = true;
    io->reaper_ = Thread("io-reap", [raw = io.get()] { raw->Reap(); });
    return std::unique_ptr<BulkIo>(std::move(io));
  }

  ~UringIo() override {
    if (!started_) return;
    {
      MutexLock lock(&mutex_);
      while (!queue_.idle()) idle_.Wait(&mutex_);
      io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
      io_uring_prep_nop(sqe);
      sqe->user_data = kWake;
      io_uring_submit(&ring_);
    }
    reaper_.Join();
    io_uring_queue_exit(&ring_);
  }

  void Submit(std::vector<IoRequest> requests) override {
    std::vector<std::pair<IoRequest, absl::Status>> refused;
    {
      MutexLock lock(&mutex_);
      for (IoRequest& request : requests) {
        Slot slot;
        slot.request = std::move(request);
        const absl::Status status = Observe(&slot);
        if (status.ok()) {
          const bool bulk = IsBulk(slot.request), first = slot.request.first;
          queue_.Push(std::move(slot), bulk, first);
        } else {
          refused.emplace_back(std::move(slot.request), status);
        }
      }
      Pump();
    }
    for (auto& [request, status] : refused) request.done(status);
  }

  void DeclareMemory(int64_t chunk_bytes, int chunks) override {
    MutexLock lock(&mutex_);
    if (chunks > kMaxChunks) {
      registration_error_ = "memory has too many chunks";
      return;
    }
    const int error = chunks > 0 ? io_uring_register_buffers_sparse(&ring_, chunks) : 0;
    if (error < 0) {
      registration_error_ = std::strerror(-error);
      return;
    }
    chunk_bytes_ = chunk_bytes;
    addresses_.assign(chunks, 0);
  }

  void ChunkReady(int number, std::byte* data) override {
    MutexLock lock(&mutex_);
    if (number >= static_cast<int>(addresses_.size())) return;
    const int updated = Register(number, {data, static_cast<size_t>(chunk_bytes_)});
    if (updated == 1) {
      addresses_[number] = reinterpret_cast<uintptr_t>(data);
      registered_[addresses_[number]] = number;
    } else if (registration_error_.empty()) {
      registration_error_ = std::strerror(updated < 0 ? -updated : EINVAL);
    }
  }

  void ChunkLeaves(int number) override {
    MutexLock lock(&mutex_);
    if (number >= static_cast<int>(addresses_.size()) || addresses_[number] == 0) return;
    registered_.erase(addresses_[number]);
    addresses_[number] = 0;
    Register(number, {nullptr, 0});
  }

  Depths depths() const override {
    MutexLock lock(&mutex_);
    return DepthsOf(queue_);
  }

  std::string Describe() const override {
    MutexLock lock(&mutex_);
    if (registration_error_.empty()) return "io_uring";
    return absl::StrCat("io_uring without registered memory (", registration_error_, ")");
  }

 private:
  struct Slot {
    IoRequest request;
    int64_t done_bytes = 0;
    uint64_t observed = 0;
  };

  explicit UringIo(const IoLimits& limits) : slots_(limits.all), queue_(limits) {
    for (int i = limits.all - 1; i >= 0; --i) free_.push_back(i);
  }

  static absl::Status Observe(Slot* slot) {
    const IoRequest& request = slot->request;
    IoObserver* const observer = request.file->observer();
    if (observer == nullptr) return absl::OkStatus();
    if (!request.write) return observer->ReadStarted(request.file->path(), request.offset, request.length);
    KVLINK_ASSIGN_OR_RETURN(slot->observed, observer->WriteStarted(request.file->path(), request.offset,
                                                                   absl::MakeConstSpan(request.data, request.length)));
    return absl::OkStatus();
  }

  int Register(int number, iovec memory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    __u64 tag = 0;
    return io_uring_register_buffers_update_tag(&ring_, number, &memory, &tag, 1);
  }

  // The registered chunk that contains the whole range, or -1.
  int ChunkOf(const std::byte* data, int64_t length) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (registered_.empty()) return -1;
    const uintptr_t address = reinterpret_cast<uintptr_t>(data);
    const uintptr_t start = address - address % static_cast<uintptr_t>(chunk_bytes_);
    if (address + length > start + chunk_bytes_) return -1;
    const auto it = registered_.find(start);
    return it != registered_.end() ? it->second : -1;
  }

  void Prepare(int index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Slot& slot = slots_[index];
    const IoRequest& request = slot.request;
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);  // never null: the ring has twice the depth
    std::byte* data = request.data + slot.done_bytes;
    const int64_t offset = request.offset + slot.done_bytes;
    const int64_t length = request.length - slot.done_bytes;
    const int chunk = ChunkOf(data, length);
    const int fd = request.file->fd();
    if (request.write) {
      chunk >= 0 ? io_uring_prep_write_fixed(sqe, fd, data, length, offset, chunk)
                 : io_uring_prep_write(sqe, fd, data, length, offset);
    } else {
      chunk >= 0 ? io_uring_prep_read_fixed(sqe, fd, data, length, offset, chunk)
                 : io_uring_prep_read(sqe, fd, data, length, offset);
    }
    sqe->user_data = index;
  }

  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    bool any = false;
    while (std::optional<Slot> slot = queue_.Next()) {
      const int index = free_.back();  // the queue starts no more than there are slots
      free_.pop_back();
      slots_[index] = *std::move(slot);
      Prepare(index);
      any = true;
    }
    if (any) SubmitRing();
  }

  void SubmitRing() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    // On EINTR and EAGAIN the entries stay in the ring.
    for (int tries = 0; io_uring_sq_ready(&ring_) > 0 && tries < 1000; ++tries) io_uring_submit(&ring_);
  }

  // Records one completion. Returns true if the request is finished, with its outcome in `finished`.
  bool Complete(int index, int result, std::vector<std::pair<IoRequest, absl::Status>>* finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Slot& slot = slots_[index];
    const IoRequest& request = slot.request;
    absl::Status status;
    if (result > 0) {
      slot.done_bytes += result;
    } else if (result == 0) {
      status = request.file->EndsBefore(request.write ? "write" : "read", request.offset + slot.done_bytes);
    } else if (result != -EINTR && result != -EAGAIN) {
      status = ErrnoStatus(-result, request.write ? "write" : "read", request.file->path());
    }
    if (status.ok() && slot.done_bytes < request.length) {
      Prepare(index);
      return false;
    }
    if (status.ok() && request.write && request.file->observer() != nullptr) {
      request.file->observer()->WriteEnded(slot.observed);
    }
    queue_.Ended(IsBulk(request));
    finished->emplace_back(std::move(slot.request), status);
    slot = Slot();
    free_.push_back(index);
    return true;
  }

  // The kernel may have refused entries for lack of memory (SubmitRing) with no completion pending that would trigger a
  // retry. So it waits with a timeout, if the kernel supports that without an extra entry.
  int WaitForCompletion(io_uring_cqe** cqe) {
    if ((ring_.features & IORING_FEAT_EXT_ARG) == 0) return io_uring_wait_cqe(&ring_, cqe);
    __kernel_timespec wait{.tv_sec = 0, .tv_nsec = kRetryNanoseconds};
    const int error = io_uring_wait_cqe_timeout(&ring_, cqe, &wait);
    if (error != -ETIME) return error;
    MutexLock lock(&mutex_);
    SubmitRing();
    return -EAGAIN;
  }

  void Reap() {
    std::vector<std::pair<IoRequest, absl::Status>> finished;
    bool stopping = false;
    for (;;) {
      io_uring_cqe* cqe = nullptr;
      const int error = WaitForCompletion(&cqe);
      if (error == -EINTR || error == -EAGAIN) continue;
      {
        MutexLock lock(&mutex_);
        bool again = false;
        while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
          const uint64_t index = cqe->user_data;
          const int result = cqe->res;
          io_uring_cqe_seen(&ring_, cqe);
          if (index == kWake) {
            stopping = true;
          } else {
            again |= !Complete(static_cast<int>(index), result, &finished);
          }
        }
        if (again) SubmitRing();
        Pump();
        if (queue_.idle()) idle_.SignalAll();
      }
      for (auto& [request, status] : finished) request.done(status);
      finished.clear();
      if (!stopping) continue;
      // Callbacks may have submitted more, such as retries of failed reads.
      MutexLock lock(&mutex_);
      if (queue_.idle()) return;
    }
  }

  bool started_ = false;
  Thread reaper_;
  mutable Mutex mutex_;
  CondVar idle_;
  // The submission side is used under mutex_, the completion side by the reaper only.
  io_uring ring_{};
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> free_ ABSL_GUARDED_BY(mutex_);
  IoQueue<Slot> queue_ ABSL_GUARDED_BY(mutex_);
  int64_t chunk_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<uintptr_t> addresses_ ABSL_GUARDED_BY(mutex_);  // of registered chunks, by number; 0: none
  absl::flat_hash_map<uintptr_t, int> registered_ ABSL_GUARDED_BY(mutex_);
  std::string registration_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<BulkIo>> NewUringIo(const IoLimits& limits) { return UringIo::Open(limits); }

}  // namespace kvlink::engine
