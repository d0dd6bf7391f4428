// The promises of store.h, for every implementation.
#include "tests/store/contract.h"

#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"

namespace kvlink::store {
namespace {

using ::kvlink::testing::CompareLayer;
using ::kvlink::testing::EmptyDramTier;
using ::kvlink::testing::EntryOf;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ReadAndCompare;
using ::kvlink::testing::StoreMaker;
using ::kvlink::testing::StorePlace;
using ::kvlink::testing::StorePlaceOptions;
using ::kvlink::testing::Synthetic;

using kvlink::testing::Patience;

class StoreContractTest : public ::testing::TestWithParam<StoreMaker> {
 protected:
  // The second call closes the store and opens it again.
  Store* Open(const StorePlaceOptions& options = {}) {
    if (place_ == nullptr) {
      place_ = GetParam().make(options);
    } else {
      place_->Reopen();
    }
    return place_->store();
  }
  std::unique_ptr<StorePlace> place_;
};

INSTANTIATE_TEST_SUITE_P(Stores, StoreContractTest, ::testing::ValuesIn(testing::StoresUnderTest()),
                         [](const auto& info) { return info.param.name; });

TEST_P(StoreContractTest, StoresReadsAndSurvivesReopening) {
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2, 3, 700, 2, 64);
  {
    Store* const store = Open();
    for (const Synthetic* s : {&a, &b}) {
      auto put = store->Put("ns", s->manifest, s->spans(), Patience());
      ASSERT_TRUE(put.ok()) << put.status();
      EXPECT_EQ(put->outcome, PutOutcome::kWritten);
      EXPECT_EQ(put->etag, s->manifest.etag);
    }
    Tier source;
    EXPECT_TRUE(ReadAndCompare(store, "ns", b, &source).ok());
    EXPECT_EQ(source, Tier::kDram);  // a put leaves a copy
    ASSERT_TRUE(EmptyDramTier(store));
    EXPECT_TRUE(ReadAndCompare(store, "ns", b, &source).ok());
    EXPECT_EQ(source, Tier::kDisk);
    EXPECT_TRUE(ReadAndCompare(store, "ns", b, &source).ok());
    EXPECT_EQ(source, Tier::kDram);
  }
  Store* const store = Open();
  Tier source;
  EXPECT_TRUE(ReadAndCompare(store, "ns", a, &source).ok());
  EXPECT_EQ(source, Tier::kDisk);
  EXPECT_TRUE(ReadAndCompare(store, "ns", b).ok());
  EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store, "other", a)));
  const auto stats = store->Stats();
  ASSERT_TRUE(stats.ok());
  ASSERT_EQ(stats->namespaces.size(), 1u);
  EXPECT_EQ(stats->namespaces[0].encodings, 2);
  EXPECT_EQ(stats->namespaces[0].bytes, a.bytes() + b.bytes());
  EXPECT_GT(stats->hits_segments, 0);
  const auto report = store->Verify({});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->encodings, 2);
  EXPECT_TRUE(report->damaged.empty());
  EXPECT_THAT(report->index_problems, ::testing::IsEmpty());
}

TEST_P(StoreContractTest, FirstCommitWinsAndAnotherEtagIsAMiss) {
  Store* const store = Open();
  const Synthetic first = MakeSynthetic(1);
  Synthetic second = first;
  second.slabs[0][5] ^= std::byte{1};
  ASSERT_TRUE(second.manifest.ChecksumLayer(0, second.slabs[0]).ok());
  second.manifest.Seal();
  ASSERT_TRUE(store->Put("ns", first.manifest, first.spans(), Patience()).ok());
  const auto put = store->Put("ns", second.manifest, second.spans(), Patience());
  ASSERT_TRUE(put.ok());
  EXPECT_EQ(put->outcome, PutOutcome::kOtherThere);
  EXPECT_EQ(put->etag, first.manifest.etag);
  const auto again = store->Put("ns", first.manifest, first.spans(), Patience());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->outcome, PutOutcome::kThere);
  EXPECT_EQ(again->etag, first.manifest.etag);
  EXPECT_TRUE(absl::IsNotFound(
      store->Read("ns", first.manifest.identity, Codec::kRawBf16, second.manifest.etag, Patience()).status()));
  EXPECT_TRUE(ReadAndCompare(store, "ns", first).ok());
}

