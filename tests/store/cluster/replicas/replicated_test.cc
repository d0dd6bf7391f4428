// A replicated store over nodes that run, stop, restart, join, drain, and disagree about ownership.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/client/device_region.h"
#include "tests/store/cluster/replicas/cluster_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

using store::cluster::MemberState;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<Synthetic> Documents(int count, int first = 0) {
  std::vector<Synthetic> documents;
  for (int i = 0; i < count; ++i) documents.push_back(MakeSynthetic(first + i, 1 + i % 5));
  return documents;
}
std::vector<Identity> IdentitiesOf(const std::vector<Synthetic>& documents) {
  std::vector<Identity> identities;
  for (const Synthetic& one : documents) identities.push_back(one.manifest.identity);
  return identities;
}
// An encoding with another etag and the same identity.
Synthetic Variant(const Synthetic& of, int number) {
  Synthetic variant = MakeSynthetic(number, static_cast<int64_t>(of.slabs.size()));
  variant.manifest.identity = of.manifest.identity;
  variant.manifest.Seal();
  return variant;
}
int64_t Present(const std::vector<store::Found>& found) {
  return absl::c_count_if(found, [](const store::Found& one) { return one.present; });
}

class ReplicatedTest : public ::testing::Test {
 protected:
  void Open(ClusterPlaceOptions options) { place_ = std::make_unique<ClusterPlace>(std::move(options)); }
  store::cluster::ReplicatedStore* store() { return place_->replicated(); }
  void PutAll(const std::vector<Synthetic>& documents) {
    for (const Synthetic& one : documents) ASSERT_EQ(Put(store(), one), absl::OkStatus());
  }
  // Nodes that hold the encoding now.
  std::vector<int> Holders(const Synthetic& s) {
    std::vector<int> holders;
    for (size_t i = 0; i < place_->members().size(); ++i) {
      const auto node = place_->OpenNode(static_cast<int>(i));
      const auto found = node->Lookup("ns", {s.manifest.identity}, s.manifest.codec);
      if (found.ok() && (*found)[0].present) holders.push_back(static_cast<int>(i));
    }
    return holders;
  }
  std::unique_ptr<TestRegion> region_;  // outlives the store
  std::unique_ptr<ClusterPlace> place_;
};

TEST_F(ReplicatedTest, EveryOwnerStoresAndServesPuts) {
  Open({});
  for (const Synthetic& one : Documents(6)) {
    ASSERT_EQ(Put(store(), one), absl::OkStatus());
    std::vector<int> owners = place_->Owners(one.manifest.identity);
    absl::c_sort(owners);
    EXPECT_EQ(Holders(one), owners);
    EXPECT_EQ(ReadAndCompare(store(), "ns", one), absl::OkStatus());
    const auto again = store()->Put("ns", one.manifest, one.spans(), Patience());
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->outcome, store::PutOutcome::kThere);
  }
  EXPECT_EQ(store()->Counters().lacking, 0);
  EXPECT_EQ(store()->Counters().next_owners, 0) << "the first owner had all of it";
}

// At its first read from a node, a client usually has no connection to it yet.
TEST_F(ReplicatedTest, FirstReadOfNodeReachesDevice) {
  Open({.client = [](store::cluster::ReplicatedOptions* client) { ReachDevices(&client->node); }});
  const auto documents = Documents(12);
  PutAll(documents);
  place_->OpenStore();
  region_ = std::make_unique<TestRegion>(int64_t{8} << 20);
  const auto buffer = store()->OpenDeviceBuffer(region_->Describe());
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  std::vector<store::ReadRequest> requests;
  for (const Synthetic& one : documents) requests.push_back({one.manifest.identity, one.manifest.etag});
  const auto leases = store()->ReadMany(buffer->get(), "ns", Codec::kRawBf16, requests, Patience());
  for (size_t i = 0; i < documents.size(); ++i) {
    ASSERT_TRUE(leases[i].ok()) << leases[i].status();
    ASSERT_TRUE((*leases[i])->WaitLayer(0, Patience()).ok());
    EXPECT_TRUE((*leases[i])->on_device()) << i;
    EXPECT_TRUE(region_->Holds((*leases[i])->layer(0))) << i;
  }
  for (const auto& node : store()->NodeCounters()) EXPECT_EQ(node.sessions, 1) << "it was opened by this";
}

