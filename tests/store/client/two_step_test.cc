// Requests that are asked for in one step and waited for in another, of several nodes.
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/thread.h"
#include "gtest/gtest.h"
#include "tests/store/client/device_region.h"
#include "tests/store/client/remote_nodes.h"
#include "tests/store/client/silent_address.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

using store::Found;
using store::ReadRequest;
using store::client::Arrivals;
using store::client::PendingLookup;
using store::client::PendingPut;
using store::client::PendingReads;
using store::client::RemoteOptions;
using store::client::RemoteStore;
using store::client::ResourceOptions;

constexpr absl::Duration kMoment = absl::Milliseconds(20);

template <typename Pending>
std::unique_ptr<Pending> Must(absl::StatusOr<std::unique_ptr<Pending>> pending) {
  EXPECT_TRUE(pending.ok()) << pending.status();
  return pending.ok() ? *std::move(pending) : nullptr;
}

std::unique_ptr<PendingLookup> Ask(RemoteStore* store, const Synthetic& one,
                                   const std::shared_ptr<Arrivals>& arrivals = nullptr, uint64_t tag = 0) {
  return Must(store->AskLookup("ns", {one.manifest.identity}, Codec::kRawBf16, Patience(), {arrivals, tag}));
}

void ExpectPresent(const absl::StatusOr<std::vector<Found>>& found, bool present) {
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ((*found)[0].present, present);
}

TEST(TwoStepTest, OthersAnswerWhileOneStandsStill) {
  RemoteNodes nodes(3);
  const auto stores = nodes.OpenAll();
  const Synthetic one = MakeSynthetic(1);
  ASSERT_EQ(PutOn(stores[0].get(), one), absl::OkStatus());
  nodes.network().Freeze(nodes.data_address(1));
  const auto arrivals = std::make_shared<Arrivals>();
  std::vector<std::unique_ptr<PendingLookup>> asked;
  for (int i = 0; i < 3; ++i) asked.push_back(Ask(stores[i].get(), one, arrivals, i));
  EXPECT_EQ((std::set<std::optional<uint64_t>>{arrivals->Next(Patience()), arrivals->Next(Patience())}),
            (std::set<std::optional<uint64_t>>{0, 2}));
  // What is ready takes no time.
  ExpectPresent(asked[0]->Wait(absl::InfinitePast()), true);
  ExpectPresent(asked[2]->Wait(absl::InfinitePast()), false);
  EXPECT_EQ(arrivals->Next(SteadyNow() + kMoment), std::nullopt);
  EXPECT_TRUE(absl::IsDeadlineExceeded(asked[1]->Wait(SteadyNow() + kMoment).status()));
  nodes.network().Thaw(nodes.data_address(1));
  EXPECT_EQ(arrivals->Next(Patience()), 1u);
  ExpectPresent(asked[1]->Wait(absl::InfinitePast()), false);
}

TEST(TwoStepTest, WhoWantsSeveralIsToldOfAllAtOnce) {
  Arrivals arrivals;
  absl::Time at;
  arrivals.Add(1);
  EXPECT_EQ(arrivals.Next(SteadyNow() + kMoment, 2, &at), 1u) << "what there is at the deadline";
  EXPECT_LE(at + kMoment, SteadyNow());
  Thread adds("adds", [&arrivals] {
    arrivals.Add(2);
    absl::SleepFor(kMoment);
    arrivals.Add(3);
  });
  EXPECT_EQ(arrivals.Next(Patience(), 2), 2u);
  EXPECT_EQ(arrivals.Next(absl::InfinitePast()), 3u);
}

TEST(TwoStepTest, ALookupEndsAtItsDeadline) {
  RemoteNodes nodes(1);
  const auto store = nodes.Open(0);
  nodes.network().Freeze(nodes.data_address(0));
  const Synthetic one = MakeSynthetic(1);
  const auto asked = Must(store->AskLookup("ns", {one.manifest.identity}, Codec::kRawBf16, SteadyNow() + kMoment));
  EXPECT_TRUE(absl::IsDeadlineExceeded(asked->Wait(Patience()).status()));
  nodes.network().Thaw(nodes.data_address(0));
  ExpectPresent(store->Lookup("ns", {one.manifest.identity}, Codec::kRawBf16), false);
}

