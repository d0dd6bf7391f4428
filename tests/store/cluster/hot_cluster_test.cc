// Hot encodings in a whole cluster: real nodes over a real etcd and a real database, and a client that reads one
// encoding continuously.
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/cli/cluster_status.h"
#include "store/cluster/node/member_node.h"
#include "store/cluster/node/upkeep.h"
#include "store/cluster/replicas/replicated.h"
#include "tests/store/cluster/cluster_database.h"
#include "tests/store/cluster/cluster_etcd.h"
#include "tests/store/database/own_database.h"
#include "tests/store/synthetic.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::testing {
namespace {

using cluster::HotView;
using cluster::MemberNode;
using ::testing::HasSubstr;

class HotClusterTest : public ClusterTest {
 protected:
  static constexpr int kNodes = 5;

  void SetUp() override {
    KVLINK_NEEDS_POSTGRES();
    ClusterTest::SetUp();
    if (IsSkipped()) return;
    StartEtcd(1);
    cluster::ClusterSettings settings;
    settings.copies = settings.acknowledged = 2;
    settings.database = SharedServer().connection(SharedServer().NewDatabase());
    auto made = cluster::CreateCluster(Connect().get(), settings, Patience());
    ASSERT_TRUE(made.ok()) << made.status();
    for (int i = 0; i < kNodes; ++i) {
      auto node = MemberNode::Start(OptionsOf(i), Patience());
      ASSERT_TRUE(node.ok()) << node.status();
      nodes_.push_back(*std::move(node));
    }
    opened_.membership = Open();
    ASSERT_TRUE(Eventually([&] {
      const auto view = opened_.membership->view();
      return absl::c_all_of(view->placement.members(),
                            [](const auto& member) { return member.state == cluster::MemberState::kActive; });
    }));
    opened_.catalog = *OpenDatabase(opened_.membership->view()->settings, /*make_tables=*/false, Patience());
    store::cluster::ReplicatedOptions options;
    options.node.carrier = store::client::Carrier::kGrpc;
    options.resources.receive_bytes = int64_t{16} << 20;
    auto opened = store::cluster::OpenReplicated(opened_.membership, opened_.catalog, options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    opened_.store = *std::move(opened);
  }
  void TearDown() override {
    opened_.store = nullptr;
    while (!nodes_.empty()) nodes_.pop_back();
  }

  // Shortens minutes to fractions of a second, and lowers the limit to a few reads per second.
  cluster::MemberNodeOptions OptionsOf(int i) {
    cluster::MemberNodeOptions options;
    options.node.directory = absl::StrCat(scratch_.path(), "/", i);
    options.node.engine.dram_bytes = int64_t{16} << 20;
    options.node.engine.capacity_bytes = int64_t{1} << 30;
    options.node.limits.read_rates_half_life = absl::Milliseconds(500);
    options.node.log = [](absl::string_view) {};
    options.cluster = Address();
    options.hot = {
        .bytes_per_second = 4096, .max_copies = 2, .settle = absl::Milliseconds(500), .cool = absl::Milliseconds(500)};
    cluster::UpkeepOptions upkeep;
    upkeep.repair.hot_look = absl::Milliseconds(20);
    upkeep.repair.hot_compare = absl::Milliseconds(100);
    upkeep.repair.keep_hot = absl::Milliseconds(100);
    upkeep.repair.keep_unowned = absl::ZeroDuration();
    upkeep.open_database = OpenDatabase;
    options.companions = {cluster::MakeUpkeep(std::move(upkeep))};
    return options;
  }

  void Ingest(const std::string& id, const Synthetic& encoding) {
    ASSERT_TRUE(opened_.store->Put("ns", encoding.manifest, encoding.spans(), Patience()).ok());
    const auto put = opened_.store->PutDocument("ns", id, EntryOf({&encoding}, 0));
    ASSERT_TRUE(put.ok()) << put;
  }
  bool Has(const MemberNode& node, const Synthetic& encoding) const {
    return node.node()->engine()->Find({"ns", encoding.manifest.identity, encoding.manifest.codec}).has_value();
  }
  int Copies(const Synthetic& encoding) const {
    return static_cast<int>(absl::c_count_if(nodes_, [&](const auto& node) { return Has(*node, encoding); }));
  }
  const MemberNode& NodeOfMember(uint16_t member) const {
    const auto& id = opened_.membership->view()->placement.members()[member].node_id;
    return **absl::c_find_if(nodes_, [&](const auto& node) { return node->id() == id; });
  }
  static int64_t Reads(const MemberNode& node) {
    const auto statistics = node.node()->engine()->Stats();
    return statistics.hits_dram + statistics.hits_segments;
  }
  // Members that report a further copy.
  std::vector<uint16_t> Holders(const Synthetic& encoding) const {
    const auto view = opened_.membership->view();
    const HotView::Encoding* const hot =
        view->hot == nullptr ? nullptr : view->hot->Find({"ns", encoding.manifest.identity, encoding.manifest.codec});
    return hot == nullptr ? std::vector<uint16_t>() : hot->holders;
  }

  ScratchDirectory scratch_;
  std::vector<std::unique_ptr<MemberNode>> nodes_;
  cli::ClusterStore opened_;
};

// Reads an encoding continuously. Any result other than its bytes or a miss fails the test.
class Reader {
 public:
  Reader(store::Store* store, const Synthetic& encoding)
      : thread_("reader", [this, store, &encoding] {
          while (!stop_.load()) {
            const absl::Status read = ReadAndCompare(store, "ns", encoding);
            EXPECT_TRUE(read.ok() || (absl::IsNotFound(read) && may_miss)) << read;
            ++reads;
          }
        }) {}
  ~Reader() { stop_.store(true); }