TEST_P(StoreContractTest, RefusesWhatDoesNotAgree) {
  Store* const store = Open();
  const Synthetic good = MakeSynthetic(1);
  for (const uint64_t number : {1, 2}) {  // off and on a page boundary
    Synthetic bad = MakeSynthetic(number);
    bad.slabs[1][3] ^= std::byte{4};
    EXPECT_TRUE(absl::IsInvalidArgument(store->Put("ns", bad.manifest, bad.spans(), Patience()).status()));
    EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store, "ns", bad)));
    EXPECT_EQ(store->Stats()->segment_bytes_used, 0);
  }
  auto spans = good.spans();
  spans.pop_back();
  EXPECT_TRUE(absl::IsInvalidArgument(store->Put("ns", good.manifest, spans, Patience()).status()));
  Manifest unsealed = good.manifest;
  unsealed.etag = Etag();
  EXPECT_TRUE(absl::IsInvalidArgument(store->Put("ns", unsealed, good.spans(), Patience()).status()));
  for (const std::string& name : {std::string(), std::string(256, 'x'), std::string("a\nb"), std::string("a\0b", 3),
                                  std::string("\xff"), std::string("\xc2\x85")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(store->Put(name, good.manifest, good.spans(), Patience()).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(store->PutDocument("ns", name, EntryOf({&good}, 1))));
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(store->Put("ns", good.manifest, good.spans(), absl::InfinitePast()).status()));
  EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store, "ns", good)));
  EXPECT_TRUE(store->Put("na\xc3\xafve", good.manifest, good.spans(), Patience()).ok());
}

TEST_P(StoreContractTest, CatalogKeepsTheHighestGenerationAndDropsWhatNothingRefersTo) {
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2), c = MakeSynthetic(3);
  {
    Store* const store = Open();
    for (const Synthetic* s : {&a, &b, &c}) ASSERT_TRUE(store->Put("ns", s->manifest, s->spans(), Patience()).ok());
    ASSERT_TRUE(store->PutDocument("ns", "one", EntryOf({&a, &b}, 5, "One")).ok());
    ASSERT_TRUE(store->PutDocument("ns", "two", EntryOf({&b}, 1, "Two")).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(store->PutDocument("ns", "one", EntryOf({&c}, 4))));
    EXPECT_EQ(store->GetDocument("ns", "one")->title, "One");
    EXPECT_TRUE(store->PutDocument("ns", "one", EntryOf({&a, &b}, 5, "One")).ok());  // the same again
    // An update: nothing refers to `a` any more.
    ASSERT_TRUE(store->PutDocument("ns", "one", EntryOf({&b, &c}, 6, "One, again")).ok());
    EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store, "ns", a)));
    EXPECT_TRUE(ReadAndCompare(store, "ns", b).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(store->DeleteDocument("ns", "one", 5)));
    ASSERT_TRUE(store->DeleteDocument("ns", "one", 6).ok());
    EXPECT_TRUE(absl::IsNotFound(store->GetDocument("ns", "one").status()));
    EXPECT_TRUE(absl::IsFailedPrecondition(store->PutDocument("ns", "one", EntryOf({&a}, 6))));
    EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store, "ns", c)));
    EXPECT_TRUE(ReadAndCompare(store, "ns", b).ok());  // "two" refers to it
    EXPECT_TRUE(store->DeleteDocument("ns", "never there", 1).ok());
  }
  Store* const store = Open();
  EXPECT_TRUE(absl::IsNotFound(store->GetDocument("ns", "one").status()));
  ASSERT_TRUE(store->PutDocument("ns", "three", EntryOf({&b}, 1, "Three")).ok());
  auto list = store->ListDocuments("ns", "", 10);
  ASSERT_TRUE(list.ok());
  ASSERT_EQ(list->size(), 2u);
  EXPECT_EQ((*list)[0].id, "three");
  EXPECT_EQ((*list)[0].tokens, 3);
  EXPECT_EQ((*list)[1].id, "two");
  EXPECT_EQ(store->ListDocuments("ns", "three", 10)->size(), 1u);
  EXPECT_EQ(store->ListDocuments("ns", "", 1)->size(), 1u);
  EXPECT_EQ(store->Stats()->namespaces[0].documents, 2);
  EXPECT_THAT(store->Verify({})->index_problems, ::testing::IsEmpty());
}

