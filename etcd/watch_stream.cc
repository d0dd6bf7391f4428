// gRPC allows operations from outside its callbacks only while the call has a hold. The hold is removed when a read
// fails, which every end of the call causes; gRPC then reports how the call ended, and is done.
#include "etcd/watch_stream.h"

#include <utility>

#include "transport/grpc/status.h"

namespace kvlink::etcd {

WatchStream::~WatchStream() {
  {
    MutexLock lock(&mutex_);
    if (!started_) return;
  }
  context_.TryCancel();
  ReleasableMutexLock lock(&mutex_);
  // Takes unclaimed answers, so that reading continues to its end.
  while (!done_.has_value()) {
    if (std::exchange(arrived_, false)) {
      lock.Release();
      StartRead(&read_);
      lock.Reacquire();
      continue;
    }
    changed_.Wait(&mutex_);
  }
}

void WatchStream::Start(etcdserverpb::Watch::Stub* stub, Request first) {
  written_ = std::move(first);
  {
    MutexLock lock(&mutex_);
    started_ = writing_ = true;
  }
  stub->async()->Watch(&context_, this);
  AddHold();
  StartWrite(&written_);
  StartRead(&read_);
  StartCall();
}

void WatchStream::AskProgress() {
  {
    MutexLock lock(&mutex_);
    if (failed_ || writing_) return;
    writing_ = true;
    AddHold();  // reading may fail before the write begins
  }
  written_.Clear();
  written_.mutable_progress_request();
  StartWrite(&written_);
  RemoveHold();
}

absl::StatusOr<std::optional<WatchStream::Response>> WatchStream::Next(absl::Time deadline) {
  std::optional<Response> response;
  {
    MutexLock lock(&mutex_);
    while (!arrived_) {
      if (done_.has_value()) {
        return done_->ok() ? absl::UnavailableError("the stream ended") : transport::FromGrpc(*done_);
      }
      if (!changed_.WaitUntil(&mutex_, deadline) && !arrived_ && !done_.has_value()) return response;
    }
    arrived_ = false;
    response = std::move(read_);
  }
  read_.Clear();
  StartRead(&read_);
  return response;
}

void WatchStream::OnReadDone(bool ok) {
  {
    MutexLock lock(&mutex_);
    arrived_ = ok;
    failed_ = !ok;
    changed_.SignalAll();
    if (ok) return;
  }
  RemoveHold();
}

void WatchStream::OnWriteDone(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
}

void WatchStream::OnDone(const grpc::Status& status) {
  MutexLock lock(&mutex_);
  done_ = status;
  changed_.SignalAll();
}

}  // namespace kvlink::etcd