TEST_F(ReplicatedTest, LookupOfManySendsOneRequestPerNode) {
  Open({});
  const auto documents = Documents(40), absent = Documents(40, 100);
  PutAll(documents);
  auto found = store()->Lookup("ns", IdentitiesOf(documents), Codec::kRawBf16);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(Present(*found), 40);
  for (size_t i = 0; i < documents.size(); ++i) EXPECT_EQ((*found)[i].etag, documents[i].manifest.etag);
  const int64_t hits = store()->Counters().lookup_requests;
  EXPECT_LE(hits, 3);
  found = store()->Lookup("ns", IdentitiesOf(absent), Codec::kRawBf16);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(Present(*found), 0);
  EXPECT_LE(store()->Counters().lookup_requests - hits, 6) << "the other owners, once";
  EXPECT_EQ(store()->Counters().next_owners, 40);

  // Reads behave likewise.
  std::vector<store::ReadRequest> wanted;
  for (const Synthetic& one : documents) wanted.push_back({one.manifest.identity, one.manifest.etag});
  const auto leases = store()->ReadMany(nullptr, "ns", Codec::kRawBf16, wanted, Patience());
  for (size_t i = 0; i < leases.size(); ++i) {
    ASSERT_TRUE(leases[i].ok()) << leases[i].status();
    for (size_t layer = 0; layer < documents[i].slabs.size(); ++layer) {
      EXPECT_EQ(CompareLayer(leases[i]->get(), documents[i], layer, Patience()), absl::OkStatus());
    }
    EXPECT_TRUE((*leases[i])->intact());
    EXPECT_FALSE((*leases[i])->on_device());
  }
  EXPECT_LE(store()->Counters().read_requests, 3);
}

TEST_F(ReplicatedTest, FindsAndReadsEncodingsOfEitherOwner) {
  Open({});
  const auto documents = Documents(20);
  for (const Synthetic& one : documents) {
    const auto node = place_->OpenNode(place_->Owners(one.manifest.identity)[1]);
    ASSERT_EQ(Put(node.get(), one), absl::OkStatus());
  }
  const auto found = store()->Lookup("ns", IdentitiesOf(documents), Codec::kRawBf16);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(Present(*found), 20);
  for (const Synthetic& one : documents) EXPECT_EQ(ReadAndCompare(store(), "ns", one), absl::OkStatus());
  EXPECT_GT(store()->Counters().next_owners, 0);
}

TEST_F(ReplicatedTest, StoppingNodeFailsNoRead) {
  Open({});
  const auto documents = Documents(24);
  PutAll(documents);
  std::atomic<bool> stop{false};
  std::atomic<int> reads{0}, failed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(TestSeed() + t);
      while (!stop) {
        const Synthetic& one = documents[random() % documents.size()];
        const absl::Status status = ReadAndCompare(store(), "ns", one);
        EXPECT_EQ(status, absl::OkStatus());
        failed += !status.ok();
        ++reads;
      }
    });
  }
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 3; ++round) {
    const int node = static_cast<int>(random() % 3);
    const auto more = [&](int count) {
      const int enough = reads + count;
      EXPECT_TRUE(Eventually([&] { return reads >= enough; }));
    };
    more(20);
    place_->Stop(node);
    more(60);
    place_->Start(node);
    more(20);
    // Probes find that the node is back; then another one may stop.
    const auto owned = [&](const Synthetic& one) {
      return absl::c_linear_search(place_->Owners(one.manifest.identity), node);
    };
    const Synthetic& of_node = *absl::c_find_if(documents, owned);
    EXPECT_TRUE(Eventually([&] {
      EXPECT_EQ(ReadAndCompare(store(), "ns", of_node), absl::OkStatus());
      const auto report = place_->Report(node);
      return !report.resting && report.stats.ok();
    }));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
}

TEST_F(ReplicatedTest, SilentMemberDelaysOnlyBriefly) {
  Open({.nodes = 3});
  // Accepts connections and never answers.
  const int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(silent, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(silent, 64), 0);
  ASSERT_EQ(getsockname(silent, reinterpret_cast<sockaddr*>(&address), &length), 0);
  const auto documents = Documents(30);
  PutAll(documents);
  place_->Stop(2);
  place_->members()[2].address = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  place_->Publish();
  for (int round = 0; round < 20; ++round) {
    const auto found = store()->Lookup("ns", IdentitiesOf(documents), Codec::kRawBf16);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(Present(*found), 30);
  }
  EXPECT_LE(store()->Counters().stuck, 3) << "faster owners are asked";
  EXPECT_TRUE(Eventually([&] { return place_->Report(2).resting; })) << "its failures let it rest";
  close(silent);
}