// The documents of a page may be gone before it is read: that does not end the listing.
TEST_P(StoreContractTest, AListingGoesOnPastWhatIsDeletedMeanwhile) {
  Store* const store = Open();
  const Synthetic a = MakeSynthetic(1);
  ASSERT_TRUE(store->PutDocument("ns", "last", EntryOf({&a}, 1)).ok());
  std::atomic<bool> stop{false};
  Thread writer("writer", [&] {
    for (uint64_t generation = 1; !stop && !HasFailure(); generation += 2) {
      EXPECT_EQ(store->PutDocument("ns", "first", EntryOf({&a}, generation)), absl::OkStatus());
      EXPECT_EQ(store->DeleteDocument("ns", "first", generation + 1), absl::OkStatus());
    }
  });
  for (int i = 0; i < 2000 && !HasFailure(); ++i) {
    const auto listed = store->ListDocuments("ns", "", 1);
    EXPECT_TRUE(listed.ok()) << listed.status();
    EXPECT_EQ(listed.ok() ? listed->size() : 0, 1u) << "listing " << i;
  }
  stop = true;
  writer.Join();
}

TEST_P(StoreContractTest, CatalogTakesManyAtATime) {
  Store* const store = Open();
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2), c = MakeSynthetic(3);
  for (const Synthetic* s : {&a, &b, &c}) ASSERT_TRUE(store->Put("ns", s->manifest, s->spans(), Patience()).ok());
  // More than a group, some of an entry large enough that bytes bound it.
  std::vector<DocumentPut> puts;
  for (int i = 0; i < 1500; ++i) puts.push_back({absl::StrCat("d", 10000 + i), EntryOf({i % 2 ? &a : &b}, 5)});
  for (int i = 0; i < 3; ++i) {
    puts[700 + i].entry.parts[0].tokens.assign(500000, 7);
  }
  auto put = store->PutDocuments("ns", puts);
  ASSERT_TRUE(put.ok()) << put.status();
  ASSERT_EQ(put->size(), puts.size());
  for (const absl::StatusOr<uint64_t>& generation : *put) {
    ASSERT_TRUE(generation.ok()) << generation.status();
    ASSERT_EQ(*generation, 5u);
  }
  EXPECT_EQ(store->Stats()->namespaces[0].documents, 1500);

  // Each document has a status of its own, and documents of a call see each other.
  put = store->PutDocuments("ns", {{"d10000", EntryOf({&c}, 4)},
                                   {"twice", EntryOf({&c}, 8)},
                                   {"twice", EntryOf({&c}, 7)},
                                   {"new", EntryOf({&c}, 1)}});
  ASSERT_TRUE(put.ok()) << put.status();
  ASSERT_EQ(put->size(), 4u);
  EXPECT_TRUE(absl::IsFailedPrecondition((*put)[0].status()));
  EXPECT_TRUE((*put)[1].ok() && (*put)[3].ok());
  EXPECT_TRUE(absl::IsFailedPrecondition((*put)[2].status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      store->PutDocuments("ns", {{"good", EntryOf({&c}, 1)}, {"", EntryOf({&c}, 1)}}).status()));

  std::vector<std::string> ids;
  for (const DocumentPut& one : puts) ids.push_back(one.id);
  ids[3] = "never there";
  auto got = store->GetDocuments("ns", ids);
  ASSERT_TRUE(got.ok()) << got.status();
  ASSERT_EQ(got->size(), ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i == 3) {
      EXPECT_TRUE(absl::IsNotFound((*got)[i].status()));
    } else {
      ASSERT_TRUE((*got)[i].ok()) << (*got)[i].status();
      EXPECT_EQ((*got)[i]->parts[0].tokens, puts[i].entry.parts[0].tokens);
    }
  }
  EXPECT_TRUE(store->PutDocuments("ns", {})->empty());
  EXPECT_TRUE(store->GetDocuments("ns", {})->empty());

  // Encodings go with the last document of a batch that refers to them, wherever in it.
  std::vector<DocumentDeletion> deletions;
  for (int i = 0; i < 1500; i += 2) deletions.push_back({puts[i].id, 5});
  auto deleted = store->DeleteDocuments("ns", deletions);
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_THAT(*deleted, ::testing::Each(absl::OkStatus()));
  EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store, "ns", b)));
  EXPECT_TRUE(ReadAndCompare(store, "ns", a).ok());
  EXPECT_EQ(store->Stats()->namespaces[0].documents, 752);
  EXPECT_THAT(store->Verify({})->index_problems, ::testing::IsEmpty());
}

