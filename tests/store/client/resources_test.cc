// What clients of many nodes share, and what they give up when nobody uses it.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/store/client/remote_nodes.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

using store::Lease;
using store::client::RemoteOptions;
using store::client::RemoteStore;
using store::client::ResourceOptions;

absl::StatusOr<std::unique_ptr<Lease>> Read(RemoteStore* store, const Synthetic& one) {
  return store->Read("ns", one.manifest.identity, one.manifest.codec, one.manifest.etag, Patience());
}

TEST(ResourcesTest, TheReceiveMemoryIsOneForAllNodes) {
  ResourceOptions resources;
  resources.receive_bytes = 6 * 4096;
  RemoteNodes nodes(3, resources);
  const auto stores = nodes.OpenAll();
  const Synthetic one = MakeSynthetic(1, 4, 10);  // 4 pages
  for (const auto& store : stores) ASSERT_EQ(PutOn(store.get(), one), absl::OkStatus());
  auto lease = Read(stores[0].get(), one);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_TRUE(absl::IsResourceExhausted(Read(stores[1].get(), one).status()));
  for (const auto& store : stores) EXPECT_EQ(store->Counters().receive_bytes_used, 4 * 4096);
  *lease = nullptr;
  const auto used = [&] { return stores[2]->Counters().receive_bytes_used; };
  EXPECT_TRUE(Becomes(used, 0));
  for (const auto& store : stores) {
    EXPECT_EQ(ReadAndCompare(store.get(), "ns", one), absl::OkStatus());
    EXPECT_TRUE(Becomes(used, 0));
  }
}

TEST(ResourcesTest, SlabsOfOneStoreServeAll) {
  ResourceOptions resources;
  resources.sending_bytes = 4096;  // less than a slab: what is not registered cannot be sent
  RemoteNodes nodes(2, resources);
  const auto stores = nodes.OpenAll();
  const Synthetic one = MakeSynthetic(2, 2, 200);
  ASSERT_GT(one.slabs[0].size(), 4096u);
  EXPECT_TRUE(absl::IsInvalidArgument(PutOn(stores[1].get(), one)));
  const auto memory = *stores[0]->AllocateSlabs(one.bytes());
  std::vector<absl::Span<const std::byte>> slabs;
  std::byte* at = memory->data();
  for (const auto& slab : one.slabs) {
    std::copy(slab.begin(), slab.end(), at);
    slabs.emplace_back(at, slab.size());
    at += slab.size();
  }
  for (const auto& store : stores) {
    const auto put = store->Put("ns", one.manifest, slabs, Patience());
    EXPECT_TRUE(put.ok()) << put.status();
  }
}

// Threads of this process by name, without those of gRPC and UCX, which have names of their own or the process's.
std::map<std::string, int> Threads() {
  std::map<std::string, int> threads;
  std::string own;
  std::getline(std::ifstream("/proc/self/comm") >> std::ws, own);
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(entry.path() / "comm"), name);
    if (name.empty() || name == own || name == "async" || absl::StrContains(name, "grpc") ||
        absl::StartsWith(name, "event_engine") || absl::StrContains(name, "-execut") ||
        absl::StrContains(name, "timer_manager")) {
      continue;
    }
    ++threads[name];
  }
  return threads;
}

// What clients of so many nodes add; `expected` as soon as it is that, for a thread has its name only once it runs.
std::map<std::string, int> ThreadsOfClients(const RemoteNodes& nodes, int count, const RemoteNodes::Change& change,
                                            const std::map<std::string, int>& expected) {
  const std::map<std::string, int> before = Threads();
  const auto resources = store::client::NewClientResources({});
  std::vector<std::unique_ptr<RemoteStore>> stores;
  const Synthetic one = MakeSynthetic(1);
  for (int i = 0; i < count; ++i) {
    stores.push_back(nodes.Open(i, [&](RemoteOptions* options) {
      options->resources = resources;
      change(options);
    }));
    EXPECT_EQ(PutOn(stores.back().get(), one), absl::OkStatus());
    EXPECT_EQ(ReadAndCompare(stores.back().get(), "ns", one), absl::OkStatus());
    EXPECT_EQ(stores.back()->Pin("ns", one.manifest.identity, one.manifest.codec), absl::OkStatus());
    const auto put = stores.back()->AskPut("ns", one.manifest, one.spans(), Patience());
    EXPECT_TRUE(put.ok() && (*put)->Wait(Patience()).ok());
  }
  const absl::Time limit = SteadyNow() + absl::Seconds(10);
  while (true) {
    std::map<std::string, int> added = Threads();
    for (const auto& [name, number] : before) added[name] -= number;
    for (auto it = added.begin(); it != added.end();) it = it->second == 0 ? added.erase(it) : std::next(it);
    if (added == expected || SteadyNow() >= limit) return added;
    absl::SleepFor(absl::Milliseconds(1));
  }
}

TEST(ResourcesTest, ThreadsDoNotGrowWithTheNodes) {
  const ScratchDirectory sockets;
  int started = 0;
  const RemoteNodes nodes(12, {}, [&](store::node::NodeOptions* node) {
    node->engine.dram_bytes = int64_t{16} << 20;
    node->engine.share_memory = true;
    node->local_socket = absl::StrCat(sockets.path(), "/", started++);
  });
  for (const std::string way : {"loopback", "grpc", "mapped"}) {
    SCOPED_TRACE(way);
    const auto change = [&](RemoteOptions* options) {
      if (way == "loopback") return;
      options->transport = nullptr;
      options->carrier = *store::client::ParseCarrier(way);
    };
    std::map<std::string, int> expected = {{"client-timer", 1}, {"verify", 1}, {"client-dial", 16}, {"client-put", 16}};
    // Of transports: gRPC's; the local one too and UCX's, which these nodes do not serve.
    if (way != "loopback") expected["progress"] = way == "grpc" ? 1 : 3;
    // Nodes start threads of theirs when they are first used in a way.
    if (way == "loopback") ThreadsOfClients(nodes, nodes.count(), change, expected);
    EXPECT_EQ(ThreadsOfClients(nodes, 1, change, expected), expected);
    EXPECT_EQ(ThreadsOfClients(nodes, nodes.count(), change, expected), expected);
  }
}