// Two nodes were restarted at each other's address, which the client does not know. They have no placement, so each
// takes whatever it is given.
TEST_F(ReplicatedTest, DetectsNodesAtSwappedAddresses) {
  const auto alone = [](int, store::node::NodeOptions* node) { node->ownership = nullptr; };
  Open({.nodes = 2, .copies = 1, .acknowledged = 1, .node = alone});
  const auto documents = Documents(12);
  PutAll(documents);
  const auto encodings = [this](int node) {
    int64_t count = 0;
    for (const auto& ns : place_->node(node)->engine()->Stats().namespaces) count += ns.encodings;
    return count;
  };
  const int64_t before[] = {encodings(0), encodings(1)};
  const auto hex = [this](int node) { return absl::BytesToHexString(BytesOf(*place_->members()[node].id)); };
  const std::string ids[] = {hex(0), hex(1)};
  for (int node = 0; node < 2; ++node) place_->Stop(node);
  std::swap(place_->members()[0].address, place_->members()[1].address);
  for (int node = 0; node < 2; ++node) place_->Start(node);
  for (const Synthetic& one : Documents(3, 100)) {
    const auto put = store()->Put("ns", one.manifest, one.spans(), SteadyNow() + absl::Seconds(4));
    EXPECT_EQ(put.status().code(), absl::StatusCode::kUnavailable) << put.status();
    EXPECT_THAT(std::string(put.status().message()), HasSubstr("was expected there"));
  }
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(ReadAndCompare(store(), "ns", documents[i]).ok());
  const auto found = store()->Lookup("ns", IdentitiesOf(documents), Codec::kRawBf16);
  EXPECT_TRUE(!found.ok() || Present(*found) == 0);
  EXPECT_THAT(std::string(place_->Report(0).stats.status().message()),
              AllOf(HasSubstr(place_->members()[1].address), HasSubstr(absl::StrCat("is node ", ids[1])),
                    HasSubstr(absl::StrCat("node ", ids[0], " was expected"))));
  for (int node = 0; node < 2; ++node) {
    EXPECT_EQ(encodings(node), before[node]);
    const auto now = place_->node(node)->engine()->Stats();
    EXPECT_EQ(now.hits_dram + now.hits_segments + now.misses, 0) << "it received no request";
    RawControl control(place_->members()[node].address);
    ASSERT_TRUE(control.Open().ok());
    EXPECT_TRUE(Eventually([&] { return control.Stats()->values().at("sessions") == 1; }))
        << "the client keeps one session";
  }
  place_->Publish();
  for (const Synthetic& one : documents) EXPECT_EQ(ReadAndCompare(store(), "ns", one), absl::OkStatus());
}

TEST_F(ReplicatedTest, PutNamesMissingOwners) {
  Open({});
  PutAll(Documents(3));
  place_->Stop(1);
  int refused = 0;
  const auto documents = Documents(12, 50);
  place_->members()[1].alive = false;
  place_->Publish();
  for (const Synthetic& one : documents) {
    const bool owns = absl::c_linear_search(place_->Owners(one.manifest.identity), 1);
    const absl::Status put = Put(store(), one);
    if (!owns) {
      EXPECT_EQ(put, absl::OkStatus());
      continue;
    }
    ++refused;
    EXPECT_EQ(put.code(), absl::StatusCode::kUnavailable) << put;
    EXPECT_THAT(std::string(put.message()), HasSubstr(place_->members()[1].address));
    EXPECT_THAT(std::string(put.message()), HasSubstr("1 of 2 copies"));
    EXPECT_EQ(ReadAndCompare(store(), "ns", one), absl::OkStatus()) << "what was written stays";
  }
  EXPECT_GT(refused, 0);
  EXPECT_EQ(store()->Counters().lacking, refused);
  // The node leaves the cluster, and others own its slots.
  place_->members()[1].member = false;
  place_->Publish();
  PutAll(documents);
}

