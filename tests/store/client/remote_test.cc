// Behaviour particular to a store behind a network: parts, memory that is bounded, a node that comes and goes, requests
// that are repeated and done once.
#include "store/client/remote.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <fstream>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/client/remote_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

using store::client::OpenRemote;
using store::client::RemoteOptions;
using ::testing::HasSubstr;
using ::testing::Not;
using transport::Fault;

// The wanted payload or message of the node goes wrong; messages and payloads are counted from the arming on.
class OneFault {
 public:
  void Arm(bool payload, int64_t n, Fault fault) {
    MutexLock lock(&mutex_);
    payload_ = payload;
    left_ = n;
    fault_ = fault;
  }
  std::function<absl::optional<Fault>(bool, int64_t)> Schedule() {
    return [this](bool payload, int64_t) -> absl::optional<Fault> {
      MutexLock lock(&mutex_);
      if (fault_ == Fault::kNone || payload != payload_ || left_-- != 0) return Fault::kNone;
      return std::exchange(fault_, Fault::kNone);
    };
  }

 private:
  Mutex mutex_;
  bool payload_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t left_ ABSL_GUARDED_BY(mutex_) = 0;
  Fault fault_ ABSL_GUARDED_BY(mutex_) = Fault::kNone;
};

class RemoteTest : public ::testing::TestWithParam<std::string> {
 protected:
  RemotePlace& Place(RemotePlaceOptions options = {}) {
    options.way = GetParam();
    place_ = std::make_unique<RemotePlace>(std::move(options));
    return *place_;
  }
  // The node's side goes wrong as told.
  RemotePlace& PlaceWithFault(RemotePlaceOptions options = {}) {
    options.faulty = true;
    options.faults.schedule = fault_.Schedule();
    RemotePlace& place = Place(std::move(options));
    place.node_faults()->Enable(true);
    return place;
  }
  OneFault fault_;
  std::unique_ptr<RemotePlace> place_;
};

INSTANTIATE_TEST_SUITE_P(Ways, RemoteTest, ::testing::Values("loopback", "ucx", "grpc"),
                         [](const auto& info) { return info.param; });

// Tests that need faults of the transport.
class RemoteFaultTest : public RemoteTest {};
INSTANTIATE_TEST_SUITE_P(Ways, RemoteFaultTest, ::testing::Values("loopback", "ucx"),
                         [](const auto& info) { return info.param; });