// Who hedges gives up early, again and again: a connection on which nothing comes is given up all the same.
TEST(TwoStepTest, AConnectionThatLeavesManyUnansweredIsDialledAgain) {
  RemoteNodes nodes(1);
  const auto store = nodes.Open(0);
  const Synthetic one = MakeSynthetic(1);
  nodes.network().Freeze(nodes.data_address(0));
  // Three seconds in all.
  for (int i = 0; i < 15; ++i) Ask(store.get(), one)->Wait(SteadyNow() + absl::Milliseconds(200)).IgnoreError();
  nodes.network().Thaw(nodes.data_address(0));
  ExpectPresent(store->Lookup("ns", {one.manifest.identity}, Codec::kRawBf16), false);
  EXPECT_EQ(store->Counters().reconnects, 1);
}

TEST(TwoStepTest, ANodeThatIsDialledDelaysNoOther) {
  RemoteNodes nodes(3);
  const auto stores = nodes.OpenAll([](RemoteOptions* options) { options->connect_later = true; });
  const Synthetic one = MakeSynthetic(1);
  nodes.network().Shut(nodes.data_address(0));
  const auto arrivals = std::make_shared<Arrivals>();
  std::vector<std::unique_ptr<PendingLookup>> asked;
  for (int i = 0; i < 3; ++i) asked.push_back(Ask(stores[i].get(), one, arrivals, i));
  EXPECT_EQ((std::set<std::optional<uint64_t>>{arrivals->Next(Patience()), arrivals->Next(Patience())}),
            (std::set<std::optional<uint64_t>>{1, 2}));
  EXPECT_TRUE(absl::IsDeadlineExceeded(asked[0]->Wait(SteadyNow() + kMoment).status()));
  nodes.network().Open(nodes.data_address(0));
  EXPECT_EQ(arrivals->Next(Patience()), 0u);
  ExpectPresent(asked[0]->Wait(absl::InfinitePast()), false);
}

TEST(TwoStepTest, ALookupIsTriedAgainWhileNobodyWaits) {
  RemoteNodes nodes(1);
  const auto store = nodes.Open(0);
  const Synthetic one = MakeSynthetic(1);
  ASSERT_EQ(PutOn(store.get(), one), absl::OkStatus());
  nodes.network().Freeze(nodes.data_address(0));
  const auto arrivals = std::make_shared<Arrivals>();
  const auto asked = Ask(store.get(), one, arrivals, 7);
  nodes.network().Cut(nodes.data_address(0));
  EXPECT_EQ(arrivals->Next(Patience()), 7u);
  ExpectPresent(asked->Wait(absl::InfinitePast()), true);
  // The connection may have been cut before the request was sent on it, which is no retry.
  EXPECT_GT(store->Counters().reconnects, 0);
}

TEST(TwoStepTest, ANodeThatIsAwayIsAMissWithinThePatience) {
  RemoteNodes nodes(1);
  const RemoteOptions options = nodes.Options(0);
  nodes.node(0).Stop();
  RemoteOptions later = options;
  later.connect_later = true;
  later.patience = absl::Milliseconds(100);
  const auto store = *store::client::OpenRemote(later);
  const auto arrivals = std::make_shared<Arrivals>();
  const auto asked = Ask(store.get(), MakeSynthetic(1), arrivals, 3);
  EXPECT_EQ(arrivals->Next(Patience()), 3u);
  EXPECT_TRUE(absl::IsUnavailable(asked->Wait(absl::InfinitePast()).status()));
}

// DEADLINE_EXCEEDED before the deadline would be taken for "not yet", and nothing would come any more.
TEST(TwoStepTest, ANodeThatAnswersNothingEndsAsUnavailable) {
  RemoteNodes nodes(1);
  const SilentAddress nobody;
  RemoteOptions options = nodes.Options(0);
  options.address = nobody.address();
  options.connect_timeout = options.patience = absl::Milliseconds(200);
  options.silence = absl::Milliseconds(100);
  EXPECT_TRUE(absl::IsUnavailable(store::client::OpenRemote(options).status()));
  options.connect_later = true;
  const auto store = *store::client::OpenRemote(options);
  const auto arrivals = std::make_shared<Arrivals>();
  const Synthetic one = MakeSynthetic(1);
  const auto lookup = Ask(store.get(), one, arrivals, 1);
  EXPECT_EQ(arrivals->Next(Patience()), 1u);
  for (int i = 0; i < 2; ++i) {
    const absl::Status ended = lookup->Wait(absl::InfinitePast()).status();
    EXPECT_TRUE(absl::IsUnavailable(ended)) << ended;
  }
  for (const absl::Duration silence : {absl::Milliseconds(100), absl::Seconds(1)}) {
    RemoteOptions other = options;
    other.silence = silence;
    const auto patient = *store::client::OpenRemote(other);
    const auto put = Must(patient->AskPut("ns", one.manifest, one.spans(), Patience(), {arrivals, 2}));
    EXPECT_EQ(arrivals->Next(Patience()), 2u);
    const absl::Status ended = put->Wait(absl::InfinitePast()).status();
    EXPECT_TRUE(absl::IsUnavailable(ended)) << ended;
  }
}

