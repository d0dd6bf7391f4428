// Memory that payloads are received in, and a network that is slow to let go of it.
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "gtest/gtest.h"
#include "tests/store/client/device_region.h"
#include "tests/store/client/forwarding_transport.h"
#include "tests/store/client/remote_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

using store::client::RemoteOptions;

// A network that does not let go of receives: what it keeps, it may still write to.
class Grip : public ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  // Of all receives so far.
  void LetGo() {
    std::vector<transport::Slice> kept;
    MutexLock lock(&mutex_);
    kept.swap(kept_);
    keeps_ = false;
  }
  absl::StatusOr<std::shared_ptr<transport::Connection>> ConnectAs(absl::string_view caller, absl::string_view address,
                                                                   std::shared_ptr<transport::ConnectionEvents> events,
                                                                   absl::Time deadline) override {
    auto inner = ForwardingTransport::ConnectAs(caller, address, std::move(events), deadline);
    if (!inner.ok()) return inner.status();
    return std::make_shared<Held>(this, *std::move(inner));
  }

 private:
  class Held : public ForwardingConnection {
   public:
    Held(Grip* grip, std::shared_ptr<transport::Connection> inner)
        : ForwardingConnection(std::move(inner)), grip_(grip) {}
    void PostReceive(uint64_t id, transport::Slice into, absl::Time deadline, transport::Received done) override {
      grip_->Keep(into);
      ForwardingConnection::PostReceive(id, std::move(into), deadline, std::move(done));
    }

   private:
    Grip* const grip_;
  };
  void Keep(const transport::Slice& slice) {
    MutexLock lock(&mutex_);
    if (keeps_) kept_.push_back(slice);
  }

  Mutex mutex_;
  std::vector<transport::Slice> kept_ ABSL_GUARDED_BY(mutex_);
  bool keeps_ ABSL_GUARDED_BY(mutex_) = true;
};

TEST(ReceiveMemoryTest, IsNotUsedAgainWhileTheNetworkHoldsIt) {
  for (const bool arrived : {true, false}) {
    for (const bool on_device : {false, true}) {
      SCOPED_TRACE(absl::StrCat(arrived ? "arrived" : "released at once", on_device ? ", on a device" : ""));
      TestRegion region(6 * 4096);
      std::shared_ptr<Grip> grip;
      RemotePlaceOptions options;
      options.client = [&grip](RemoteOptions* client) {
        client->receive_bytes = 6 * 4096;
        ReachDevices(client);
        grip = std::make_shared<Grip>(client->transport);
        client->transport = grip;
      };
      RemotePlace place(options);
      store::client::RemoteStore* const store = place.remote();
      std::shared_ptr<store::DeviceBuffer> receive;
      if (on_device) receive = *store->OpenDeviceBuffer(region.Describe());
      const auto read = [&](const Synthetic& s) {
        return store->ReadTo(receive.get(), "ns", s.manifest.identity, s.manifest.codec, s.manifest.etag, Patience());
      };
      const auto used = [&] { return on_device ? receive->used() : store->Counters().receive_bytes_used; };
      const Synthetic a = MakeSynthetic(1, 4, 10), b = MakeSynthetic(2, 4, 10);  // 4 pages each
      for (const Synthetic* s : {&a, &b}) ASSERT_TRUE(store->Put("ns", s->manifest, s->spans(), Patience()).ok());
      auto lease = read(a);
      ASSERT_TRUE(lease.ok()) << lease.status();
      ASSERT_EQ((*lease)->on_device(), on_device);
      for (int64_t layer = 0; arrived && layer < 4; ++layer) {
        ASSERT_TRUE((*lease)->WaitLayer(layer, Patience()).ok());
      }
      *lease = nullptr;
      EXPECT_EQ(used(), 4 * 4096);
      {
        const auto other = read(b);
        EXPECT_EQ(other.status().code(), on_device ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted);
        EXPECT_FALSE(other.ok() && (*other)->on_device());
      }
      grip->LetGo();
      const absl::Time limit = Patience();
      while (used() > 0 && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
      if (on_device) {
        EXPECT_TRUE((*read(b))->on_device());
      }
      const absl::Status status = ReadAndCompare(store, "ns", b);
      EXPECT_TRUE(status.ok()) << status;
    }
  }
}

// Waits until a counter has the value. False: not in time.
template <typename Counter>
bool Becomes(Counter counter, int64_t value) {
  const absl::Time limit = Patience();
  while (counter() != value && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
  return counter() == value;
}

TEST(ReceiveMemoryTest, GrowsWithNeedAndIsGivenBackWhenIdle) {
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) {
    client->receive_bytes = int64_t{1} << 40;  // nobody could populate that
    client->sending_bytes = int64_t{1} << 40;
    client->idle_memory = absl::Milliseconds(100);
  };
  RemotePlace place(options);
  store::client::RemoteStore* const store = place.remote();
  EXPECT_EQ(store->Counters().receive_bytes, 0);
  const Synthetic small = MakeSynthetic(1, 4, 10), large = MakeSynthetic(2, 4, 20000);  // 16 KiB, 10 MiB
  for (const Synthetic* s : {&small, &large}) ASSERT_TRUE(store->Put("ns", s->manifest, s->spans(), Patience()).ok());
  EXPECT_GT(store->Counters().sending_bytes, 0);
  EXPECT_LE(store->Counters().sending_bytes, 4 * large.bytes());
  for (int round = 0; round < 2; ++round) {
    auto one = store->Read("ns", small.manifest.identity, small.manifest.codec, small.manifest.etag, Patience());
    ASSERT_TRUE(one.ok()) << one.status();
    EXPECT_EQ(store->Counters().receive_bytes, int64_t{2} << 20);
    {
      auto other = store->Read("ns", large.manifest.identity, large.manifest.codec, large.manifest.etag, Patience());
      ASSERT_TRUE(other.ok()) << other.status();
      EXPECT_LE(store->Counters().receive_bytes, 2 * large.bytes());
      for (size_t layer = 0; layer < 4; ++layer) {
        EXPECT_EQ(CompareLayer(other->get(), large, layer, Patience()), absl::OkStatus());
      }
    }
    // Pieces in use stay, idle ones go.
    EXPECT_TRUE(Becomes([&] { return store->Counters().receive_bytes; }, int64_t{2} << 20));
    for (size_t layer = 0; layer < 4; ++layer) {
      EXPECT_EQ(CompareLayer(one->get(), small, layer, Patience()), absl::OkStatus());
    }
    *one = nullptr;
    EXPECT_TRUE(Becomes([&] { return store->Counters().receive_bytes; }, 0));
    EXPECT_TRUE(Becomes([&] { return store->Counters().sending_bytes; }, 0));
  }
}

// Memory that is slow to come.
class SlowMemory : public ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> Allocate(int64_t bytes) override {
    absl::SleepFor(absl::Milliseconds(50));
    return ForwardingTransport::Allocate(bytes);
  }
};