TEST_P(RemoteTest, ReadsParts) {
  store::client::RemoteStore* const store = Place().remote();
  std::mt19937_64 random(TestSeed());
  for (const Codec codec : {Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    const int64_t layers = 5, heads = 3, tokens = 1300;
    const Synthetic s = MakeSynthetic(3, layers, tokens, heads, 16, codec);
    ASSERT_TRUE(store->Put("ns", s.manifest, s.spans(), Patience()).ok());
    const SlabShape shape = s.manifest.shape(0);
    for (int round = 0; round < 30; ++round) {
      store::client::EncodingPart part;
      part.first_layer = random() % layers;
      part.layers = random() % (layers - part.first_layer + 1);
      part.first_head = random() % heads;
      part.heads = random() % (heads - part.first_head + 1);
      part.tokens = std::vector<int64_t>{0, 512, 1024, tokens}[random() % 4];
      SCOPED_TRACE(
          absl::StrCat(part.first_layer, "+", part.layers, " ", part.first_head, "+", part.heads, " ", part.tokens));
      auto lease = store->ReadPart("ns", s.manifest.identity, codec, s.manifest.etag, part, Patience());
      ASSERT_TRUE(lease.ok()) << lease.status();
      const int64_t last_layer = part.layers == 0 ? layers : part.first_layer + part.layers;
      const int64_t last_head = part.heads == 0 ? heads : part.first_head + part.heads;
      for (int64_t layer = part.first_layer; layer < last_layer; ++layer) {
        ASSERT_TRUE((*lease)->WaitLayer(layer, Patience()).ok());
        for (int64_t head = part.first_head; head < last_head; ++head) {
          const int64_t bytes =
              part.tokens == 0 || part.tokens == tokens ? shape.head_bytes() : part.tokens / 64 * shape.block_stride();
          EXPECT_EQ((*lease)->head(layer, head),
                    absl::MakeConstSpan(s.slabs[layer]).subspan(shape.head_offset(head), bytes));
        }
      }
    }
    for (const store::client::EncodingPart& bad :
         {store::client::EncodingPart{.first_layer = 5}, store::client::EncodingPart{.heads = 4},
          store::client::EncodingPart{.tokens = 100}, store::client::EncodingPart{.tokens = 1536},
          store::client::EncodingPart{.first_head = -1}}) {
      EXPECT_TRUE(absl::IsInvalidArgument(
          store->ReadPart("ns", s.manifest.identity, codec, s.manifest.etag, bad, Patience()).status()));
    }
  }
  EXPECT_TRUE(Eventually([&] { return store->Counters().receive_bytes_used == 0; }));
}

TEST_P(RemoteTest, ManifestsLargerThanAMessage) {
  store::client::RemoteStore* const store = Place().remote();
  const Synthetic s = MakeSynthetic(1, /*layers=*/600, /*tokens=*/1, /*kv_heads=*/64, /*head_dim=*/2);
  ASSERT_GT(SerializeManifest(s.manifest).size(), size_t{256} << 10);
  const auto put = store->Put("ns", s.manifest, s.spans(), Patience());
  ASSERT_TRUE(put.ok()) << put.status();
  const absl::Status read = ReadAndCompare(store, "ns", s);
  EXPECT_TRUE(read.ok()) << read;
}

TEST_P(RemoteTest, ReceiveMemoryIsBoundedAndComesBack) {
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) { client->receive_bytes = 10 * 4096; };
  store::client::RemoteStore* const store = Place(options).remote();
  std::vector<Synthetic> made;
  for (int i = 0; i < 4; ++i) {
    made.push_back(MakeSynthetic(i, 4, 10));  // 4 pages each
    ASSERT_TRUE(store->Put("ns", made[i].manifest, made[i].spans(), Patience()).ok());
  }
  for (int round = 0; round < 20; ++round) {
    auto a = ReadOf(store, made[0]);
    auto b = ReadOf(store, made[1]);
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    EXPECT_TRUE(absl::IsResourceExhausted(ReadOf(store, made[2]).status()));
    if (round % 2 == 0) {
      ASSERT_TRUE(WaitAll(b->get()).ok());
    }
    *a = nullptr;
    // Memory of a lease released while it arrives comes back when the network has let go of it.
    absl::StatusOr<std::unique_ptr<store::Lease>> c = absl::UnknownError("");
    ASSERT_TRUE(Eventually([&] { return (c = ReadOf(store, made[2])).ok(); })) << c.status();
    ASSERT_TRUE(WaitAll(c->get()).ok());
    EXPECT_EQ((*c)->layer(3), absl::MakeConstSpan(made[2].slabs[3]));
  }
  EXPECT_TRUE(Eventually([&] { return store->Counters().receive_bytes_used == 0; }));
}

TEST_P(RemoteTest, SlabsMayLieInSendingMemoryOrAnywhere) {
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) { client->sending_bytes = 3 * 4096; };
  store::client::RemoteStore* const store = Place(options).remote();
  // More than the ring holds, slab by slab.
  const Synthetic copied = MakeSynthetic(1, 9, 10);
  ASSERT_TRUE(store->Put("ns", copied.manifest, copied.spans(), Patience()).ok());
  EXPECT_TRUE(ReadAndCompare(store, "ns", copied).ok());
  // Slabs that do not fit into the ring go from registered memory.
  const Synthetic large = MakeSynthetic(2, 3, 600, 2, 32);
  EXPECT_TRUE(absl::IsInvalidArgument(store->Put("ns", large.manifest, large.spans(), Patience()).status()));
  const auto memory = store->AllocateSlabs(large.bytes());
  ASSERT_TRUE(memory.ok()) << memory.status();
  std::vector<absl::Span<const std::byte>> spans;
  std::byte* at = (*memory)->data();
  for (const auto& slab : large.slabs) {
    spans.push_back({std::copy(slab.begin(), slab.end(), at) - slab.size(), slab.size()});
    at += slab.size();
  }
  const auto put = store->Put("ns", large.manifest, spans, Patience());
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(put->written());
  EXPECT_TRUE(ReadAndCompare(store, "ns", large).ok());
}