class IdleTest : public ::testing::Test {
 protected:
  RemoteOptions Options() {
    RemoteOptions options = nodes_.Options(0);
    options.idle_connection = absl::Milliseconds(50);
    return options;
  }
  int64_t connections() { return nodes_.network().open(); }
  absl::StatusOr<std::vector<store::Found>> Lookup() {
    return store_->Lookup("ns", {one_.manifest.identity}, Codec::kRawBf16);
  }

  RemoteNodes nodes_{1};
  const std::unique_ptr<RemoteStore> store_ = *store::client::OpenRemote(Options());
  const Synthetic one_ = MakeSynthetic(1);
};

TEST_F(IdleTest, ConnectionAndSessionEndAndComeAgain) {
  for (int round = 0; round < 3; ++round) {
    const auto found = Lookup();
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_TRUE(Becomes([&] { return connections(); }, 0));
    // So that the session is idle, too.
    absl::SleepFor(absl::Milliseconds(250));
  }
  ASSERT_TRUE(Lookup().ok());
  EXPECT_GE(store_->Counters().reconnects, 3);
  EXPECT_GE(store_->Counters().sessions, 2);
  EXPECT_EQ(store_->Counters().retries, 0);
  EXPECT_EQ(nodes_.node(0).log.Count("session has ended"), 0);
}

TEST_F(IdleTest, PinsHoldTheSession) {
  ASSERT_EQ(PutOn(store_.get(), one_), absl::OkStatus());
  const int64_t sessions = store_->Counters().sessions;
  ASSERT_EQ(store_->Pin("ns", one_.manifest.identity, Codec::kRawBf16), absl::OkStatus());
  ASSERT_EQ(store_->Pin("ns", one_.manifest.identity, Codec::kRawBf16), absl::OkStatus());
  for (int pins = 2; pins > 0; --pins) {
    if (store_->Counters().sessions != sessions) break;
    EXPECT_TRUE(Becomes([&] { return connections(); }, 0));
    absl::SleepFor(absl::Milliseconds(250));
    EXPECT_EQ(store_->Unpin("ns", one_.manifest.identity, Codec::kRawBf16), absl::OkStatus());
    EXPECT_EQ(store_->Counters().sessions, sessions);
  }
  const absl::Time limit = Patience();
  while (store_->Counters().sessions == sessions && SteadyNow() < limit) {
    EXPECT_TRUE(Becomes([&] { return connections(); }, 0));
    absl::SleepFor(absl::Milliseconds(250));
    EXPECT_TRUE(Lookup().ok());
  }
  EXPECT_EQ(store_->Counters().sessions, sessions + 1);
}

TEST_F(IdleTest, ALeaseOutlivesTheConnectionThatItCameOver) {
  ASSERT_EQ(PutOn(store_.get(), one_), absl::OkStatus());
  auto lease = Read(store_.get(), one_);
  ASSERT_TRUE(lease.ok()) << lease.status();
  for (size_t layer = 0; layer < 2; ++layer) ASSERT_TRUE((*lease)->WaitLayer(layer, Patience()).ok());
  EXPECT_TRUE(Becomes([&] { return connections(); }, 0));
  for (size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(CompareLayer(lease->get(), one_, layer, Patience()), absl::OkStatus());
  }
}

TEST_F(IdleTest, WhatIsUnderWayKeepsTheConnection) {
  ASSERT_EQ(PutOn(store_.get(), one_), absl::OkStatus());
  nodes_.network().Freeze(nodes_.data_address(0));
  const auto asked = store_->AskLookup("ns", {one_.manifest.identity}, Codec::kRawBf16, Patience());
  ASSERT_TRUE(asked.ok()) << asked.status();
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_EQ(connections(), 1);
  nodes_.network().Thaw(nodes_.data_address(0));
  EXPECT_TRUE((*asked)->Wait(Patience()).ok());
  EXPECT_EQ(store_->Counters().retries, 0);
}

TEST(ResourcesTest, StoresGoInAnyOrder) {
  for (int first = 0; first < 3; ++first) {
    RemoteNodes nodes(3);
    auto stores = nodes.OpenAll();
    nodes.DropResources();
    std::vector<Synthetic> documents;
    for (int i = 0; i < 8; ++i) documents.push_back(MakeSynthetic(i + 1, 4, 2000));
    for (const auto& store : stores) {
      for (const Synthetic& one : documents) ASSERT_EQ(PutOn(store.get(), one), absl::OkStatus());
    }
    // Given up while their bytes arrive and are verified.
    for (int i = 0; i < 3; ++i) {
      for (const Synthetic& one : documents) EXPECT_TRUE(Read(stores[(first + i) % 3].get(), one).ok());
      stores[(first + i) % 3] = nullptr;
      for (const auto& store : stores) {
        if (store == nullptr) continue;
        EXPECT_EQ(ReadAndCompare(store.get(), "ns", documents[0]), absl::OkStatus());
      }
    }
  }
}

}  // namespace
}  // namespace kvlink::testing