// Whatever hosts think that the time is, there is one clock: the store's.
TEST_P(StoreContractTest, TheStoreSaysWhenAnEntryWasWritten) {
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  uint64_t last = 0;
  {
    Store* const store = Open();
    last = *store->Clock();
    EXPECT_GT(last, 0u);
    CatalogEntry entry = EntryOf({&a}, 5);
    entry.written_at_us = UINT64_MAX;  // not the caller's to say
    ASSERT_TRUE(store->PutDocuments("ns", {{"one", entry}, {"two", entry}}).ok());
    for (const char* id : {"one", "two"}) {
      const auto got = store->GetDocument("ns", id);
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_GT(got->written_at_us, last) << id;
      EXPECT_LT(got->written_at_us, UINT64_MAX);
      last = got->written_at_us;
    }
    // What is there already was not written again.
    ASSERT_TRUE(store->PutDocument("ns", "two", EntryOf({&a}, 5)).ok());
    EXPECT_EQ(store->GetDocument("ns", "two")->written_at_us, last);
    const auto listed = store->ListDocuments("ns", "one", 1);
    ASSERT_TRUE(listed.ok() && listed->size() == 1) << listed.status();
    EXPECT_EQ((*listed)[0].written_at_us, last);
  }
  Store* const store = Open();
  EXPECT_GT(*store->Clock(), last);
  ASSERT_TRUE(store->PutDocument("ns", "two", EntryOf({&b}, 6)).ok());
  EXPECT_GT(store->GetDocument("ns", "two")->written_at_us, last);
}

TEST_P(StoreContractTest, TheStoreGivesGenerations) {
  Store* const store = Open();
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  constexpr uint64_t kAhead = uint64_t{1} << 60;  // a host whose clock is far ahead
  ASSERT_TRUE(store->PutDocument("ns", "ahead", EntryOf({&a}, kAhead)).ok());
  const uint64_t before = *store->Clock();
  const auto put =
      store->PutDocuments("ns", {{"new", EntryOf({&a}, 0)}, {"ahead", EntryOf({&b}, 0)}, {"new", EntryOf({&b}, 0)}});
  ASSERT_TRUE(put.ok() && (*put)[0].ok() && (*put)[1].ok() && (*put)[2].ok());
  EXPECT_GT(*(*put)[0], before);
  EXPECT_EQ(*(*put)[1], kAhead + 1);
  EXPECT_GT(*(*put)[2], *(*put)[0]);
  EXPECT_EQ(store->GetDocument("ns", "new")->generation, *(*put)[2]);
  EXPECT_EQ(store->GetDocument("ns", "new")->parts[0].identity, b.manifest.identity);
  // Again, as after an answer that was lost: nothing changes.
  const auto again = store->PutDocuments("ns", {{"new", EntryOf({&b}, 0)}});
  ASSERT_TRUE(again.ok() && (*again)[0].ok());
  EXPECT_EQ(*(*again)[0], *(*put)[2]);
  // What was there when the clock was read is older.
  EXPECT_TRUE(absl::IsFailedPrecondition(store->PutDocument("ns", "new", EntryOf({&a}, before))));
  EXPECT_EQ(store->DeleteDocument("ns", "new", 0), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(store->GetDocument("ns", "new").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(store->PutDocument("ns", "new", EntryOf({&b}, *(*put)[2]))));
  EXPECT_EQ(store->PutDocument("ns", "new", EntryOf({&b}, 0)), absl::OkStatus());
  EXPECT_TRUE(store->GetDocument("ns", "new").ok());
  // Beyond the last there is none.
  ASSERT_TRUE(store->PutDocument("ns", "last", EntryOf({&a}, UINT64_MAX)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store->PutDocument("ns", "last", EntryOf({&b}, 0))));
}

TEST_P(StoreContractTest, DeletesByPrefix) {
  Store* const store = Open();
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  for (const Synthetic* s : {&a, &b}) ASSERT_TRUE(store->Put("ns", s->manifest, s->spans(), Patience()).ok());
  ASSERT_TRUE(store
                  ->PutDocuments("ns", {{"dir", EntryOf({&a}, 3)},
                                        {"dir/1", EntryOf({&a}, 9)},
                                        {"dir/2", EntryOf({&a}, 1)},
                                        {"dis", EntryOf({&b}, 1)}})
                  .ok());
  EXPECT_EQ(*store->DeletePrefix("ns", "nothing", 0), 0);
  EXPECT_EQ(*store->DeletePrefix("ns", "dir/", 0), 2);
  EXPECT_TRUE(store->GetDocument("ns", "dir").ok());
  EXPECT_EQ(*store->DeletePrefix("ns", "dir", 4), 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(store->PutDocument("ns", "dir", EntryOf({&a}, 4))));
  EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store, "ns", a)));
  EXPECT_TRUE(ReadAndCompare(store, "ns", b).ok());
  EXPECT_EQ(*store->DeletePrefix("ns", "", 0), 1);
  EXPECT_TRUE(store->ListDocuments("ns", "", 10)->empty());
}