TEST_F(ReplicatedTest, AcknowledgedPutsSurviveDyingNode) {
  Open({});
  const auto documents = Documents(40);
  std::set<size_t> acknowledged;
  std::thread killer;
  std::atomic<size_t> at{0};
  killer = std::thread([&] {
    EXPECT_TRUE(Eventually([&] { return at > 10; }));
    place_->Stop(0);
    auto view = MakeView(100, 2, 2, [&] {
      auto members = place_->members();
      members[0].alive = false;
      return members;
    }());
    place_->client_views().Set(view);
  });
  for (; at < documents.size(); ++at) {
    const absl::Status put = Put(store(), documents[at]);
    if (put.ok()) {
      acknowledged.insert(at);
    } else {
      EXPECT_EQ(put.code(), absl::StatusCode::kUnavailable) << put;
    }
  }
  killer.join();
  EXPECT_GT(acknowledged.size(), 10u);
  EXPECT_LT(acknowledged.size(), documents.size());
  for (const size_t i : acknowledged) EXPECT_EQ(ReadAndCompare(store(), "ns", documents[i]), absl::OkStatus());
}

TEST_F(ReplicatedTest, UnawaitedPutsContinue) {
  Open({.nodes = 2, .copies = 2, .acknowledged = 1});
  const auto documents = Documents(10);
  PutAll(documents);
  for (const Synthetic& one : documents) {
    EXPECT_TRUE(Eventually([&] { return Holders(one).size() == 2; }));
  }
  EXPECT_GT(store()->Counters().copied_bytes, 0);
  EXPECT_EQ(store()->Counters().lacking, 0);
  place_->Stop(1);
  place_->members()[1].alive = false;
  place_->Publish();
  const Synthetic alone = MakeSynthetic(500);
  EXPECT_EQ(Put(store(), alone), absl::OkStatus());
  EXPECT_EQ(store()->Counters().lacking, 1);
  EXPECT_EQ(ReadAndCompare(store(), "ns", alone), absl::OkStatus());
}

TEST_F(ReplicatedTest, ReportsGreaterEtagAndReadsBoth) {
  Open({.nodes = 2});
  const Synthetic a = MakeSynthetic(2, 3), b = Variant(a, 4);
  ASSERT_NE(a.manifest.etag, b.manifest.etag);
  ASSERT_EQ(Put(place_->OpenNode(0).get(), a), absl::OkStatus());
  ASSERT_EQ(Put(place_->OpenNode(1).get(), b), absl::OkStatus());
  const Etag greater = std::max(a.manifest.etag, b.manifest.etag);
  for (const Synthetic* one : {&a, &b}) {
    const auto put = store()->Put("ns", one->manifest, one->spans(), Patience());
    ASSERT_TRUE(put.ok()) << put.status();
    EXPECT_EQ(put->etag, greater);
    EXPECT_EQ(put->outcome, one->manifest.etag == greater ? store::PutOutcome::kThere : store::PutOutcome::kOtherThere);
    for (int i = 0; i < 8; ++i) {
      const auto lease =
          store()->Read("ns", one->manifest.identity, one->manifest.codec, one->manifest.etag, Patience());
      ASSERT_TRUE(lease.ok()) << lease.status();
      for (size_t layer = 0; layer < 3; ++layer) {
        EXPECT_EQ(CompareLayer(lease->get(), *one, layer, Patience()), absl::OkStatus());
      }
    }
  }
  const auto listed = store()->ListEncodings("ns", {}, 10);
  ASSERT_TRUE(listed.ok()) << listed.status();
  ASSERT_EQ(listed->size(), 1u);
  EXPECT_EQ((*listed)[0].manifest.etag, greater);
}

TEST_F(ReplicatedTest, RetriesWithNewPlacement) {
  Open({.nodes = 4});
  const auto documents = Documents(30);
  PutAll(documents);
  const auto old = place_->view();
  // Node 0 leaves, and the others get what it owned, as if they had been filled.
  place_->members()[0].member = false;
  place_->Publish();
  const auto now = place_->view();
  for (const Synthetic& one : documents) {
    for (const int owner : place_->Owners(one.manifest.identity)) {
      ASSERT_EQ(Put(place_->OpenNode(owner).get(), one), absl::OkStatus());
    }
  }
  const auto fresh = Documents(30, 200);
  for (const Synthetic& one : fresh) {
    for (const int owner : place_->Owners(one.manifest.identity)) {
      ASSERT_EQ(Put(place_->OpenNode(owner).get(), one), absl::OkStatus());
    }
  }
  // The nodes do not know the epoch by which the client asks, and the client gets the new view late.
  auto stranger = std::make_shared<store::cluster::View>(*old);
  stranger->placement = *store::cluster::Placement::Compute(1000, 2, old->placement.members());
  place_->client_views().Set(stranger);
  std::thread later([&] {
    EXPECT_TRUE(Eventually([&] { return store()->Counters().moved > 0; }));
    place_->client_views().Set(now);
  });
  // A lookup may ask few nodes, and node 0 not among them.
  const absl::Time limit = Patience();
  int present = 0;
  do {
    const auto found = store()->Lookup("ns", IdentitiesOf(fresh), Codec::kRawBf16);
    present = found.ok() ? Present(*found) : 0;
  } while (present == 30 && store()->Counters().moved == 0 && SteadyNow() < limit);
  later.join();
  EXPECT_EQ(present, 30);
  EXPECT_GT(store()->Counters().moved, 0);
}

