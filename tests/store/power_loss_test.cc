// Puts or pushes, updates, deletions and evictions on a recorded store, and the states a power loss could leave at any
// moment.
#include <thread>

#include "gtest/gtest.h"
#include "store/embedded/embedded_engine.h"
#include "tests/store/push.h"
#include "tests/store/workload.h"
#include "tests/support/recording_io.h"
#include "tests/support/seed.h"

namespace kvlink::store {
namespace {

using kvlink::testing::Change;
using kvlink::testing::CommitFilledPush;
using kvlink::testing::FillPush;
using kvlink::testing::Ledger;
using kvlink::testing::PutEncoding;
using kvlink::testing::PutInto;
using kvlink::testing::RecordingIo;
using kvlink::testing::RunChanges;
using kvlink::testing::ScratchDirectory;
using kvlink::testing::Soak;
using kvlink::testing::Synthetic;
using kvlink::testing::TestSeed;

// `raw`: where the engine behind the store is told.
absl::StatusOr<std::unique_ptr<Store>> OpenSmall(const std::string& path, bool evictions, engine::IoObserver* observer,
                                                 engine::Engine** raw = nullptr) {
  engine::EngineOptions options;
  options.dram_bytes = 4 << 20;
  options.segment_bytes = 1 << 20;
  options.segment_piece_bytes = 256 << 10;
  options.capacity_bytes = (evictions ? 2 : 24) << 20;
  options.observer = observer;
  auto opened = engine::Engine::Open(path, options);
  if (!opened.ok()) return opened.status();
  if (raw != nullptr) *raw = opened->get();
  return StoreOver(*std::move(opened));
}

// As a node puts what it was sent.
PutEncoding PushInto(engine::Engine* engine) {
  return [engine](absl::string_view ns, const Synthetic& s) {
    auto push = FillPush(engine, {std::string(ns), s.manifest.identity, s.manifest.codec}, s);
    if (!push.ok()) return push.status();
    return CommitFilledPush(engine, *std::move(push), s.manifest).status();
  };
}

void RunOnce(uint64_t seed, int states) {
  SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", seed));
  const bool evictions = seed % 2 == 0;
  ScratchDirectory scratch(/*in_memory=*/true);
  RecordingIo recording(scratch.path());
  Ledger ledger;
  // The directory is made under observation too: a power loss while it is being made is one of the moments.
  const std::string path = scratch.path() + "/store";
  {
    engine::Engine* engine = nullptr;
    auto store = OpenSmall(path, evictions, &recording, &engine);
    ASSERT_TRUE(store.ok()) << store.status();
    const PutEncoding put = seed / 2 % 2 == 0 ? PutInto(store->get()) : PushInto(engine);
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t) {
      threads.emplace_back([&, t] {
        const absl::Status status = RunChanges(
            store->get(), put, seed, t, 20, [&](const Change& change) { ledger.Started(change, recording.Now()); },
            [&](const Change& change) { ledger.Acknowledged(change, recording.Now()); });
        EXPECT_TRUE(status.ok()) << status;
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (seed % 3 == 0) {
      // An orderly close and a second life.
      store->reset();
      store = OpenSmall(path, evictions, &recording);
      ASSERT_TRUE(store.ok()) << store.status();
    }
    store->reset();
  }
  std::mt19937_64 random(seed);
  for (int i = 0; i < states; ++i) {
    const int64_t moment = static_cast<int64_t>(random() % (recording.Now() + 1));
    ScratchDirectory rebuilt(/*in_memory=*/true);
    recording.Rebuild(moment, seed * 1000 + i, rebuilt.path());
    auto store = OpenSmall(rebuilt.path() + "/store", evictions, nullptr);
    ASSERT_TRUE(store.ok()) << "state " << i << ", moment " << moment << ": " << store.status();
    const absl::Status status = ledger.Check(store->get(), moment, evictions);
    ASSERT_TRUE(status.ok()) << "state " << i << ", moment " << moment << " of " << recording.Now() << ": " << status;
  }
}

TEST(PowerLossTest, EveryAcknowledgedDocumentIsIntact) {
  const int seeds = Soak() ? 100 : testing::kSanitized ? 2 : 5;
  for (int i = 0; i < seeds && !::testing::Test::HasFatalFailure(); ++i) RunOnce(TestSeed() + i, Soak() ? 10 : 4);
}

}  // namespace
}  // namespace kvlink::store