TEST(TwoStepTest, NodesThatAnswerNothingDelayNoOther) {
  RemoteNodes nodes(1);
  const SilentAddress nobody;
  const auto arrivals = std::make_shared<Arrivals>();
  const Synthetic one = MakeSynthetic(1);
  std::vector<std::unique_ptr<RemoteStore>> stores;
  std::vector<std::unique_ptr<PendingLookup>> asked;
  for (int i = 0; i < 9; ++i) {
    RemoteOptions options = nodes.Options(0);
    options.connect_later = true;
    options.connect_timeout = absl::Seconds(2);
    if (i < 8) options.address = nobody.address();
    stores.push_back(*store::client::OpenRemote(options));
    asked.push_back(Ask(stores.back().get(), one, arrivals, i));
  }
  EXPECT_EQ(arrivals->Next(Patience()), 8u);
  ExpectPresent(asked[8]->Wait(absl::InfinitePast()), false);
}

// A region of a device serves the transport that it is registered with, whichever store opened it.
TEST(TwoStepTest, WhatComesOverAnotherTransportLandsOnTheHost) {
  RemoteNodes nodes(1);
  const auto reaches = nodes.Open(0, ReachDevices);
  const auto other = nodes.Open(0);
  const auto same = nodes.Open(0, [&](RemoteOptions* options) { ReachDevices(options); });
  const Synthetic one = MakeSynthetic(1);
  ASSERT_EQ(PutOn(other.get(), one), absl::OkStatus());
  TestRegion region(int64_t{1} << 20);
  const auto buffer = reaches->OpenDeviceBuffer(region.Describe());
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  const std::vector<ReadRequest> requests = {{one.manifest.identity, one.manifest.etag}};
  for (RemoteStore* const store : {reaches.get(), other.get(), same.get()}) {
    const auto leases = store->ReadMany(buffer->get(), "ns", Codec::kRawBf16, requests, Patience());
    ASSERT_TRUE(leases[0].ok()) << leases[0].status();
    for (int64_t layer = 0; layer < 2; ++layer) EXPECT_TRUE((*leases[0])->WaitLayer(layer, Patience()).ok());
    EXPECT_EQ((*leases[0])->on_device(), store == reaches.get());
  }
}

TEST(TwoStepTest, ReadsOfManyNodesSideBySide) {
  RemoteNodes nodes(3);
  const auto stores = nodes.OpenAll();
  std::vector<Synthetic> documents;
  for (int i = 0; i < 6; ++i) documents.push_back(MakeSynthetic(i + 1));
  for (int i = 0; i < 6; ++i) ASSERT_EQ(PutOn(stores[i % 3].get(), documents[i]), absl::OkStatus());
  nodes.network().Freeze(nodes.data_address(0));
  const auto arrivals = std::make_shared<Arrivals>();
  std::vector<std::unique_ptr<PendingReads>> asked;
  for (int i = 0; i < 3; ++i) {
    std::vector<ReadRequest> requests;
    for (int k = i; k < 6; k += 3) requests.push_back({documents[k].manifest.identity, documents[k].manifest.etag});
    asked.push_back(
        Must(stores[i]->AskReads(nullptr, "ns", Codec::kRawBf16, requests, Patience(), {arrivals, uint64_t(i)})));
  }
  bool frozen = true;
  for (int left = 3; left > 0;) {
    if (left == 1 && std::exchange(frozen, false)) {
      EXPECT_TRUE(absl::IsDeadlineExceeded(asked[0]->Wait(SteadyNow() + kMoment).status()));
      nodes.network().Thaw(nodes.data_address(0));
    }
    const auto i = arrivals->Next(Patience());
    ASSERT_TRUE(i.has_value());
    auto leases = asked[*i]->Wait(absl::InfinitePast());
    if (absl::IsDeadlineExceeded(leases.status())) continue;  // the other has not answered yet
    ASSERT_TRUE(leases.ok()) << leases.status();
    EXPECT_EQ(*i == 0, left == 1);
    --left;
    ASSERT_EQ(leases->size(), 2u);
    for (int k = 0; k < 2; ++k) {
      ASSERT_TRUE((*leases)[k].ok()) << (*leases)[k].status();
      for (size_t layer = 0; layer < 2; ++layer) {
        EXPECT_EQ(CompareLayer((*leases)[k]->get(), documents[*i + 3 * k], layer, Patience()), absl::OkStatus());
      }
    }
  }
}