TEST_F(ReplicatedTest, PutsFollowThePlacement) {
  Open({.nodes = 4});
  const auto old = place_->view();
  place_->members()[0].member = false;
  place_->Publish();
  const auto now = place_->view();
  auto stranger = std::make_shared<store::cluster::View>(*old);
  // An epoch that the nodes do not know; otherwise they would serve a client that still uses it.
  stranger->placement = *store::cluster::Placement::Compute(0, 2, old->placement.members());
  const auto documents = Documents(30);
  for (const Synthetic& one : documents) {
    place_->client_views().Set(stranger);
    std::thread later([&] {
      absl::SleepFor(absl::Milliseconds(1));
      place_->client_views().Set(now);
    });
    EXPECT_EQ(Put(store(), one), absl::OkStatus());
    later.join();
    std::vector<int> owners = place_->Owners(one.manifest.identity);
    for (const int owner : owners) EXPECT_THAT(Holders(one), ::testing::Contains(owner));
  }
}

TEST_F(ReplicatedTest, JoiningNodeTakesWritesAndIsAskedLast) {
  Open({.nodes = 3});
  const auto documents = Documents(30);
  PutAll(documents);
  place_->members()[2].state = MemberState::kJoining;
  place_->Publish();
  const auto found = store()->Lookup("ns", IdentitiesOf(documents), Codec::kRawBf16);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(Present(*found), 30);
  const auto more = Documents(20, 300);
  PutAll(more);
  int joined = 0;
  for (const Synthetic& one : more) {
    const std::vector<int> holders = Holders(one);
    EXPECT_EQ(holders.size(), 2u) << "the next owners";
    joined += absl::c_linear_search(holders, 2);
  }
  EXPECT_GT(joined, 0);
  for (const Synthetic& one : more) EXPECT_EQ(ReadAndCompare(store(), "ns", one), absl::OkStatus());
}

TEST_F(ReplicatedTest, PinsAndRemovesEveryCopy) {
  Open({});
  const Synthetic one = MakeSynthetic(1);
  EXPECT_TRUE(absl::IsNotFound(store()->Pin("ns", one.manifest.identity, one.manifest.codec)));
  ASSERT_EQ(Put(store(), one), absl::OkStatus());
  EXPECT_EQ(store()->Pin("ns", one.manifest.identity, one.manifest.codec), absl::OkStatus());
  const auto stats = store()->Stats();
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_GT(stats->pinned_bytes, 0);
  ASSERT_EQ(stats->namespaces.size(), 1u);
  EXPECT_EQ(stats->namespaces[0].encodings, 2);
  EXPECT_THAT(stats->io, HasSubstr("3 of 3 nodes"));
  EXPECT_EQ(store()->Unpin("ns", one.manifest.identity, one.manifest.codec), absl::OkStatus());
  EXPECT_EQ(store()->Stats()->pinned_bytes, 0);
  EXPECT_EQ(store()->Remove("ns", one.manifest.identity), absl::OkStatus());
  EXPECT_TRUE(Holders(one).empty());
  ASSERT_EQ(Put(store(), one), absl::OkStatus());
  const int owner = place_->Owners(one.manifest.identity)[0];
  place_->Stop(owner);
  const absl::Status removed = store()->Remove("ns", one.manifest.identity);
  EXPECT_EQ(removed.code(), absl::StatusCode::kUnavailable) << removed;
  EXPECT_THAT(std::string(removed.message()), HasSubstr(place_->members()[owner].address));
  EXPECT_EQ(store()->Pin("ns", one.manifest.identity, one.manifest.codec).code(), absl::StatusCode::kNotFound);
}