  std::atomic<int64_t> reads{0};
  std::atomic<bool> may_miss{false};

 private:
  std::atomic<bool> stop_{false};
  Thread thread_;
};

TEST_F(HotClusterTest, FurtherCopiesAreMadeReadAndRemoved) {
  const Synthetic deleted = MakeSynthetic(1), cooled = MakeSynthetic(2);
  Ingest("deleted", deleted);
  Ingest("cooled", cooled);
  EXPECT_EQ(Copies(deleted), 2);
  {
    Reader reader(opened_.store.get(), deleted);
    ASSERT_TRUE(Eventually([&] { return Holders(deleted).size() == 2; }));
    const auto view = opened_.membership->view();
    auto further = FurtherMembers(view->placement, SlotOf(deleted.manifest.identity), 2);
    absl::c_sort(further);
    EXPECT_EQ(Holders(deleted), further);
    EXPECT_EQ(Copies(deleted), 4);
    EXPECT_GT(view->hot->encodings()[0].reads_per_second, 0u);
    const std::string status = cli::ClusterStatus(opened_, /*json=*/false, /*one_line=*/false);
    EXPECT_THAT(status,
                HasSubstr(absl::StrCat("hot: ", deleted.manifest.identity.Hex(), " of namespace ns (raw-bf16)")));
    EXPECT_THAT(status, HasSubstr("2 of 2 further copies"));
    EXPECT_THAT(cli::ClusterStatus(opened_, /*json=*/true, /*one_line=*/true), HasSubstr(R"("copies_wanted":2)"));
    for (const uint16_t member : further) {
      const MemberNode& node = NodeOfMember(member);
      const int64_t before = Reads(node);
      EXPECT_TRUE(Eventually([&] { return Reads(node) >= before + 20; })) << "reads are spread over all that hold it";
    }
    // No node keeps it, owner or not, and none gets it back while it is still being read.
    reader.may_miss = true;
    const auto removed = opened_.store->DeleteDocument("ns", "deleted", 0);
    ASSERT_TRUE(removed.ok()) << removed;
    EXPECT_TRUE(Eventually([&] { return Copies(deleted) == 0; }));
    EXPECT_TRUE(Eventually([&] { return Holders(deleted).empty(); }));
    const int64_t before = reader.reads;
    EXPECT_TRUE(Eventually([&] { return reader.reads >= before + 50; }));
    EXPECT_EQ(Copies(deleted), 0);
  }
  {
    const Reader reader(opened_.store.get(), cooled);
    ASSERT_TRUE(Eventually([&] { return Copies(cooled) == 4 && Holders(cooled).size() == 2; }));
  }
  EXPECT_TRUE(Eventually([&] { return Copies(cooled) == 2 && opened_.membership->view()->hot == nullptr; }));
  const auto read = ReadAndCompare(opened_.store.get(), "ns", cooled);
  EXPECT_TRUE(read.ok()) << read;
}

}  // namespace
}  // namespace kvlink::testing
