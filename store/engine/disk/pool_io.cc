// The bounded thread pool used if io_uring is not permitted, and the choice between the two.
#include <optional>
#include <utility>

#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "store/engine/disk/bulk_io.h"

namespace kvlink::engine {
namespace {

class PoolIo : public BulkIo {
 public:
  PoolIo(const IoLimits& limits, std::string reason) : reason_(std::move(reason)), queue_(limits) {
    for (int i = 0; i < limits.all; ++i) threads_.emplace_back("io-pool", [this] { Work(); });
  }
  ~PoolIo() override {
    {
      MutexLock lock(&mutex_);
      stop_ = true;
      wake_.SignalAll();
    }
    for (Thread& thread : threads_) thread.Join();
  }

  void Submit(std::vector<IoRequest> requests) override {
    MutexLock lock(&mutex_);
    for (IoRequest& request : requests) {
      const bool bulk = IsBulk(request), first = request.first;
      queue_.Push(std::move(request), bulk, first);
    }
    wake_.SignalAll();
  }
  Depths depths() const override {
    MutexLock lock(&mutex_);
    return DepthsOf(queue_);
  }
  std::string Describe() const override {
    return absl::StrCat("pread/pwrite on ", threads_.size(), " threads (", reason_, ")");
  }

 private:
  void Work() {
    for (;;) {
      std::optional<IoRequest> request;
      {
        MutexLock lock(&mutex_);
        while (!(request = queue_.Next()).has_value()) {
          if (stop_ && queue_.idle()) return;
          wake_.Wait(&mutex_);
        }
      }
      File* const file = request->file.get();
      const bool bulk = IsBulk(*request);
      request->done(request->write ? file->Write(request->offset, absl::MakeConstSpan(request->data, request->length))
                                   : file->Read(request->offset, absl::MakeSpan(request->data, request->length)));
      MutexLock lock(&mutex_);
      queue_.Ended(bulk);
      wake_.SignalAll();  // bulk requests may have waited for a read to end
    }
  }

  const std::string reason_;
  mutable Mutex mutex_;
  CondVar wake_;
  IoQueue<IoRequest> queue_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Thread> threads_;
};

}  // namespace

std::unique_ptr<BulkIo> NewPoolIo(const IoLimits& limits, std::string reason) {
  return std::make_unique<PoolIo>(limits, std::move(reason));
}

std::unique_ptr<BulkIo> NewBulkIo(const BulkIoOptions& options) {
  if (!options.allow_uring) return NewPoolIo(options.pool, "io_uring is switched off");
  auto uring = NewUringIo(options.uring);
  if (uring.ok()) return *std::move(uring);
  return NewPoolIo(options.pool, std::string(uring.status().message()));
}

}  // namespace kvlink::engine