TEST(ReceiveMemoryTest, ThreadsThatNeedMemoryTogetherShareAPiece) {
  constexpr int kThreads = 16;
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) {
    client->idle_memory = absl::Hours(1);
    ReachDevices(client);
    client->transport = std::make_shared<SlowMemory>(client->transport);
  };
  RemotePlace place(options);
  store::client::RemoteStore* const store = place.remote();
  const Synthetic one = MakeSynthetic(1, 4, 10);  // 16 KiB, so that all fit into the smallest piece
  ASSERT_TRUE(store->Put("ns", one.manifest, one.spans(), Patience()).ok());
  std::vector<std::unique_ptr<store::Lease>> leases(kThreads);
  {
    std::vector<Thread> threads;
    for (auto& lease : leases) {
      threads.emplace_back("reads", [store, &one, &lease] {
        auto read = store->Read("ns", one.manifest.identity, one.manifest.codec, one.manifest.etag, Patience());
        ASSERT_TRUE(read.ok()) << read.status();
        lease = *std::move(read);
      });
    }
  }
  EXPECT_EQ(store->Counters().receive_bytes, int64_t{2} << 20);
  for (auto& lease : leases) EXPECT_EQ(CompareLayer(lease.get(), one, 0, Patience()), absl::OkStatus());
}

TEST(ReceiveMemoryTest, IdlePiecesMakeRoomForALargeOne) {
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) {
    client->receive_bytes = int64_t{12} << 20;
    client->sending_bytes = int64_t{4} << 20;
    client->idle_memory = absl::Hours(1);
  };
  RemotePlace place(options);
  store::client::RemoteStore* const store = place.remote();
  std::vector<Synthetic> small;
  for (int i = 0; i < 16; ++i) small.push_back(MakeSynthetic(i + 1, 4, 1000));  // 0.5 MiB
  const Synthetic large = MakeSynthetic(100, 4, 20000);
  for (const Synthetic& s : small) ASSERT_TRUE(store->Put("ns", s.manifest, s.spans(), Patience()).ok());
  ASSERT_TRUE(store->Put("ns", large.manifest, large.spans(), Patience()).ok());
  const auto read = [&](const Synthetic& s) {
    return store->Read("ns", s.manifest.identity, s.manifest.codec, s.manifest.etag, Patience());
  };
  {
    std::vector<std::unique_ptr<store::Lease>> leases;
    for (const Synthetic& s : small) {
      auto lease = read(s);
      ASSERT_TRUE(lease.ok()) << lease.status();
      leases.push_back(*std::move(lease));
    }
    EXPECT_TRUE(absl::IsResourceExhausted(read(large).status()));
  }
  EXPECT_TRUE(Becomes([&] { return store->Counters().receive_bytes_used; }, 0));
  const absl::Status status = ReadAndCompare(store, "ns", large);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_LE(store->Counters().receive_bytes, int64_t{12} << 20);
}

}  // namespace
}  // namespace kvlink::testing
