// Requests and answers over transport/ alone, without a store: the cost of its protocol over bare UCX.
#include "bench/transfer/transfer_transport.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/checksum.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "transport/grpc/grpc.h"
#include "transport/ucx/ucx.h"

namespace kvlink::bench {
namespace {

using transport::Connection;
using transport::ConnectionEvents;
using transport::RegisteredBuffer;
using transport::Transport;

constexpr absl::Duration kSendPatience = absl::Seconds(30);

struct TransportAsk {
  int64_t at, layers, slab_bytes;
  uint64_t first_id;
};

class ServedConnection : public ConnectionEvents {
 public:
  ServedConnection(std::shared_ptr<Connection> connection, std::shared_ptr<RegisteredBuffer> ring)
      : connection_(std::move(connection)), ring_(std::move(ring)) {}
  void OnMessage(absl::string_view message) override {
    TransportAsk ask;
    if (message.size() != sizeof(ask)) std::exit(1);
    std::memcpy(&ask, message.data(), sizeof(ask));
    for (int64_t i = 0; i < ask.layers; ++i) {
      connection_->Send(ask.first_id + static_cast<uint64_t>(i), {ring_, ask.at + i * ask.slab_bytes, ask.slab_bytes},
                        SteadyNow() + kSendPatience, [](const absl::Status&) {});
    }
  }
  void OnClosed(const absl::Status&) override { std::exit(0); }

 private:
  const std::shared_ptr<Connection> connection_;
  const std::shared_ptr<RegisteredBuffer> ring_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> CarrierNamed(const std::string& name) {
  if (name == "ucx") return transport::NewUcxTransport({});
  if (name == "grpc") return transport::NewGrpcTransport({});
  return absl::InvalidArgumentError(absl::StrCat("no carrier ", name));
}

void ServeTransport(const std::string& carrier, int64_t ring_bytes) {
  const auto fail = [](const absl::Status& status) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    std::exit(1);
  };
  auto transport = CarrierNamed(carrier);
  if (!transport.ok()) fail(transport.status());
  auto ring = (*transport)->Allocate(ring_bytes);
  if (!ring.ok()) fail(ring.status());
  FillRing((*ring)->data(), ring_bytes);
  const auto listener = (*transport)->Listen("127.0.0.1:0", [ring = *ring](std::shared_ptr<Connection> connection) {
    return std::make_shared<ServedConnection>(std::move(connection), ring);
  });
  if (!listener.ok()) fail(listener.status());
  ServeForever((*listener)->address());
}

class TransportReader {
 public:
  TransportReader(std::string name, std::unique_ptr<Transport> transport, std::shared_ptr<RegisteredBuffer> ring)
      : name_(std::move(name)),
        transport_(std::move(transport)),
        ring_(std::move(ring)),
        checksums_(RingChecksums(ring_->data(), ring_->size())),
        place_(ring_->size()) {}
  void set_connection(std::shared_ptr<Connection> connection) { connection_ = std::move(connection); }
  Transport* transport() { return transport_.get(); }
  const std::string& name() const { return name_; }

  absl::StatusOr<MoveTime> Move(const EncodingShape& shape, bool verify) {
    const TransportAsk ask = {place_.Next(shape.bytes()), shape.slabs(), shape.slab_bytes, next_id_};
    next_id_ += static_cast<uint64_t>(shape.slabs());
    const double start = Now();
    const absl::Time deadline = SteadyNow() + kSendPatience;
    {
      MutexLock lock(&mutex_);
      arrivals_.clear();
      wake_at_ = verify ? 1 : static_cast<size_t>(shape.slabs());
    }
    for (int64_t i = 0; i < shape.slabs(); ++i) {
      connection_->PostReceive(ask.first_id + static_cast<uint64_t>(i),
                               {ring_, ask.at + i * shape.slab_bytes, shape.slab_bytes}, deadline,
                               [this, i](const absl::Status& status, int64_t) {
                                 MutexLock lock(&mutex_);
                                 arrivals_.push_back({i, status, Now()});
                                 if (arrivals_.size() >= wake_at_) changed_.Signal();
                               });
    }
    KVLINK_RETURN_IF_ERROR(
        connection_->SendMessage(absl::string_view(reinterpret_cast<const char*>(&ask), sizeof(ask))));
    MoveTime time;
    for (size_t n = 0; n < static_cast<size_t>(shape.slabs()); ++n) {
      const Arrival arrival = WaitFor(n, verify);
      KVLINK_RETURN_IF_ERROR(arrival.status);
      if (verify) KVLINK_RETURN_IF_ERROR(Verify(ask.at + arrival.layer * shape.slab_bytes, shape.slab_bytes));
      if (arrival.layer == 0) time.first = (verify ? Now() : arrival.when) - start;
    }
    time.whole = Now() - start;
    return time;
  }

 private:
  struct Arrival {
    int64_t layer;
    absl::Status status;
    double when;
  };
  // The `n`-th arrival. A reader that does not look at layers is woken when all have arrived.
  Arrival WaitFor(size_t n, bool verify) {
    MutexLock lock(&mutex_);
    while (arrivals_.size() < (verify ? n + 1 : wake_at_)) changed_.Wait(&mutex_);
    return arrivals_[n];
  }
  absl::Status Verify(int64_t at, int64_t bytes) const {
    for (const int64_t end = at + bytes; at < end; at += kTransferUnit) {
      if (Xxh3(ring_->data() + at, kTransferUnit) != checksums_[static_cast<size_t>(at / kTransferUnit)]) {
        return absl::DataLossError(absl::StrCat("a unit at ", at, " arrived wrong"));
      }
    }
    return absl::OkStatus();
  }

  const std::string name_;
  const std::unique_ptr<Transport> transport_;
  const std::shared_ptr<RegisteredBuffer> ring_;
  const std::vector<uint64_t> checksums_;
  RingPlace place_;
  uint64_t next_id_ = 1;
  std::shared_ptr<Connection> connection_;
  Mutex mutex_;
  CondVar changed_;
  size_t wake_at_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Arrival> arrivals_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::shared_ptr<TransportReader>> ConnectTransport(const std::string& carrier,
                                                                  const std::string& address, int64_t ring_bytes) {
  KVLINK_ASSIGN_OR_RETURN(auto transport, CarrierNamed(carrier));
  KVLINK_ASSIGN_OR_RETURN(auto ring, transport->Allocate(ring_bytes));
  auto reader = std::make_shared<TransportReader>(carrier, std::move(transport), std::move(ring));
  class Events : public ConnectionEvents {
    void OnMessage(absl::string_view) override {}
    void OnClosed(const absl::Status&) override {}
  };
  KVLINK_ASSIGN_OR_RETURN(
      auto connection, reader->transport()->Connect(address, std::make_shared<Events>(), SteadyNow() + kSendPatience));
  reader->set_connection(std::move(connection));
  return reader;
}

namespace {

class TransportMover : public Mover {
 public:
  TransportMover(std::shared_ptr<TransportReader> reader, bool verify) : reader_(std::move(reader)), verify_(verify) {}
  std::string name() const override {
    return absl::StrCat("transport over ", reader_->name(), verify_ ? ", verified" : "");
  }
  absl::StatusOr<MoveTime> Move(const EncodingShape& shape) override { return reader_->Move(shape, verify_); }

 private:
  const std::shared_ptr<TransportReader> reader_;
  const bool verify_;
};

}  // namespace

std::unique_ptr<Mover> NewTransportMover(std::shared_ptr<TransportReader> reader, bool verify) {
  return std::make_unique<TransportMover>(std::move(reader), verify);
}

}  // namespace kvlink::bench