// Whoever waits for many nodes hears of each answer: its bytes can come while the others are still awaited.
TEST(TwoStepTest, AReadThatIsAnsweredDoesNotWaitForTheOthers) {
  RemoteNodes nodes(1);
  const auto store = nodes.Open(0);
  std::vector<Synthetic> documents;
  std::vector<ReadRequest> requests;
  for (int i = 0; i < 3; ++i) {
    documents.push_back(MakeSynthetic(i + 1));
    ASSERT_EQ(PutOn(store.get(), documents[i]), absl::OkStatus());
    requests.push_back({documents[i].manifest.identity, documents[i].manifest.etag});
  }
  nodes.network().Freeze(nodes.data_address(0), /*messages=*/1);
  const auto arrivals = std::make_shared<Arrivals>();
  const auto asked = Must(store->AskReads(nullptr, "ns", Codec::kRawBf16, requests, Patience(), {arrivals, 5}));
  EXPECT_EQ(arrivals->Next(Patience()), 5u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(asked->Wait(absl::InfinitePast()).status()));
  EXPECT_EQ(store->Counters().answered_reads, 1);
  int64_t bytes = 0;
  for (const auto& slab : documents[0].slabs) bytes += static_cast<int64_t>(slab.size());
  EXPECT_TRUE(Becomes([&] { return store->Counters().verified_bytes; }, bytes));
  nodes.network().Thaw(nodes.data_address(0));
  while (absl::IsDeadlineExceeded(asked->Wait(absl::InfinitePast()).status())) {
    ASSERT_EQ(arrivals->Next(Patience()), 5u);
  }
  EXPECT_EQ(store->Counters().answered_reads, 3);
}

TEST(TwoStepTest, ReadsThatAreGivenUpFreeTheirMemory) {
  RemoteNodes nodes(1, {}, [](store::node::NodeOptions* node) { node->limits.pulls_per_connection = 2; });
  const auto store = nodes.Open(0);
  std::vector<ReadRequest> requests;
  for (int i = 0; i < 2; ++i) {
    const Synthetic one = MakeSynthetic(i + 1, 4, 10);
    ASSERT_EQ(PutOn(store.get(), one), absl::OkStatus());
    requests.push_back({one.manifest.identity, one.manifest.etag});
  }
  const auto used = [&] { return store->Counters().receive_bytes_used; };
  nodes.network().Freeze(nodes.data_address(0), /*messages=*/1);  // the manifest of one
  auto asked = Must(store->AskReads(nullptr, "ns", Codec::kRawBf16, requests, Patience()));
  const absl::Time limit = Patience();
  while (used() == 0 && SteadyNow() < limit) {
    EXPECT_TRUE(absl::IsDeadlineExceeded(asked->Wait(SteadyNow() + absl::Milliseconds(1)).status()));
  }
  EXPECT_GT(used(), 0);
  asked = nullptr;
  EXPECT_TRUE(Becomes(used, 0));
  nodes.network().Thaw(nodes.data_address(0));
  // Their places among what the node allows at a time, too.
  for (const auto& lease : store->ReadMany(nullptr, "ns", Codec::kRawBf16, requests, Patience())) {
    EXPECT_TRUE(lease.ok()) << lease.status();
  }
}

TEST(TwoStepTest, PutsOnManyNodesFromOneThread) {
  RemoteNodes nodes(3);
  const auto stores = nodes.OpenAll([](RemoteOptions* options) { options->connect_later = true; });
  const Synthetic one = MakeSynthetic(2, 4, 2000);
  const auto arrivals = std::make_shared<Arrivals>();
  std::vector<std::unique_ptr<PendingPut>> puts;
  for (int i = 0; i < 3; ++i) {
    puts.push_back(Must(stores[i]->AskPut("ns", one.manifest, one.spans(), Patience(), {arrivals, uint64_t(i)})));
  }
  for (int i = 0; i < 3; ++i) {
    const auto which = arrivals->Next(Patience());
    ASSERT_TRUE(which.has_value());
    const auto put = puts[*which]->Wait(absl::InfinitePast());
    ASSERT_TRUE(put.ok()) << put.status();
    EXPECT_TRUE(put->written());
  }
  for (const auto& store : stores) EXPECT_EQ(ReadAndCompare(store.get(), "ns", one), absl::OkStatus());
}

