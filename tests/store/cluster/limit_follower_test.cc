// The limits of a real database on an engine.
#include "store/cluster/node/limit_follower.h"

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/store/database/own_database.h"
#include "tests/support/patience.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::store::cluster {
namespace {

using engine::NamespaceSettings;
using ::kvlink::testing::Eventually;
using ::kvlink::testing::OwnDatabase;
using ::kvlink::testing::Patience;
using ::kvlink::testing::PostgresServer;
using ::kvlink::testing::ScratchDirectory;
using All = std::map<std::string, NamespaceSettings>;

class LimitFollowerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    KVLINK_NEEDS_POSTGRES();
    auto opened = engine::Engine::Open(scratch_.path(), {.dram_bytes = 4 << 20, .capacity_bytes = 4 << 20});
    ASSERT_TRUE(opened.ok()) << opened.status();
    engine_ = *std::move(opened);
  }
  std::unique_ptr<LimitFollower> Make(database::DatabaseCatalog* catalog) {
    return std::make_unique<LimitFollower>(engine_.get(), catalog, [this](Severity, absl::string_view event, auto) {
      gone_ += event == "limits_not_followed" ? 1 : 0;
      back_ += event == "limits_followed" ? 1 : 0;
    });
  }
  std::unique_ptr<LimitFollower> Follow(database::DatabaseCatalog* catalog) {
    auto follower = Make(catalog);
    const absl::Status caught_up = follower->CatchUp(Patience());
    EXPECT_TRUE(caught_up.ok()) << caught_up;
    return follower;
  }
  bool Become(const All& all) {
    return Eventually([&] { return engine_->NamespaceSettingsAll() == all; });
  }

  ScratchDirectory scratch_{/*in_memory=*/true};
  std::unique_ptr<engine::Engine> engine_;
  std::atomic<int> gone_{0}, back_{0};
};

TEST_F(LimitFollowerTest, AppliesLimitsOfDatabase) {
  OwnDatabase database;
  // Limits from before the node joined.
  ASSERT_TRUE(engine_->PutNamespace("alone", {.capacity_bytes = 1 << 20}).ok());
  ASSERT_TRUE(database->PutNamespace({"a", 2 << 20, 1 << 20, 7}, Patience()).ok());
  const auto catalog = database.Open();
  const auto follower = Follow(catalog.get());
  EXPECT_EQ(engine_->NamespaceSettingsAll(), (All{{"a", {2 << 20, 1 << 20, 7}}})) << "before anything is served";
  follower->Start();
  ASSERT_TRUE(database->PutNamespace({"a", 3 << 20, {}, {}}, Patience()).ok());
  ASSERT_TRUE(database->PutNamespace({"b", {}, 5, {}}, Patience()).ok());
  EXPECT_TRUE(Become({{"a", {3 << 20, 1 << 20, 8}}, {"b", {0, 5, 1}}}));
  // A deleted namespace has no limits, and starts again below the node's revision.
  ASSERT_TRUE(database->DeleteNamespace("a").ok());
  EXPECT_TRUE(Become({{"b", {0, 5, 1}}}));
  ASSERT_TRUE(database->PutNamespace({"a", {}, {}, 9}, Patience()).ok());
  EXPECT_TRUE(Become({{"a", {0, 0, 9}}, {"b", {0, 5, 1}}}));
  ASSERT_TRUE(database->DeleteNamespace("a").ok());
  ASSERT_TRUE(database->PutNamespace({"a", 1 << 20, {}, {}}, Patience()).ok());
  EXPECT_TRUE(Become({{"a", {1 << 20, 0, 1}}, {"b", {0, 5, 1}}}));
  // A drop that is carried out late removes limits that were set since; they come back.
  ASSERT_TRUE(engine_->DeleteNamespace("a").ok());
  EXPECT_TRUE(Become({{"a", {1 << 20, 0, 1}}, {"b", {0, 5, 1}}}));
}

TEST_F(LimitFollowerTest, KeepsLimitsWithoutDatabase) {
  PostgresServer server;
  OwnDatabase database(server);
  ASSERT_TRUE(database->PutNamespace({"a", 2 << 20, {}, {}}, Patience()).ok());
  const auto catalog = database.Open();
  const auto follower = Follow(catalog.get());
  follower->Start();
  server.Kill();
  EXPECT_TRUE(Eventually([&] { return gone_ > 0; }));
  EXPECT_EQ(engine_->NamespaceSettingsAll(), (All{{"a", {2 << 20, 0, 1}}}));
  const absl::Status late = Make(catalog.get())->CatchUp(SteadyNow() + absl::Seconds(2));
  EXPECT_TRUE(absl::IsUnavailable(late) || absl::IsDeadlineExceeded(late)) << late;
  server.Restart();
  EXPECT_TRUE(Eventually([&] { return back_ > 0; }));
  ASSERT_TRUE(database->PutNamespace({"a", 3 << 20, {}, {}}, Patience()).ok());
  EXPECT_TRUE(Become({{"a", {3 << 20, 0, 2}}}));
}

}  // namespace
}  // namespace kvlink::store::cluster