TEST_P(StoreContractTest, DeletesANamespaceForGood) {
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  {
    Store* const store = Open();
    for (const char* ns : {"ns", "ns2"}) {
      for (const Synthetic* s : {&a, &b}) ASSERT_TRUE(store->Put(ns, s->manifest, s->spans(), Patience()).ok());
      ASSERT_TRUE(store->PutDocuments(ns, {{"one", EntryOf({&a}, 3)}, {"two", EntryOf({&a}, UINT64_MAX)}}).ok());
      ASSERT_TRUE(store->DeleteDocument(ns, "two", UINT64_MAX).ok());
    }
    ASSERT_TRUE(store->Pin("ns", b.manifest.identity, b.manifest.codec).ok());
    const auto deleted = store->DeleteNamespace("ns");
    if (absl::IsUnimplemented(deleted.status())) GTEST_SKIP() << deleted.status();
    ASSERT_TRUE(deleted.ok()) << deleted.status();
    EXPECT_EQ(deleted->documents, 1);
    EXPECT_EQ(deleted->encodings, 2);
    for (const Synthetic* s : {&a, &b}) EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store, "ns", *s)));
    for (const Synthetic* s : {&a, &b}) EXPECT_TRUE(ReadAndCompare(store, "ns2", *s).ok());
    EXPECT_TRUE(store->DeleteNamespace("never there").ok());
  }
  Store* const store = Open();
  EXPECT_TRUE(store->ListDocuments("ns", "", 10)->empty());
  // No tombstone is left, so that nothing locks an id for ever.
  ASSERT_TRUE(store->Put("ns", a.manifest, a.spans(), Patience()).ok());
  EXPECT_TRUE(store->PutDocument("ns", "two", EntryOf({&a}, 1)).ok());
  EXPECT_TRUE(store->GetDocument("ns2", "one").ok());
  EXPECT_THAT(store->Verify({})->index_problems, ::testing::IsEmpty());
}

TEST_P(StoreContractTest, ReadsManyAtOnce) {
  Store* const store = Open();
  std::vector<Synthetic> documents;
  std::vector<ReadRequest> requests;
  for (int i = 0; i < 20; ++i) {
    documents.push_back(MakeSynthetic(i + 1, 2, 40 + i));
    const Synthetic& one = documents.back();
    if (i != 7) {
      ASSERT_TRUE(store->Put("ns", one.manifest, one.spans(), Patience()).ok());
    }
    requests.push_back({one.manifest.identity, one.manifest.etag});
  }
  requests[9].etag = requests[8].etag;
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(EmptyDramTier(store));
    auto leases = store->ReadMany(nullptr, "ns", Codec::kRawBf16, requests, Patience());
    ASSERT_EQ(leases.size(), requests.size());
    for (size_t i = 0; i < leases.size(); ++i) {
      if (i == 7 || i == 9) {
        EXPECT_TRUE(absl::IsNotFound(leases[i].status())) << leases[i].status();
        continue;
      }
      ASSERT_TRUE(leases[i].ok()) << leases[i].status();
      for (size_t layer = 0; layer < 2; ++layer) {
        EXPECT_EQ(CompareLayer(leases[i]->get(), documents[i], layer, Patience()), absl::OkStatus());
      }
    }
  }
  EXPECT_TRUE(store->ReadMany(nullptr, "ns", Codec::kRawBf16, {}, Patience()).empty());
}