TEST_P(RemoteTest, ANodeThatComesBackIsFoundAgain) {
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) { client->request_timeout = absl::Seconds(2); };
  RemotePlace& place = Place(options);
  store::client::RemoteStore* const store = place.remote();
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  ASSERT_TRUE(store->Put("ns", a.manifest, a.spans(), Patience()).ok());
  for (int round = 1; round <= 3; ++round) {
    place.StopNode();
    EXPECT_TRUE(absl::IsUnavailable(store->Lookup("ns", {a.manifest.identity}, Codec::kRawBf16).status()));
    EXPECT_TRUE(absl::IsUnavailable(ReadOf(store, a, SteadyNow() + absl::Seconds(20)).status()));
    EXPECT_TRUE(absl::IsUnavailable(store->GetDocument("ns", "one").status()));
    EXPECT_TRUE(absl::IsUnavailable(store->Put("ns", b.manifest, b.spans(), SteadyNow() + absl::Seconds(2)).status()));
    place.StartNode();
    ASSERT_TRUE(Eventually([&] { return ReadAndCompare(store, "ns", a).ok(); }));
    ASSERT_TRUE(store->PutDocument("ns", "one", EntryOf({&a}, round)).ok());
    EXPECT_EQ(store->Counters().reconnects, round);
    EXPECT_EQ(store->Counters().sessions, round + 1);
  }
  EXPECT_GT(store->Counters().retries, 0);
}

TEST_P(RemoteTest, ACallWaitsForANodeThatIsAwayForAMoment) {
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) { client->request_timeout = absl::Seconds(60); };
  RemotePlace& place = Place(options);
  const Synthetic a = MakeSynthetic(1);
  place.StopNode();
  std::thread later([&] {
    absl::SleepFor(absl::Milliseconds(300));
    place.StartNode();
  });
  const auto put = place.remote()->Put("ns", a.manifest, a.spans(), Patience());
  later.join();
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(ReadAndCompare(place.store(), "ns", a).ok());
}

TEST_P(RemoteFaultTest, ACorruptSlabMakesTheLeaseAMissAndTheNodeLooks) {
  RemotePlace& place = PlaceWithFault();
  const Synthetic s = MakeSynthetic(1, 4, 700, 2);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  fault_.Arm(/*payload=*/true, 2, Fault::kCorrupt);
  auto lease = ReadOf(place.store(), s);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_TRUE(absl::IsDataLoss((*lease)->WaitLayer(2, Patience())));
  const store::client::RemoteCounters counters = place.remote()->Counters();
  EXPECT_EQ(counters.corrupt_slabs, 1);
  EXPECT_EQ(counters.failed_pulls, 1);
  EXPECT_TRUE(Eventually([&] { return place.node().log.Count("suspect") == 1; }));
  EXPECT_TRUE(ReadAndCompare(place.store(), "ns", s).ok());  // the node's own bytes are right
  EXPECT_EQ(place.remote()->Counters().corrupt_slabs, 1);
}

TEST_P(RemoteFaultTest, ALostSlabIsLate) {
  RemotePlace& place = PlaceWithFault();
  const Synthetic s = MakeSynthetic(1, 4, 700, 2);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  fault_.Arm(/*payload=*/true, 1, Fault::kDrop);
  auto lease = ReadOf(place.store(), s);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_TRUE((*lease)->WaitLayer(0, Patience()).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*lease)->WaitLayer(1, SteadyNow() + absl::Milliseconds(100))));
  EXPECT_EQ(place.remote()->Counters().late_layers, 1);
  EXPECT_EQ((*lease)->layer(0), absl::MakeConstSpan(s.slabs[0]));
  *lease = nullptr;
  EXPECT_TRUE(Eventually([&] { return place.remote()->Counters().receive_bytes_used == 0; }));
  EXPECT_TRUE(ReadAndCompare(place.store(), "ns", s).ok());
}