// The put of a node that stands still holds a thread of the resources, until it is given up.
TEST(TwoStepTest, APutThatIsGivenUpMakesRoomForTheNext) {
  ResourceOptions resources;
  resources.puts = 1;
  RemoteNodes nodes(2, resources);
  const auto stores = nodes.OpenAll();
  auto one = std::make_unique<Synthetic>(MakeSynthetic(1, 4, 2000));
  const Synthetic other = MakeSynthetic(2, 4, 2000);
  for (const int answers : {0, 1}) {
    SCOPED_TRACE(answers);
    nodes.network().Freeze(nodes.data_address(0), answers);
    auto stuck = Must(stores[0]->AskPut("ns", one->manifest, one->spans(), Patience()));
    // Until it has the thread: of puts that wait for one, those of any node may be first.
    EXPECT_TRUE(Becomes([&] { return stores[0]->Counters().pushes; }, answers + 1));
    auto waits = Must(stores[1]->AskPut("ns", other.manifest, other.spans(), Patience()));
    auto never = Must(stores[1]->AskPut("ns", one->manifest, one->spans(), Patience()));
    const absl::Status waiting = waits->Wait(SteadyNow() + kMoment).status();
    EXPECT_TRUE(absl::IsDeadlineExceeded(waiting)) << waiting << stuck->Wait(absl::InfinitePast()).status();
    never = nullptr;
    stuck = nullptr;
    one = std::make_unique<Synthetic>(MakeSynthetic(1, 4, 2000));
    EXPECT_TRUE(waits->Wait(Patience()).ok());
    ExpectPresent(stores[1]->Lookup("ns", {one->manifest.identity}, Codec::kRawBf16), false);
    nodes.network().Thaw(nodes.data_address(0));
  }
}

TEST(TwoStepTest, APutThatIsGivenUpDoesNotWaitForAConnection) {
  RemoteNodes nodes(1);
  const auto store = nodes.Open(0, [](RemoteOptions* options) {
    options->connect_later = true;
    options->connect_timeout = options->silence = absl::Minutes(1);
  });
  const Synthetic one = MakeSynthetic(1);
  nodes.network().Shut(nodes.data_address(0));
  auto put = Must(store->AskPut("ns", one.manifest, one.spans(), Patience()));
  EXPECT_TRUE(Becomes([&] { return store->Counters().pushes; }, 1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(put->Wait(SteadyNow() + kMoment).status()));
  const absl::Time begun = SteadyNow();
  put = nullptr;
  EXPECT_LT(SteadyNow(), begun + absl::Seconds(30)) << "as long as connecting takes";
  nodes.network().Open(nodes.data_address(0));
}

TEST(TwoStepTest, RefusesWhatCannotBeAsked) {
  RemoteNodes nodes(1);
  const auto store = nodes.Open(0);
  const Synthetic one = MakeSynthetic(1);
  EXPECT_TRUE(absl::IsInvalidArgument(store->AskLookup("", {}, Codec::kRawBf16, Patience()).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(store->AskLookup("ns", {}, Codec::kRawBf16, SteadyNow()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(store->AskReads(nullptr, "", Codec::kRawBf16, {}, Patience()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(store->AskPut("ns", one.manifest, {}, Patience()).status()));
  // Nothing is asked for: ready at once.
  const auto arrivals = std::make_shared<Arrivals>();
  const auto reads = Must(store->AskReads(nullptr, "ns", Codec::kRawBf16, {}, Patience(), {arrivals, 1}));
  const auto lookup = Must(store->AskLookup("ns", {}, Codec::kRawBf16, Patience(), {arrivals, 2}));
  EXPECT_EQ(arrivals->Next(Patience()), 1u);
  EXPECT_EQ(arrivals->Next(Patience()), 2u);
  EXPECT_TRUE(reads->Wait(absl::InfinitePast()).ok());
  EXPECT_TRUE(lookup->Wait(absl::InfinitePast()).ok());
}

}  // namespace
}  // namespace kvlink::testing
