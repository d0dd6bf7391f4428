// Generic calls and reactors, like transport/grpc, so that no message is parsed or serialised twice.
#include "bench/transfer/grpc_ceiling.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "bench/bench_common.h"

namespace kvlink::bench {
namespace {

constexpr int64_t kPiece = int64_t{1} << 20;  // as in transport/grpc
constexpr absl::Duration kPatience = absl::Seconds(30);

struct Ask {
  int64_t at, bytes;
};

// Answers each request with the bytes, one message at a time.
class ServedStream : public grpc::ServerGenericBidiReactor {
 public:
  explicit ServedStream(const std::byte* ring) : ring_(ring) { StartRead(&asked_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    grpc::Slice slice;
    if (!asked_.DumpToSingleSlice(&slice).ok() || slice.size() != sizeof(Ask)) std::exit(1);
    std::memcpy(&ask_, slice.begin(), sizeof(ask_));
    WriteNext();
  }
  void OnWriteDone(bool ok) override {
    if (ok) WriteNext();
  }
  void OnDone() override { delete this; }

 private:
  void WriteNext() {
    if (ask_.bytes == 0) return StartRead(&asked_);
    const int64_t some = std::min(kPiece, ask_.bytes);
    const grpc::Slice slice(ring_ + ask_.at, static_cast<size_t>(some), grpc::Slice::STATIC_SLICE);
    message_ = grpc::ByteBuffer(&slice, 1);
    ask_.at += some;
    ask_.bytes -= some;
    StartWrite(&message_);
  }

  const std::byte* const ring_;
  grpc::ByteBuffer asked_, message_;
  Ask ask_ = {};
};

class Service : public grpc::CallbackGenericService {
 public:
  explicit Service(const std::byte* ring) : ring_(ring) {}
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new ServedStream(ring_);
  }

 private:
  const std::byte* const ring_;
};

class Puller : public Mover, private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Puller(std::string name, const std::string& address, int64_t ring_bytes)
      : name_(std::move(name)),
        ring_(ring_bytes),
        checksums_(RingChecksums(ring_.as<std::byte>(), ring_bytes)),
        place_(ring_bytes),
        stub_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())) {
    stub_.PrepareBidiStreamingCall(&context_, "/bench/Pull", {}, this);
    AddHold();  // requests come from outside the reactor
    StartRead(&arrived_);
    StartCall();
  }
  ~Puller() override {
    context_.TryCancel();
    RemoveHold();
    MutexLock lock(&mutex_);
    while (!over_) changed_.Wait(&mutex_);
  }
  std::string name() const override { return name_; }
  absl::StatusOr<MoveTime> Move(const EncodingShape& shape) override {
    const Ask ask = {place_.Next(shape.bytes()), shape.bytes()};
    {
      MutexLock lock(&mutex_);
      at_ = ask.at;
      slab_bytes_ = shape.slab_bytes;
      there_ = woken_ = 0;
    }
    const double start = Now();
    const absl::Time deadline = SteadyNow() + kPatience;
    const grpc::Slice slice(&ask, sizeof(ask));
    message_ = grpc::ByteBuffer(&slice, 1);
    StartWrite(&message_);
    MoveTime time;
    for (int64_t slab = 0; slab < shape.slabs(); ++slab) {
      {
        MutexLock lock(&mutex_);
        while (there_ < (slab + 1) * shape.slab_bytes && !over_) {
          if (!changed_.WaitUntil(&mutex_, deadline)) return absl::UnavailableError("bare grpc: the slabs do not come");
        }
        if (over_) return absl::UnavailableError("bare grpc: the call has ended");
      }
      const int64_t begin = ask.at + slab * shape.slab_bytes;
      for (int64_t at = begin; at < begin + shape.slab_bytes; at += kTransferUnit) {
        if (Xxh3(ring_.as<std::byte>() + at, kTransferUnit) != checksums_[static_cast<size_t>(at / kTransferUnit)]) {
          return absl::DataLossError(absl::StrCat("bare grpc: a unit at ", at, " arrived wrong"));
        }
      }
      if (slab == 0) time.first = Now() - start;
    }
    time.whole = Now() - start;
    return time;
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    int64_t at = 0;
    {
      MutexLock lock(&mutex_);
      at = at_ + there_;
    }
    std::vector<grpc::Slice> slices;
    if (!arrived_.Dump(&slices).ok()) std::exit(1);
    int64_t bytes = 0;
    for (const grpc::Slice& slice : slices) {
      std::memcpy(ring_.as<std::byte>() + at + bytes, slice.begin(), slice.size());
      bytes += static_cast<int64_t>(slice.size());
    }
    {
      MutexLock lock(&mutex_);
      there_ += bytes;
      if (there_ >= woken_ + slab_bytes_) {
        woken_ = there_ / slab_bytes_ * slab_bytes_;
        changed_.SignalAll();
      }
    }
    StartRead(&arrived_);
  }
  void OnDone(const grpc::Status&) override {
    MutexLock lock(&mutex_);
    over_ = true;
    changed_.SignalAll();
  }

  const std::string name_;
  const Memory ring_;
  const std::vector<uint64_t> checksums_;
  RingPlace place_;
  grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub_;
  grpc::ClientContext context_;
  grpc::ByteBuffer arrived_, message_;
  Mutex mutex_;
  CondVar changed_;
  int64_t at_ ABSL_GUARDED_BY(mutex_) = 0, slab_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t there_ ABSL_GUARDED_BY(mutex_) = 0, woken_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

void ServeGrpcCeiling(int64_t ring_bytes) {
  const Memory ring(ring_bytes);
  FillRing(ring.as<std::byte>(), ring_bytes);
  Service service(ring.as<std::byte>());
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&service);
  const auto server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::fprintf(stderr, "bare grpc: cannot listen\n");
    std::exit(1);
  }
  ServeForever(absl::StrCat("127.0.0.1:", port));
}

absl::StatusOr<std::unique_ptr<Mover>> NewGrpcCeiling(const std::string& name, const std::string& address,
                                                      int64_t ring_bytes) {
  return std::make_unique<Puller>(name, address, ring_bytes);
}

}  // namespace kvlink::bench