TEST_P(RemoteFaultTest, ATransferThatTakesTooLongEnds) {
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) { client->transfer_timeout = absl::Milliseconds(300); };
  RemotePlace& place = PlaceWithFault(options);
  const Synthetic s = MakeSynthetic(1, 4, 700, 2);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  fault_.Arm(/*payload=*/true, 1, Fault::kDrop);
  auto lease = ReadOf(place.store(), s);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_TRUE(absl::IsDeadlineExceeded((*lease)->WaitLayer(1, absl::InfiniteFuture())));
  EXPECT_EQ(place.remote()->Counters().failed_pulls, 1);
}

TEST_P(RemoteFaultTest, ACutConnectionEndsItsLeasesAndTheNextReadHasAnother) {
  RemotePlace& place = PlaceWithFault();
  const Synthetic s = MakeSynthetic(1, 4, 700, 2);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  fault_.Arm(/*payload=*/true, 1, Fault::kCut);
  auto lease = ReadOf(place.store(), s);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_TRUE(absl::IsUnavailable(WaitAll(lease->get())));
  EXPECT_TRUE(ReadAndCompare(place.store(), "ns", s).ok());
  EXPECT_EQ(place.remote()->Counters().reconnects, 1);
  EXPECT_EQ(place.remote()->Counters().sessions, 1);
}

TEST_P(RemoteFaultTest, APinWhoseAnswerIsLostIsMadeOnce) {
  RemotePlace& place = PlaceWithFault();
  const Synthetic s = MakeSynthetic(1);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  for (const bool cut : {true, false}) {
    fault_.Arm(/*payload=*/false, 0, cut ? Fault::kCut : Fault::kCorrupt);  // the answer
    ASSERT_TRUE(place.store()->Pin("ns", s.manifest.identity, Codec::kRawBf16).ok());
    EXPECT_GT(place.store()->Stats()->pinned_bytes, 0);
    fault_.Arm(/*payload=*/false, 0, cut ? Fault::kCut : Fault::kCorrupt);
    ASSERT_TRUE(place.store()->Unpin("ns", s.manifest.identity, Codec::kRawBf16).ok());
    EXPECT_EQ(place.store()->Stats()->pinned_bytes, 0);
  }
  EXPECT_EQ(place.remote()->Counters().reconnects, 4);
  EXPECT_EQ(place.remote()->Counters().sessions, 1);
}

TEST_P(RemoteFaultTest, APutWhoseAnswerIsLostIsMadeOnce) {
  RemotePlace& place = PlaceWithFault();
  for (int message = 0; message < 2; ++message) {  // PushReady, PushDone
    const Synthetic s = MakeSynthetic(10 + message);
    fault_.Arm(/*payload=*/false, message, Fault::kCut);
    const auto put = place.store()->Put("ns", s.manifest, s.spans(), Patience());
    ASSERT_TRUE(put.ok()) << put.status();
    EXPECT_TRUE(put->written());
    EXPECT_EQ(put->etag, s.manifest.etag);
    EXPECT_TRUE(ReadAndCompare(place.store(), "ns", s).ok());
  }
  const Synthetic again = MakeSynthetic(10);
  EXPECT_FALSE(place.store()->Put("ns", again.manifest, again.spans(), Patience())->written());
  EXPECT_EQ(place.remote()->Counters().failed_pushes, 0);
}

TEST_P(RemoteTest, ASessionIsKeptAndOpenedAgain) {
  RemotePlaceOptions options;
  options.node = [](store::node::NodeOptions* node) { node->limits.session_lifetime = absl::Seconds(2); };
  RemotePlace& place = Place(options);
  const Synthetic s = MakeSynthetic(1);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  ASSERT_TRUE(place.store()->Pin("ns", s.manifest.identity, Codec::kRawBf16).ok());
  absl::SleepFor(absl::Seconds(5));
  EXPECT_GT(place.store()->Stats()->pinned_bytes, 0) << "the session has ended, and its pins with it";
  EXPECT_TRUE(ReadAndCompare(place.store(), "ns", s).ok());
  EXPECT_EQ(place.remote()->Counters().sessions, 1);
}