TEST_P(StoreContractTest, RemovedEncodingsStayReadableUnderTheirLeases) {
  Store* const store = Open();
  const Synthetic a = MakeSynthetic(1);
  ASSERT_TRUE(store->Put("ns", a.manifest, a.spans(), Patience()).ok());
  ASSERT_TRUE(EmptyDramTier(store));
  auto lease = store->Read("ns", a.manifest.identity, Codec::kRawBf16, a.manifest.etag, Patience());
  ASSERT_TRUE(lease.ok());
  ASSERT_TRUE(store->Remove("ns", a.manifest.identity).ok());
  EXPECT_FALSE((*store->Lookup("ns", {a.manifest.identity}, Codec::kRawBf16))[0].present);
  // Its blocks are not given to others while it is held.
  for (int i = 10; i < 40; ++i) {
    const Synthetic other = MakeSynthetic(i);
    ASSERT_TRUE(store->Put("ns", other.manifest, other.spans(), Patience()).ok());
  }
  for (int layer = 0; layer < 2; ++layer) {
    ASSERT_TRUE((*lease)->WaitLayer(layer, Patience()).ok());
    EXPECT_EQ((*lease)->layer(layer), absl::MakeConstSpan(a.slabs[layer]));
  }
  EXPECT_TRUE(absl::IsInvalidArgument((*lease)->WaitLayer(2, Patience())));
  if (place_->leases_count()) {
    EXPECT_EQ(store->Stats()->leases, 1);
  }
}

TEST_P(StoreContractTest, ListsEncodings) {
  Store* const store = Open();
  for (int i = 0; i < 5; ++i) {
    for (Codec codec : {Codec::kRawBf16, Codec::kQ8}) {
      const Synthetic s = MakeSynthetic(i, 2, 40, 1, 32, codec);
      ASSERT_TRUE(store->Put("ns", s.manifest, s.spans(), Patience()).ok());
    }
  }
  Identity after;
  int64_t total = 0;
  for (;;) {
    auto page = store->ListEncodings("ns", after, 3);
    ASSERT_TRUE(page.ok()) << page.status();
    if (page->empty()) break;
    EXPECT_EQ(page->size(), 4u - (total == 8 ? 2 : 0));  // whole identities
    total += static_cast<int64_t>(page->size());
    after = page->back().manifest.identity;
  }
  EXPECT_EQ(total, 10);
}

TEST_P(StoreContractTest, ManyThreadsPutReadAndDelete) {
  Store* const store = Open({.dram_bytes = 2 << 20});  // so that eviction from DRAM happens
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 60; ++i) {
        const Synthetic s = MakeSynthetic(random() % 24);
        switch (random() % 4) {
          case 0: {
            const auto put = store->Put("ns", s.manifest, s.spans(), Patience());
            if (!put.ok()) ++wrong;
            break;
          }
          case 1:
            if (!store->Remove("ns", s.manifest.identity).ok()) ++wrong;
            break;
          default: {
            const absl::Status status = ReadAndCompare(store, "ns", s);
            if (!status.ok() && !absl::IsNotFound(status) && !absl::IsResourceExhausted(status)) {
              ADD_FAILURE() << status;
              ++wrong;
            }
          }
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const auto report = store->Verify({});
  ASSERT_TRUE(report.ok());
  EXPECT_THAT(report->index_problems, ::testing::IsEmpty());
  EXPECT_TRUE(report->damaged.empty());
}

TEST_P(StoreContractTest, LooksUpManyAtOnce) {
  Store* const store = Open();
  std::vector<Identity> identities;
  for (int i = 0; i < 9000; ++i) {
    Identity identity;
    identity.bytes[0] = static_cast<uint8_t>(i);
    identity.bytes[1] = static_cast<uint8_t>(i >> 8);
    identities.push_back(identity);
  }
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2, 3, 700, 2);
  for (const Synthetic* s : {&a, &b}) ASSERT_TRUE(store->Put("ns", s->manifest, s->spans(), Patience()).ok());
  identities[4095] = identities[8999] = a.manifest.identity;
  identities[4096] = b.manifest.identity;
  const auto found = store->Lookup("ns", identities, Codec::kRawBf16);
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), identities.size());
  for (size_t i = 0; i < found->size(); ++i) {
    EXPECT_EQ((*found)[i].present, i == 4095 || i == 4096 || i == 8999) << i;
  }
  EXPECT_EQ((*found)[8999].etag, a.manifest.etag);
  EXPECT_EQ((*found)[4096].etag, b.manifest.etag);
  EXPECT_EQ((*found)[4096].tokens, 700);
  EXPECT_EQ((*found)[4096].bytes, b.bytes());
  EXPECT_EQ((*found)[4096].tier, Tier::kDram);
  EXPECT_EQ(store->Lookup("ns", {}, Codec::kRawBf16)->size(), 0u);
  EXPECT_FALSE((*store->Lookup("ns", {a.manifest.identity}, Codec::kQ8))[0].present);
  EXPECT_TRUE(absl::IsInvalidArgument(store->Lookup("", {a.manifest.identity}, Codec::kQ8).status()));
}