TEST_F(ReplicatedTest, ListsEachEncodingOnceInOrder) {
  Open({});
  const auto documents = Documents(30);
  PutAll(documents);
  std::vector<Identity> identities = IdentitiesOf(documents), listed;
  absl::c_sort(identities);
  Identity after;
  for (;;) {
    const auto some = store()->ListEncodings("ns", after, 7);
    ASSERT_TRUE(some.ok()) << some.status();
    if (some->empty()) break;
    for (const auto& one : *some) listed.push_back(one.manifest.identity);
    after = listed.back();
  }
  EXPECT_EQ(listed, identities);
  place_->Stop(2);
  EXPECT_TRUE(store()->ListEncodings("ns", {}, 100).ok()) << "one node fewer than acknowledged copies";
  place_->Stop(1);
  EXPECT_TRUE(absl::IsUnavailable(store()->ListEncodings("ns", {}, 100).status()));
}

TEST_F(ReplicatedTest, VerifiesEveryCopyAndNamesNodes) {
  Open({});
  const auto documents = Documents(10);
  PutAll(documents);
  const int owner = place_->Owners(documents[3].manifest.identity)[0];
  ASSERT_TRUE(EmptyDramTier(store()));
  ASSERT_GT(FlipOnDisk(place_->node(owner).directory() + "/store", documents[3]), 0);
  int64_t last = 0;
  auto report = store()->Verify([&](int64_t done, int64_t total) {
    last = std::max(last, done);
    return done <= total;
  });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->encodings, 20);
  EXPECT_GT(last, 0);
  ASSERT_EQ(report->damaged.size(), 1u);
  EXPECT_EQ(report->damaged[0].identity, documents[3].manifest.identity);
  EXPECT_THAT(report->damaged[0].what, HasSubstr(place_->members()[owner].address));
  EXPECT_EQ(ReadAndCompare(store(), "ns", documents[3]), absl::OkStatus()) << "the other copy is whole";
  place_->Stop(2);
  report = store()->Verify({});
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->index_problems.size(), 1u);
  EXPECT_THAT(report->index_problems[0], HasSubstr(place_->members()[2].address));
}

TEST_F(ReplicatedTest, ReadsDamagedCopyFromOtherOwner) {
  Open({.nodes = 2});
  const Synthetic one = MakeSynthetic(2, 6);
  ASSERT_EQ(Put(store(), one), absl::OkStatus());
  ASSERT_TRUE(EmptyDramTier(store()));
  ASSERT_GT(FlipOnDisk(place_->node(0).directory() + "/store", one), 0);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(ReadAndCompare(store(), "ns", one), absl::OkStatus());
}

TEST_F(ReplicatedTest, MissNeedsOneReachableOwner) {
  Open({.nodes = 2,
        .client = [](store::cluster::ReplicatedOptions* options) { options->patience = absl::Milliseconds(600); }});
  const auto documents = Documents(4);
  PutAll(documents);
  place_->Stop(0);
  for (const Synthetic& one : documents) EXPECT_EQ(ReadAndCompare(store(), "ns", one), absl::OkStatus());
  place_->Stop(1);
  absl::Status last;
  EXPECT_TRUE(Eventually([&] {
    last = store()->Lookup("ns", IdentitiesOf(documents), Codec::kRawBf16).status();
    return !last.ok();
  }));
  EXPECT_EQ(last.code(), absl::StatusCode::kUnavailable) << last;
  EXPECT_THAT(std::string(last.message()), HasSubstr("none of the 2 nodes"));
  place_->Start(0);
  EXPECT_TRUE(Eventually([&] { return ReadAndCompare(store(), "ns", documents[0]).ok(); }));
}

TEST_F(ReplicatedTest, EmptyClusterIsUnavailable) {
  Open({.nodes = 1, .copies = 1, .acknowledged = 1});
  place_->members()[0].member = false;
  place_->Publish();
  const Synthetic one = MakeSynthetic(1);
  EXPECT_TRUE(absl::IsUnavailable(store()->Lookup("ns", {one.manifest.identity}, Codec::kRawBf16).status()));
  EXPECT_TRUE(absl::IsUnavailable(Put(store(), one)));
  EXPECT_TRUE(absl::IsUnavailable(store()->Stats().status()));
  EXPECT_TRUE(absl::IsUnavailable(store()->Remove("ns", one.manifest.identity)));
}

}  // namespace
}  // namespace kvlink::testing