TEST_P(RemoteTest, KeysAreAskedFor) {
  ScratchDirectory directory;
  const std::string file = directory.path() + "/access";
  WriteAccessFile(file, "indexer sixteen-letters-w write ns\nreader sixteen-letters-r read *\n");
  RemotePlaceOptions options;
  options.node = [&](store::node::NodeOptions* node) { node->access_file = file; };
  options.client = [](RemoteOptions* client) { client->key = "sixteen-letters-w"; };
  RemotePlace& place = Place(options);
  const Synthetic s = MakeSynthetic(1);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(place.store()->Put("other", s.manifest, s.spans(), Patience()).status()));
  EXPECT_TRUE(
      absl::IsPermissionDenied(place.store()->Lookup("other", {s.manifest.identity}, Codec::kRawBf16).status()));
  RemoteOptions reader = place.ClientOptions();
  reader.key = "sixteen-letters-r";
  const auto reading = OpenRemote(reader);
  ASSERT_TRUE(reading.ok()) << reading.status();
  EXPECT_TRUE(ReadAndCompare(reading->get(), "ns", s).ok());
  EXPECT_TRUE(absl::IsPermissionDenied((*reading)->Remove("ns", s.manifest.identity)));
  EXPECT_TRUE(absl::IsPermissionDenied((*reading)->PutDocument("ns", "one", EntryOf({&s}, 1))));
  for (const char* wrong : {"", "sixteen-letters-x"}) {
    reader.key = wrong;
    EXPECT_TRUE(absl::IsUnauthenticated(OpenRemote(reader).status()));
  }
}