TEST_P(StoreContractTest, ReadsHaveDeadlinesAndLayers) {
  Store* const store = Open();
  const Synthetic a = MakeSynthetic(1, 4);
  const auto read = [&](absl::Time deadline) {
    return store->Read("ns", a.manifest.identity, Codec::kRawBf16, a.manifest.etag, deadline);
  };
  EXPECT_TRUE(absl::IsNotFound(read(Patience()).status()));
  ASSERT_TRUE(store->Put("ns", a.manifest, a.spans(), Patience()).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(read(absl::InfinitePast()).status()));
  const auto lease = read(absl::InfiniteFuture());
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ((*lease)->manifest().etag, a.manifest.etag);
  EXPECT_TRUE(absl::IsInvalidArgument((*lease)->WaitLayer(4, Patience())));
  EXPECT_TRUE(absl::IsInvalidArgument((*lease)->WaitLayer(-1, Patience())));
  for (int layer = 0; layer < 4; ++layer) {
    ASSERT_TRUE((*lease)->WaitLayer(layer, absl::InfiniteFuture()).ok());
    EXPECT_EQ((*lease)->layer(layer), absl::MakeConstSpan(a.slabs[layer]));
  }
  EXPECT_TRUE((*lease)->WaitLayer(0, absl::InfinitePast()).ok());  // it is there
  EXPECT_TRUE((*lease)->intact());
}

TEST_P(StoreContractTest, PinsAreCountedAndBounded) {
  Store* const store = Open();
  const Synthetic a = MakeSynthetic(1);
  EXPECT_TRUE(absl::IsNotFound(store->Pin("ns", a.manifest.identity, Codec::kRawBf16)));
  ASSERT_TRUE(store->Put("ns", a.manifest, a.spans(), Patience()).ok());
  EXPECT_EQ(store->Stats()->pinned_bytes, 0);
  ASSERT_TRUE(store->Pin("ns", a.manifest.identity, Codec::kRawBf16).ok());
  ASSERT_TRUE(store->Pin("ns", a.manifest.identity, Codec::kRawBf16).ok());
  const int64_t pinned = store->Stats()->pinned_bytes;
  EXPECT_GT(pinned, 0);
  EXPECT_TRUE(store->Unpin("ns", a.manifest.identity, Codec::kRawBf16).ok());
  EXPECT_EQ(store->Stats()->pinned_bytes, pinned);
  EXPECT_TRUE(store->Unpin("ns", a.manifest.identity, Codec::kRawBf16).ok());
  EXPECT_EQ(store->Stats()->pinned_bytes, 0);
  EXPECT_FALSE(store->Unpin("ns", a.manifest.identity, Codec::kRawBf16).ok());
  // Each takes a block of 64 KiB; one namespace may pin half of the capacity.
  absl::Status last;
  int pins = 0;
  for (int i = 0; i < 600 && last.ok(); ++i) {
    const Synthetic s = MakeSynthetic(i, 1, 1);
    ASSERT_TRUE(store->Put("ns", s.manifest, s.spans(), Patience()).ok());
    last = store->Pin("ns", s.manifest.identity, Codec::kRawBf16);
    pins += last.ok() ? 1 : 0;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(last)) << last;
  EXPECT_GT(pins, 100);
}

TEST_P(StoreContractTest, VerifyTellsHowFarItIsAndCanBeStopped) {
  Store* const store = Open();
  for (int i = 0; i < 20; ++i) {
    const Synthetic s = MakeSynthetic(i);
    ASSERT_TRUE(store->Put("ns", s.manifest, s.spans(), Patience()).ok());
  }
  int64_t done = 0, all = 0;
  const auto report = store->Verify([&](int64_t so_far, int64_t in_all) {
    done = so_far;
    all = in_all;
    return true;
  });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->encodings, 20);
  EXPECT_GT(report->bytes, 0);
  EXPECT_EQ(done, all);
  EXPECT_TRUE(store->Verify([](int64_t, int64_t) { return false; }).ok());
}

}  // namespace
}  // namespace kvlink::store
