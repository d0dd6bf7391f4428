// Requests that our clients never send, written message by message over a connection of the transport.
#include "bench/store/hostile_tenants.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "bench/store/isolation.h"
#include "bench/transfer/transfer.h"
#include "proto/data.h"
#include "store/client/control/control.h"
#include "transport/ucx/ucx.h"

namespace kvlink::bench::isolation {
namespace {

constexpr int kPushers = 4, kReaders = 4;  // per process, at a time
constexpr int kConnections = 16;           // of a tenant that takes all it can
constexpr absl::Duration kPause = absl::Milliseconds(10);
constexpr absl::Duration kAgain = absl::Milliseconds(100);  // until a refused request is repeated

// Fills in the request with this number.
using Fill = std::function<void(proto::Request* request, uint64_t number)>;

// A connection that begins requests and never completes them.
class Abandoned : public transport::ConnectionEvents {
 public:
  // As many as a connection may have.
  explicit Abandoned(int wanted) : wanted_(wanted) {}
  void Dial(transport::Transport* transport, const std::string& address, const std::string& token) {
    connection_ = Must(transport->Connect(address, Self(), Soon()));
    proto::Request hello;
    hello.mutable_hello()->set_token(token);
    if (!Send(std::move(hello))) Die("the node does not take a hello");
  }
  // Begins requests until `wanted_` of them are open.
  void TopUp(const Fill& fill) {
    while (open() < wanted_) {
      proto::Request request;
      fill(&request, last_id_ + 1);
      if (!Send(std::move(request))) return;
    }
  }
  void OnMessage(absl::string_view message) override {
    const auto answer = ParseAnswer(message);
    if (!answer.ok()) Die(answer.status().message());
    const bool ended = answer->code() != 0 || answer->has_welcome() || answer->has_pull_done();
    MutexLock lock(&mutex_);
    if (ended) open_.erase(answer->id());
    if (answer->has_push_ready() || answer->has_pull_started()) begun_ = true;
  }
  void OnClosed(const absl::Status& why) override { Die(why.message()); }
  bool begun() {
    MutexLock lock(&mutex_);
    return begun_;
  }

 private:
  // The transport shares ownership of something that lives as long as the process.
  std::shared_ptr<transport::ConnectionEvents> Self() {
    return std::shared_ptr<transport::ConnectionEvents>(std::shared_ptr<void>(), this);
  }
  int open() {
    MutexLock lock(&mutex_);
    return static_cast<int>(open_.size());
  }
  // False: the network has not accepted earlier messages.
  bool Send(proto::Request request) {
    request.set_id(++last_id_);
    request.set_remaining_ms(600000);
    {
      MutexLock lock(&mutex_);
      open_.insert(last_id_);
    }
    const absl::Status sent = connection_->SendMessage(SerializeRequest(request));
    if (sent.ok()) return true;
    if (!absl::IsResourceExhausted(sent)) Die(sent.message());
    MutexLock lock(&mutex_);
    open_.erase(last_id_);
    return false;
  }

  const int wanted_;
  std::shared_ptr<transport::Connection> connection_;
  uint64_t last_id_ = 0;
  Mutex mutex_;
  std::set<uint64_t> open_ ABSL_GUARDED_BY(mutex_);
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;  // one of them
};

// Connections of a session of the hostile tenant, over UCX.
class AbandonedConnections {
 public:
  AbandonedConnections(const std::string& address, int wanted)
      : retries_(&budget_, &counters_),
        control_({address, std::string(kHostileKey), "hostile", {}}, &timer_, &retries_, &counters_),
        transport_(Must(transport::NewUcxTransport({}))) {
    const store::client::OpenedSession session = Must(control_.Session(Soon()));
    for (const std::string& data : session.data) {
      absl::string_view host_and_port = data;
      if (!absl::ConsumePrefix(&host_and_port, "ucx://")) continue;
      for (int i = 0; i < kConnections; ++i) {
        connections_.push_back(std::make_unique<Abandoned>(wanted));
        connections_.back()->Dial(transport_.get(), std::string(host_and_port), session.token);
      }
    }
    if (connections_.empty()) Die("the node does not serve UCX");
  }
  // Runs forever; calls `begun` once the first request is open.
  [[noreturn]] void KeepUp(const Fill& fill, const std::function<void()>& begun) {
    bool told = false;
    while (true) {
      for (const auto& connection : connections_) {
        connection->TopUp(fill);
        if (!told && connection->begun()) {
          begun();
          told = true;
        }
      }
      absl::SleepFor(kAgain);
    }
  }