TEST_P(RemoteTest, ManyThreadsShareLittleMemory) {
  RemotePlaceOptions options;
  options.client = [](RemoteOptions* client) {
    client->receive_bytes = 24 * 4096;
    client->sending_bytes = 6 * 4096;
  };
  store::client::RemoteStore* const store = Place(options).remote();
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0}, read{0};
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(TestSeed() + t);
      for (int i = 0; i < 60; ++i) {
        const Synthetic s = MakeSynthetic(random() % 12, 4, 10);
        const absl::Status status = random() % 3 == 0 ? store->Put("ns", s.manifest, s.spans(), Patience()).status()
                                                      : ReadAndCompare(store, "ns", s);
        if (status.ok()) ++read;
        if (!status.ok() && !absl::IsNotFound(status) && !absl::IsResourceExhausted(status)) {
          ADD_FAILURE() << status;
          ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(read, 100);
  EXPECT_TRUE(Eventually([&] { return store->Counters().receive_bytes_used == 0; }));
}

TEST(OpenRemoteTest, SaysWhyNot) {
  RemoteOptions options;
  for (const char* bad : {"", "nowhere", "127.0.0.1:", "127.0.0.1:99999"}) {
    options.address = bad;
    EXPECT_TRUE(absl::IsInvalidArgument(OpenRemote(options).status())) << bad;
  }
  options.address = "127.0.0.1:1";
  options.connect_timeout = absl::Seconds(2);
  const absl::Status nobody = OpenRemote(options).status();
  EXPECT_TRUE(absl::IsUnavailable(nobody)) << nobody;
  EXPECT_THAT(std::string(nobody.message()),
              HasSubstr("no node answers at 127.0.0.1:1 (connection refused): is it running?"));
  // Takes connections, and says nothing.
  const Descriptor silent(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(at);
  ASSERT_EQ(bind(silent.get(), reinterpret_cast<sockaddr*>(&at), length), 0);
  ASSERT_EQ(listen(silent.get(), 16), 0);
  ASSERT_EQ(getsockname(silent.get(), reinterpret_cast<sockaddr*>(&at), &length), 0);
  options.address = absl::StrCat("127.0.0.1:", ntohs(at.sin_port));
  const absl::Status mute = OpenRemote(options).status();
  EXPECT_TRUE(absl::IsUnavailable(mute) || absl::IsDeadlineExceeded(mute)) << mute;
  EXPECT_THAT(std::string(mute.message()), Not(HasSubstr("all addresses")));
  options.address = "no-such-host.invalid:7400";
  const absl::Status unknown = OpenRemote(options).status();
  EXPECT_TRUE(absl::IsUnavailable(unknown)) << unknown;
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("cannot resolve the host of no-such-host.invalid:7400"));
  EXPECT_EQ(*store::client::ParseCarrier("ucx"), store::client::Carrier::kUcx);
  EXPECT_THAT(std::string(store::client::ParseCarrier("pigeon").status().message()),
              HasSubstr("auto, mapped, ucx, grpc"));
}

TEST(OpenRemoteTest, NoProxyOfTheEnvironmentIsAsked) {
  RemotePlace place(RemotePlaceOptions{.way = "grpc"});
  setenv("http_proxy", "http://127.0.0.1:1", 1);
  const auto opened = OpenRemote(place.ClientOptions());
  unsetenv("http_proxy");
  EXPECT_TRUE(opened.ok()) << opened.status();
}

TEST(OpenRemoteTest, TellsWhichCarrierServesAndWhyNoBetterOne) {
  RemotePlaceOptions place;
  place.way = "ucx";
  place.client = [](RemoteOptions* client) { client->carrier = store::client::Carrier::kAuto; };
  RemotePlace ucx(place);
  EXPECT_EQ(ucx.remote()->ReadCarrier(), "ucx");
  EXPECT_THAT(ucx.remote()->Stats()->io, HasSubstr("read over ucx (not mapped: "));
  store::client::RemoteOptions options = ucx.ClientOptions();
  options.carrier = store::client::Carrier::kMapped;
  const absl::Status mapped = OpenRemote(options).status();
  EXPECT_TRUE(absl::IsUnavailable(mapped));
  EXPECT_THAT(std::string(mapped.message()), HasSubstr("local socket"));
}

// A client outlives changes of the network, and of its nodes' options.
TEST(OpenRemoteTest, FollowsNodeToCarrierThatWorks) {
  for (const auto carrier : {store::client::Carrier::kAuto, store::client::Carrier::kUcx}) {
    SCOPED_TRACE(store::client::CarrierName(carrier));
    const bool may_change = carrier == store::client::Carrier::kAuto;
    bool serves_ucx = true;
    RemotePlaceOptions options;
    options.way = "ucx";
    options.client = [carrier](RemoteOptions* client) { client->carrier = carrier; };
    options.node = [&serves_ucx](store::node::NodeOptions* node) {
      if (!serves_ucx) node->data_address.clear();
    };
    RemotePlace place(options);
    const Synthetic one = MakeSynthetic(1);
    ASSERT_TRUE(place.store()->Put("ns", one.manifest, one.spans(), Patience()).ok());
    const auto reads = [&] { return ReadAndCompare(place.store(), "ns", one).ok(); };
    ASSERT_TRUE(reads());
    const auto restart = [&](bool with_ucx) {
      serves_ucx = with_ucx;
      place.StopNode();
      place.StartNode();
    };
    restart(/*with_ucx=*/false);
    if (may_change) {
      EXPECT_TRUE(Eventually(reads));
      EXPECT_EQ(place.remote()->ReadCarrier(), "grpc");
      EXPECT_THAT(place.remote()->Stats()->io, HasSubstr("does not serve data over ucx"));
    } else {
      EXPECT_FALSE(reads());
      EXPECT_EQ(place.remote()->ReadCarrier(), "ucx") << "as was asked";
    }
    restart(/*with_ucx=*/true);
    EXPECT_TRUE(Eventually(reads));
    EXPECT_EQ(place.remote()->ReadCarrier(), "ucx");
  }
}

}  // namespace
}  // namespace kvlink::testing