 private:
  store::client::ClientCounters counters_;
  store::client::Timer timer_;
  store::client::RetryBudget budget_;
  store::client::RetryPolicy retries_;
  store::client::Control control_;
  std::unique_ptr<transport::Transport> transport_;
  std::vector<std::unique_ptr<Abandoned>> connections_;
};

Manifest AManifest() {
  const Memory memory(kEncodingBytes);
  return Slabs(memory.as<std::byte>()).manifest;
}

void Say(const char* line) {
  std::printf("%s\n", line);
  std::fflush(stdout);
}

// Leases all encodings of the set, again and again, until each of the connections is refused; refused requests are
// repeated.
void HoldLeases(const std::string& address, const Manifest& manifest) {
  std::vector<std::unique_ptr<store::client::RemoteStore>> stores;
  for (int i = 0; i < kConnections; ++i)
    stores.push_back(Connect(address, kHostileKey, store::client::Carrier::kMapped));
  std::vector<std::unique_ptr<store::Lease>> held;
  while (true) {
    for (const auto& store : stores) {
      bool refused = false;
      for (int i = kLarge.first; i < kLarge.first + kLarge.count; ++i) {
        const Manifest wanted = Named(manifest, static_cast<uint64_t>(i));
        auto lease = store->Read(kLarge.ns, wanted.identity, wanted.codec, wanted.etag, Soon());
        refused = refused || !lease.ok();
        if (lease.ok()) held.push_back(*std::move(lease));
      }
      if (refused) absl::SleepFor(kAgain);
    }
  }
}

}  // namespace

void Push(const std::string& address) {
  BeNice();
  const auto store = Connect(address, kHostileKey);
  const auto memory = Must(store->AllocateSlabs(kEncodingBytes));
  const Slabs slabs(memory->data());
  std::vector<std::thread> pushers;
  for (uint64_t pusher = 0; pusher < kPushers; ++pusher) {
    pushers.emplace_back([&, pusher] {
      for (auto next = static_cast<uint64_t>(absl::GetCurrentTimeNanos()) * kPushers + pusher;; next += kPushers) {
        const auto put = store->Put(kPushed, Named(slabs.manifest, next), slabs.spans, absl::InfiniteFuture());
        if (!absl::IsResourceExhausted(put.status())) MustBe(put.status());
      }
    });
  }
  ServeForever("pushing");
}

void WriteFile(const std::string& path) {
  BeNice();
  constexpr int64_t kRequest = int64_t{2} << 20, kRequests = 300;
  const int file = open(path.c_str(), O_CREAT | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);
  const Memory memory(kRequest);
  std::thread writer([&] {
    for (int64_t i = 0;; ++i) {
      if (pwrite(file, memory.as<>(), kRequest, i % kRequests * kRequest) != kRequest) Die("writing a file");
    }
  });
  ServeForever("writing");
}

void ReadMuch(const std::string& address) {
  BeNice();
  const auto store = Connect(address, kHostileKey);
  const Manifest manifest = AManifest();
  std::atomic<int64_t> reads{0};
  std::vector<std::thread> readers;
  for (int reader = 0; reader < kReaders; ++reader) {
    readers.emplace_back([&, reader] {
      const int part = kLarge.count / kReaders;
      Reader of(store.get(), {kLarge.ns, kLarge.first + reader * part, part}, manifest);
      while (true) {
        const auto from = of.Read();
        if (!absl::IsResourceExhausted(from.status())) MustBe(from.status());
        ++reads;
      }
    });
  }
  while (reads < 2 * kLarge.count) absl::SleepFor(kPause);  // until the tier is full
  ServeForever("reading");
}

void LeaseAll(const std::string& address) {
  BeNice();
  const Manifest manifest = AManifest();
  AbandonedConnections pulls(address, 64);
  std::thread leases([&] { HoldLeases(address, manifest); });
  uint64_t receives = 0;
  pulls.KeepUp(
      [&](proto::Request* request, uint64_t number) {
        const Manifest wanted = Named(manifest, static_cast<uint64_t>(kLarge.first) + number % kLarge.count);
        request->set_ns(std::string(kLarge.ns));
        proto::Pull* const pull = request->mutable_pull();
        pull->mutable_name()->set_identity(std::string(BytesOf(wanted.identity)));
        pull->mutable_name()->set_codec(static_cast<uint32_t>(wanted.codec));
        pull->mutable_name()->set_etag(std::string(BytesOf(wanted.etag)));
        pull->set_first_payload(receives + 1);
        pull->set_payloads(static_cast<uint32_t>(kLayers));
        receives += static_cast<uint64_t>(kLayers);
      },
      [] { Say("leasing"); });
}

void PushNothing(const std::string& address) {
  BeNice();
  const Manifest manifest = AManifest();
  AbandonedConnections pushes(address, 32);
  const auto names = static_cast<uint64_t>(absl::GetCurrentTimeNanos());
  pushes.KeepUp(
      [&, next = names](proto::Request* request, uint64_t) mutable {
        request->set_ns(std::string(kPushed));
        proto::PushBegin* const begin = request->mutable_push_begin();
        begin->set_identity(std::string(BytesOf(Named(manifest, ++next).identity)));
        begin->set_codec(static_cast<uint32_t>(manifest.codec));
        for (const LayerManifest& layer : manifest.layers) begin->add_lengths(layer.length);
      },
      [] { Say("pushing nothing"); });
}

void Verify(const std::string& address) {
  BeNice();
  const auto store = Connect(address, kOperatorKey);
  bool told = false;
  while (true) {
    const auto report = Must(store->Verify([&](int64_t, int64_t) {
      if (!std::exchange(told, true)) Say("verifying");
      return true;
    }));
    if (!report.damaged.empty()) Die("verify found damage where there is none");
  }
}

}  // namespace kvlink::bench::isolation
