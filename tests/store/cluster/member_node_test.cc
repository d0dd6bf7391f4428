// Whole nodes as members, against a real etcd: directories, joining, draining, and refused starts.
#include "store/cluster/node/member_node.h"

#include <filesystem>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "store/client/remote.h"
#include "store/cluster/node/binding.h"
#include "store/cluster/node/upkeep.h"
#include "tests/store/cluster/cluster_database.h"
#include "tests/store/cluster/cluster_etcd.h"
#include "tests/store/database/own_database.h"
#include "tests/store/node/raw_client.h"
#include "tests/store/synthetic.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::testing {
namespace {

using cluster::MemberNode;
using cluster::MemberState;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Stands in for repair: reports that the node holds all that it owns once `complete` is set.
class Filler : public cluster::Companion {
 public:
  struct Control {
    std::atomic<bool> complete{true};
    std::atomic<int> prepared{0}, started{0}, stopped{0}, left{0};
  };
  Filler(const cluster::CompanionContext& context, Control* control) : context_(context), control_(control) {}
  absl::Status Prepare(absl::Time) override {
    ++control_->prepared;
    return absl::OkStatus();
  }
  void Start() override {
    ++control_->started;
    thread_ = Thread("filler", [this] { Run(); });
  }
  void Stop(bool left) override {
    ++control_->stopped;
    control_->left += left ? 1 : 0;
    stop_.store(true);
    thread_.Join();
  }

 private:
  void Run() {
    while (!stop_.load()) {
      const auto view = context_.membership->view();
      const uint32_t done = control_->complete.load() ? 1 : 0;
      context_.publish({view->placement.epoch(), 1, done, 0, 0});
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
  const cluster::CompanionContext context_;
  Control* const control_;
  std::atomic<bool> stop_{false};
  Thread thread_;
};

class MemberNodeTest : public ClusterTest {
 protected:
  cluster::MemberNodeOptions OptionsOf(const std::string& name, const std::string& cluster_name = "default") {
    cluster::MemberNodeOptions options;
    options.node.directory = Directory(name);
    options.node.engine.dram_bytes = int64_t{16} << 20;
    options.node.engine.capacity_bytes = int64_t{3} << 30;
    options.node.version = "test";
    options.node.log = [this](absl::string_view line) {
      MutexLock lock(&mutex_);
      log_.append(line.data(), line.size()).append("\n");
    };
    options.cluster = Address(cluster_name);
    options.ttl = absl::Seconds(1);
    options.companions.push_back(
        [this](const cluster::CompanionContext& context) { return std::make_unique<Filler>(context, &filler_); });
    return options;
  }
  std::string Directory(const std::string& name) const { return scratch_.path() + "/" + name; }
  std::unique_ptr<MemberNode> Start(cluster::MemberNodeOptions options) {
    auto node = MemberNode::Start(std::move(options), Patience());
    EXPECT_TRUE(node.ok()) << node.status();
    return node.ok() ? *std::move(node) : nullptr;
  }
  absl::Status StartStatus(cluster::MemberNodeOptions options) {
    return MemberNode::Start(std::move(options), Patience()).status();
  }
  bool Logged(const std::string& part) {
    MutexLock lock(&mutex_);
    return log_.find(part) != std::string::npos;
  }
  static MemberState StateOf(const cluster::View& view, const cluster::NodeId& id) {
    for (const auto& member : view.placement.members()) {
      if (member.node_id == id) return member.state;
    }
    ADD_FAILURE() << "no member " << cluster::IdHex(id);
    return MemberState::kJoining;
  }

  ScratchDirectory scratch_;
  Filler::Control filler_;
  Mutex mutex_;
  std::string log_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(MemberNodeTest, JoinsServesAndLeaves) {
  StartEtcd(1);
  const auto settings = Create("default", 1);
  const auto first = Start(OptionsOf("first"));
  ASSERT_NE(first, nullptr);
  const auto view = first->membership().view();
  EXPECT_EQ(view->status[0].address, first->node()->addresses().control);
  EXPECT_EQ(view->status[0].build, "test");
  EXPECT_EQ(view->placement.members()[0].weight, 3u) << "GiB";
  EXPECT_EQ(StateOf(*view, first->id()), MemberState::kActive);
  const auto binding = cluster::ReadBinding(Directory("first"));
  ASSERT_TRUE(binding.ok() && binding->has_value()) << binding.status();
  EXPECT_EQ((*binding)->cluster_id, settings.id);

  // It becomes active only once it holds what it owns.
  filler_.complete = false;
  auto options = OptionsOf("second");
  options.zone = "b";
  options.weight = 7;
  const auto second = Start(std::move(options));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(StateOf(*second->membership().view(), second->id()), MemberState::kJoining);
  EXPECT_TRUE(Eventually([&] { return Logged("weight_above_capacity"); })) << "7 of 3 GiB";
  ASSERT_TRUE(Eventually([&] { return first->membership().progress().contains(second->id()); }));
  EXPECT_EQ(StateOf(*first->membership().view(), second->id()), MemberState::kJoining);
  // Limits apply to the cluster; each node enforces its share.
  EXPECT_EQ(first->node()->engine()->share_of_limits(), 1) << "it owns all until the second is filled";
  filler_.complete = true;
  ASSERT_TRUE(Eventually([&] { return StateOf(*first->membership().view(), second->id()) == MemberState::kActive; }));
  EXPECT_TRUE(Eventually([&] { return first->node()->engine()->share_of_limits() < 0.35; })) << "3 of 10";
  EXPECT_TRUE(Eventually([&] {
    const double sum = first->node()->engine()->share_of_limits() + second->node()->engine()->share_of_limits();
    return sum > 0.999 && sum < 1.001;
  }));

  // It leaves only once the others hold what it held.
  filler_.complete = false;
  const auto drained = cluster::Drain(Connect().get(), second->id(), Patience());
  ASSERT_TRUE(drained.ok()) << drained.status();
  ASSERT_TRUE(Eventually([&] {
    const auto progress = first->membership().progress();
    const auto found = progress.find(first->id());
    return found != progress.end() && found->second.epoch == *drained;
  }));
  ASSERT_TRUE(Eventually([&] { return Logged("drain_waits"); }));
  EXPECT_FALSE(second->ended().has_value());
  filler_.complete = true;
  ASSERT_TRUE(Eventually([&] { return second->ended().has_value(); }));
  EXPECT_TRUE(second->ended()->ok()) << *second->ended();
  ASSERT_TRUE(Eventually([&] { return first->membership().view()->status.size() == 1; }));
  second->Leave();
  EXPECT_EQ(filler_.stopped, 1);
  EXPECT_EQ(filler_.left, 1);
  EXPECT_EQ(filler_.prepared, 2);
  EXPECT_EQ(filler_.started, 2);
}

TEST_F(MemberNodeTest, RestartsAsSameNode) {
  StartEtcd(1);
  Create();
  cluster::NodeId id;
  uint64_t epoch;
  {
    const auto node = Start(OptionsOf("node"));
    ASSERT_NE(node, nullptr);
    id = node->id();
    epoch = node->membership().view()->placement.epoch();
  }
  const auto node = Start(OptionsOf("node"));
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(node->id(), id);
  EXPECT_EQ(node->membership().view()->placement.epoch(), epoch);
  EXPECT_EQ(node->membership().view()->status.size(), 1u);
}

TEST_F(MemberNodeTest, RefusesCopiedDirectory) {
  StartEtcd(1);
  Create();
  { ASSERT_NE(Start(OptionsOf("node")), nullptr); }
  std::filesystem::copy(Directory("node"), Directory("copy"), std::filesystem::copy_options::recursive);
  const auto node = Start(OptionsOf("node"));
  ASSERT_NE(node, nullptr);
  const int prepared = filler_.prepared;
  const absl::Status copy = StartStatus(OptionsOf("copy"));
  EXPECT_EQ(copy.code(), absl::StatusCode::kAlreadyExists) << copy;
  EXPECT_THAT(std::string(copy.message()), HasSubstr(node->node()->addresses().control));
  EXPECT_EQ(filler_.prepared, prepared) << "a refused node prepares nothing";
  EXPECT_FALSE(node->ended().has_value());
}

// The copy is started again while the node is down.
TEST_F(MemberNodeTest, CopiedDirectoryDoesNotTakeOver) {
  StartEtcd(1);
  Create();
  { ASSERT_NE(Start(OptionsOf("node")), nullptr); }
  std::filesystem::copy(Directory("node"), Directory("copy"), std::filesystem::copy_options::recursive);
  { ASSERT_NE(Start(OptionsOf("node")), nullptr); }
  for (int i = 0; i < 2; ++i) {
    const absl::Status copy = StartStatus(OptionsOf("copy"));
    EXPECT_EQ(copy.code(), absl::StatusCode::kAlreadyExists) << copy;
  }
  const auto node = Start(OptionsOf("node"));
  EXPECT_NE(node, nullptr);
}

// With its unit file, while the node runs: both advertise one address, at which neither of them listens.
TEST_F(MemberNodeTest, AClonedMachineDoesNotTakeOver) {
  StartEtcd(1);
  Create();
  const auto options = [this](const std::string& name) {
    auto options = OptionsOf(name);
    options.advertise = "localhost:7400";
    return options;
  };
  { ASSERT_NE(Start(options("node")), nullptr); }
  std::filesystem::copy(Directory("node"), Directory("clone"), std::filesystem::copy_options::recursive);
  const auto node = Start(options("node"));
  ASSERT_NE(node, nullptr);
  std::filesystem::copy_file(Directory("node") + "/ENTERED", Directory("clone") + "/ENTERED",
                             std::filesystem::copy_options::overwrite_existing);
  const absl::Status clone = StartStatus(options("clone"));
  EXPECT_EQ(clone.code(), absl::StatusCode::kAlreadyExists) << clone;
  EXPECT_FALSE(node->ended().has_value());
}

// The name may lead to the other machine from there.
TEST_F(MemberNodeTest, AProcessMayBeAliveAtTheNameAtWhichThisOneListens) {
  StartEtcd(1);
  Create();
  auto options = OptionsOf("node");
  options.node.control_address = "localhost:0";
  std::string address, key;
  {
    const auto node = Start(std::move(options));
    ASSERT_NE(node, nullptr);
    address = node->node()->addresses().control;
    key = cluster::KeyOf("default", cluster::KeyKind::kAlive, node->id());
  }
  const auto connection = Connect();
  const auto lease = connection->client()->Grant(absl::Hours(1), Patience());
  ASSERT_TRUE(lease.ok()) << lease.status();
  const std::string alive = cluster::SerializeAlive({1, address});
  ASSERT_TRUE(connection->client()->Put(key, alive, lease->id, Patience()).ok());
  auto again = OptionsOf("node");
  again.node.control_address = address;
  const absl::Status refused = StartStatus(std::move(again));
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists) << refused;
  EXPECT_THAT(std::string(refused.message()), AllOf(HasSubstr(address), HasSubstr("start it again")));
}

// As by kvlink cluster set, while the cluster has no member yet. Its companions know the one before.
TEST_F(MemberNodeTest, ANodeDoesNotJoinWithADatabaseOfBefore) {
  StartEtcd(1);
  cluster::ClusterSettings settings;
  settings.database = "postgresql://a/kvlink";
  const auto connection = Connect();
  ASSERT_TRUE(cluster::CreateCluster(connection.get(), settings, Patience()).ok());
  auto options = OptionsOf("node");
  options.companions.push_back([&](const cluster::CompanionContext& context) {
    const auto set = cluster::SetDatabase(connection.get(), "postgresql://b/kvlink", /*unused=*/true, Patience());
    EXPECT_TRUE(set.ok()) << set.status();
    return std::make_unique<Filler>(context, &filler_);
  });
  const absl::Status late = StartStatus(std::move(options));
  EXPECT_EQ(late.code(), absl::StatusCode::kAborted) << late;
  EXPECT_THAT(std::string(late.message()), HasSubstr("start it again"));
  EXPECT_EQ(filler_.started, 0);
  EXPECT_NE(Start(OptionsOf("node")), nullptr);
}

TEST_F(MemberNodeTest, RefusesDirectoryOfAnotherCluster) {
  StartEtcd(1);
  const auto a = Create("a");
  const auto b = Create("b");
  { ASSERT_NE(Start(OptionsOf("node", "a")), nullptr); }
  const absl::Status other = StartStatus(OptionsOf("node", "b"));
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition) << other;
  EXPECT_THAT(std::string(other.message()), AllOf(HasSubstr(Directory("node")), HasSubstr("'a'"),
                                                  HasSubstr(cluster::IdHex(a.id)), HasSubstr(cluster::IdHex(b.id))));
  // The name now belongs to another cluster.
  ASSERT_TRUE(Connect("a")->client()->Delete("a/", true, Patience()).ok());
  Create("a");
  EXPECT_EQ(StartStatus(OptionsOf("node", "a")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(StartStatus(OptionsOf("node", "c")).code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(Directory("new")));
  EXPECT_EQ(StartStatus(OptionsOf("new", "c")).code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(Directory("new"))) << "a refused node creates no directory";
}

// A store without encodings may join; the log reports the documents in its catalog.
TEST_F(MemberNodeTest, AcceptsStoreWithoutEncodings) {
  StartEtcd(1);
  Create();
  {
    auto engine = engine::Engine::Open(Directory("node"), {});
    ASSERT_TRUE(engine.ok()) << engine.status();
    CatalogEntry entry;
    entry.title = "a title";
    ASSERT_TRUE((*engine)->PutEntry("default", "id", entry).ok());
  }
  const auto node = Start(OptionsOf("node"));
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(Eventually([&] { return Logged("documents_not_served"); }));
}

// The cluster's catalog does not know the encodings of such a store, so a member would remove all of them.
TEST_F(MemberNodeTest, RefusesStoreWithEncodings) {
  StartEtcd(1);
  cluster::ClusterSettings settings;
  settings.database = "postgresql://db/kvlink";
  const auto made = cluster::CreateCluster(Connect().get(), settings, Patience());
  ASSERT_TRUE(made.ok()) << made.status();
  const auto put = [&](const std::string& name, const DropPosition& position) {
    auto engine = engine::Engine::Open(Directory(name), {});
    ASSERT_TRUE(engine.ok()) << engine.status();
    ASSERT_TRUE((*engine)->DropAll(position).ok());
    const Synthetic encoding = MakeSynthetic(1);
    ASSERT_TRUE((*engine)->Put("ns", encoding.manifest, encoding.spans(), Patience()).ok());
  };
  put("node", {});
  const absl::Status refused = StartStatus(OptionsOf("node"));
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(std::string(refused.message()), AllOf(HasSubstr(Directory("node")), HasSubstr("1 encodings")));
  EXPECT_FALSE(cluster::ReadBinding(Directory("node"))->has_value());
  EXPECT_TRUE(Open()->view()->status.empty());
  // A store that has followed the cluster's drops belongs to it, even if its CLUSTER file was removed.
  put("lost", {made->id, 1, 1});
  EXPECT_NE(Start(OptionsOf("lost")), nullptr);
}

TEST_F(MemberNodeTest, AdvertisesReachableAddress) {
  StartEtcd(1);
  Create();
  auto options = OptionsOf("node");
  options.node.control_address = "0.0.0.0:0";
  const absl::Status everywhere = StartStatus(std::move(options));
  EXPECT_EQ(everywhere.code(), absl::StatusCode::kInvalidArgument) << everywhere;
  EXPECT_THAT(std::string(everywhere.message()), HasSubstr("--advertise"));
  options = OptionsOf("node");
  options.advertise = "0.0.0.0:7400";
  EXPECT_EQ(StartStatus(std::move(options)).code(), absl::StatusCode::kInvalidArgument);
  options = OptionsOf("node");
  options.advertise = "localhost:0";
  const auto node = Start(std::move(options));
  ASSERT_NE(node, nullptr);
  const std::string control = node->node()->addresses().control;
  EXPECT_EQ(node->membership().view()->status[0].address, "localhost" + control.substr(control.rfind(':')));
}

// With repair over the network: a joining node is filled and becomes active; a draining node leaves once others hold
// everything; each encoding is then at its owners.
TEST_F(MemberNodeTest, RepairFillsAndHandsOver) {
  StartEtcd(1);
  Create();
  const auto start = [&](const std::string& name) {
    auto options = OptionsOf(name);
    options.ttl = absl::Seconds(10);
    options.companions = {cluster::MakeUpkeep({})};
    return Start(std::move(options));
  };
  std::vector<std::unique_ptr<MemberNode>> nodes;
  for (const char* name : {"a", "b"}) nodes.push_back(start(name));
  std::vector<Synthetic> encodings;
  for (uint64_t number = 0; number < 60; ++number) encodings.push_back(MakeSynthetic(number));
  const auto has = [](const MemberNode& node, const Synthetic& encoding) {
    const auto& manifest = encoding.manifest;
    return node.node()->engine()->Find({"ns", manifest.identity, manifest.codec}).has_value();
  };
  for (const Synthetic& encoding : encodings) {
    for (const auto& node : nodes) {
      const auto put = node->node()->engine()->Put("ns", encoding.manifest, encoding.spans(), Patience());
      ASSERT_TRUE(put.ok()) << put.status();
    }
  }
  nodes.push_back(start("c"));
  ASSERT_NE(nodes.back(), nullptr);
  const auto& joined = *nodes[2];
  ASSERT_TRUE(Eventually([&] { return StateOf(*joined.membership().view(), joined.id()) == MemberState::kActive; }));
  const auto owners_have = [&] {
    const auto view = joined.membership().view();
    int copies = 0;
    for (const Synthetic& encoding : encodings) {
      for (const uint16_t owner : view->placement.NextOwners(encoding.manifest.identity)) {
        for (const auto& node : nodes) {
          if (node == nullptr || node->id() != view->placement.members()[owner].node_id) continue;
          EXPECT_TRUE(has(*node, encoding)) << cluster::IdHex(node->id());
          ++copies;
        }
      }
    }
    EXPECT_EQ(copies, 2 * static_cast<int>(encodings.size()));
  };
  owners_have();
  const auto heavier = cluster::SetWeight(Connect().get(), joined.id(), 12, Patience());
  ASSERT_TRUE(heavier.ok()) << heavier.status();
  ASSERT_TRUE(Eventually([&] { return joined.membership().view()->placement.epoch() > *heavier; })) << "it has moved";
  owners_have();
  ASSERT_TRUE(cluster::Drain(Connect().get(), nodes[0]->id(), Patience()).ok());
  ASSERT_TRUE(Eventually([&] { return nodes[0]->ended().has_value(); }));
  EXPECT_TRUE(nodes[0]->ended()->ok()) << *nodes[0]->ended();
  nodes[0] = nullptr;
  ASSERT_TRUE(Eventually([&] { return joined.membership().view()->status.size() == 2; }));
  owners_have();
}

// Both placements are served until what moves has arrived; and nothing joins before.
TEST_F(MemberNodeTest, ChangesWeightWithoutMisses) {
  StartEtcd(1);
  Create("default", 1);
  const auto first = Start(OptionsOf("first")), second = Start(OptionsOf("second"));
  ASSERT_TRUE(first != nullptr && second != nullptr);
  const auto view = [&] { return second->membership().view(); };
  ASSERT_TRUE(Eventually([&] { return StateOf(*view(), second->id()) == MemberState::kActive; }));
  const cluster::Placement before = view()->placement;
  const auto moves = [](const cluster::PlacementTable& from, const cluster::PlacementTable& to) {
    int moved = 0;
    cluster::ForEachMove(from, to, [&](const cluster::Move&) { return ++moved > 0; });
    return moved;
  };
  filler_.complete = false;
  const auto changed = cluster::SetWeight(Connect().get(), second->id(), 60, Patience());
  ASSERT_TRUE(changed.ok()) << changed.status();
  ASSERT_TRUE(Eventually([&] { return Logged("move_waits"); }));
  ASSERT_TRUE(Eventually([&] { return view()->placement.epoch() == *changed; }));
  EXPECT_EQ(moves(view()->placement.current(), before.current()), 0);
  EXPECT_GT(moves(view()->placement.current(), view()->placement.next()), 0);
  const auto third = Start(OptionsOf("third"));
  ASSERT_NE(third, nullptr);
  filler_.complete = true;
  ASSERT_TRUE(Eventually([&] {
    const auto now = third->membership().view();
    return StateOf(*now, third->id()) == MemberState::kActive && view()->placement.epoch() == now->placement.epoch();
  }));
  EXPECT_EQ(moves(view()->placement.current(), view()->placement.next()), 0);
  for (const cluster::Member& member : view()->placement.members()) {
    EXPECT_EQ(member.weight, member.node_id == second->id() ? 60u : 3u);
    EXPECT_EQ(member.former, std::nullopt);
  }
}

// A member whose weight was changed drains, and every other active one is lost: it can leave only once another is
// active.
TEST_F(MemberNodeTest, JoinsBesideMemberThatMovesAndDrains) {
  StartEtcd(1);
  Create("default", 1);
  const auto moves = Start(OptionsOf("moves"));
  auto lost = Start(OptionsOf("lost"));
  ASSERT_TRUE(moves != nullptr && lost != nullptr);
  const auto state = [&](const MemberNode& of) { return StateOf(*of.membership().view(), of.id()); };
  ASSERT_TRUE(Eventually([&] { return state(*lost) == MemberState::kActive; }));
  filler_.complete = false;
  const auto connection = Connect();
  ASSERT_TRUE(cluster::SetWeight(connection.get(), moves->id(), 60, Patience()).ok());
  const auto joins = Start(OptionsOf("joins"));
  ASSERT_NE(joins, nullptr);
  ASSERT_TRUE(cluster::Drain(connection.get(), moves->id(), Patience()).ok());
  ASSERT_TRUE(cluster::Remove(connection.get(), lost->id(), /*force=*/true, Patience()).ok());
  lost = nullptr;
  filler_.complete = true;
  EXPECT_TRUE(Eventually([&] { return state(*joins) == MemberState::kActive; }));
  ASSERT_TRUE(Eventually([&] { return moves->ended().has_value(); }));
  EXPECT_TRUE(moves->ended()->ok()) << *moves->ended();
}

// The drop cannot remove a push that has begun and not committed, and repair would spread it to all owners. A push that
// begins after the drop is admitted.
TEST_F(MemberNodeTest, RefusesPushOvertakenByDrop) {
  KVLINK_NEEDS_POSTGRES();
  StartEtcd(1);
  cluster::ClusterSettings settings;
  settings.copies = settings.acknowledged = 1;
  settings.database = SharedServer().connection(SharedServer().NewDatabase());
  ASSERT_TRUE(cluster::CreateCluster(Connect().get(), settings, Patience()).ok());
  const auto network = transport::NewLoopbackNetwork();
  auto carrier = transport::NewLoopbackTransport(network, {}), mine = transport::NewLoopbackTransport(network, {});
  ASSERT_TRUE(carrier.ok() && mine.ok());
  store::database::DatabaseCatalog* database = nullptr;
  cluster::UpkeepOptions upkeep;
  upkeep.open_database = [&database](const cluster::ClusterSettings& settings, bool make_tables, absl::Time deadline) {
    auto opened = OpenDatabase(settings, make_tables, deadline);
    if (opened.ok()) database = opened->get();
    return opened;
  };
  auto options = OptionsOf("node");
  options.node.carriers.push_back({"loopback", *std::move(carrier), "127.0.0.1:0"});
  options.companions = {cluster::MakeUpkeep(std::move(upkeep))};
  const auto node = Start(std::move(options));
  ASSERT_NE(node, nullptr);
  engine::Engine* const engine = node->node()->engine();
  RawControl control(node->node()->addresses().control);
  ASSERT_TRUE(control.Open().ok());
  std::string address;
  for (const std::string& one : node->node()->addresses().data) {
    if (absl::StartsWith(one, "loopback://")) address = one.substr(sizeof("loopback://") - 1);
  }
  RawData data(mine->get(), address);
  ASSERT_TRUE(data.Hello(control.token()).ok());

  const Synthetic dropped = MakeSynthetic(1), other = MakeSynthetic(2);
  const auto ready = data.Ask(RawData::PushBegin("ns", dropped)), kept = data.Ask(RawData::PushBegin("ns", other));
  ASSERT_TRUE(ready.ok() && kept.ok()) << ready.status() << kept.status();
  ASSERT_TRUE(database->PutDocument("ns", "d", EntryOf({&dropped}, 0)).ok());
  ASSERT_TRUE(database->DeleteDocument("ns", "d", 0).ok());
  const auto end = database->End(Patience());
  ASSERT_TRUE(end.ok()) << end.status();
  ASSERT_TRUE(Eventually([&] { return engine->dropped().transaction >= end->transaction; }));
  const auto pushed = data.FinishPush("ns", dropped, *ready);
  EXPECT_EQ(pushed.status().code(), absl::StatusCode::kAborted) << pushed.status();
  EXPECT_FALSE(engine->Find({"ns", dropped.manifest.identity, dropped.manifest.codec}).has_value());
  EXPECT_TRUE(data.FinishPush("ns", other, *kept).ok());
  EXPECT_TRUE(data.Push("ns", dropped).ok());
  EXPECT_TRUE(engine->Find({"ns", dropped.manifest.identity, dropped.manifest.codec}).has_value());
}

// Tables made in the cluster's name would be empty, and in the way of the dump that is about to be restored.
TEST_F(MemberNodeTest, OnlyTheFirstNodeOfAClusterMakesTables) {
  KVLINK_NEEDS_POSTGRES();
  StartEtcd(1);
  cluster::ClusterSettings settings;
  settings.copies = settings.acknowledged = 1;
  settings.database = SharedServer().connection(SharedServer().NewDatabase());
  const auto connection = Connect();
  ASSERT_TRUE(cluster::CreateCluster(connection.get(), settings, Patience()).ok());
  const auto options = [this](const std::string& name) {
    auto options = OptionsOf(name);
    cluster::UpkeepOptions upkeep;
    upkeep.open_database = OpenDatabase;
    options.companions = {cluster::MakeUpkeep(std::move(upkeep))};
    return options;
  };
  ASSERT_NE(Start(options("first")), nullptr);
  const std::string empty = SharedServer().NewDatabase();
  const auto moved =
      cluster::SetDatabase(connection.get(), SharedServer().connection(empty), /*unused=*/false, Patience());
  ASSERT_TRUE(moved.ok()) << moved.status();
  const auto expect_refused = [&](const std::string& name) {
    const absl::Status refused = StartStatus(options(name));
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("no KVLink tables"));
    EXPECT_EQ(SharedServer().Sql("SELECT to_regclass('kvlink.kvlink_schema') IS NULL", empty), "t");
  };
  expect_refused("first");
  expect_refused("second");
  // As long as a cluster had members, even if it has none.
  const auto members = Open()->view()->placement.members();
  ASSERT_EQ(members.size(), 1u);
  ASSERT_TRUE(cluster::Remove(connection.get(), members[0].node_id, /*force=*/true, Patience()).ok());
  expect_refused("third");
  // etcd was restored from before the first node joined.
  const std::string epoch = cluster::KeyOf("default", cluster::KeyKind::kEpoch);
  ASSERT_TRUE(connection->client()->Delete(epoch, false, Patience()).ok());
  expect_refused("first");
}

// Without its database, for example, a node must not serve.
TEST_F(MemberNodeTest, JoinsOnlyIfPrepared) {
  class Refuses : public cluster::Companion {
   public:
    absl::Status Prepare(absl::Time) override { return absl::UnavailableError("no database"); }
    void Start() override { ADD_FAILURE(); }
    void Stop(bool) override {}
  };
  StartEtcd(1);
  Create();
  auto options = OptionsOf("node");
  options.companions.push_back([](const cluster::CompanionContext&) { return std::make_unique<Refuses>(); });
  EXPECT_EQ(StartStatus(std::move(options)).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Open()->view()->status.empty());
}

// Clients get no session before companions are prepared, so the node does not serve what was dropped while it was down.
TEST_F(MemberNodeTest, OpensNoSessionBeforePrepared) {
  class Asks : public cluster::Companion {
   public:
    Asks(store::client::RemoteOptions remote, absl::Status* answer) : remote_(std::move(remote)), answer_(answer) {}
    absl::Status Prepare(absl::Time) override {
      *answer_ = store::client::OpenRemote(remote_).status();
      return absl::OkStatus();
    }
    void Start() override {}
    void Stop(bool) override {}

   private:
    const store::client::RemoteOptions remote_;
    absl::Status* const answer_;
  };
  StartEtcd(1);
  Create();
  store::client::RemoteOptions remote;
  remote.carrier = store::client::Carrier::kGrpc;
  {
    const auto node = Start(OptionsOf("node"));
    ASSERT_NE(node, nullptr);
    remote.address = node->node()->addresses().control;
  }
  absl::Status answer;
  auto options = OptionsOf("node");
  options.node.control_address = remote.address;
  options.companions = {[&](const cluster::CompanionContext&) { return std::make_unique<Asks>(remote, &answer); }};
  const auto node = Start(std::move(options));
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(answer.code(), absl::StatusCode::kUnavailable) << answer;
  EXPECT_THAT(std::string(answer.message()), HasSubstr("starting"));
  const auto opened = store::client::OpenRemote(remote);
  EXPECT_TRUE(opened.ok()) << opened.status();
}

// A draining member waits for members that gain its slots, dead or alive, and for living ones that share them.
TEST(AwaitedByDrain, WaitsForMembersThatGainSlots) {
  cluster::View view;
  std::vector<cluster::Member> members;
  for (uint8_t i = 1; i <= 4; ++i) members.push_back({NodeOf(i), "", 1, MemberState::kActive});
  members[0].state = MemberState::kDraining;
  view.placement = *cluster::Placement::Compute(10, 2, members);
  view.status.resize(4);
  using Set = std::set<uint16_t>;
  EXPECT_EQ(AwaitedByDrain(view, {}, NodeOf(1)), (Set{1, 2, 3}));
  std::map<cluster::NodeId, cluster::ProgressRecord> progress;
  progress[NodeOf(2)] = {10, 5, 5, 0, 0};
  progress[NodeOf(3)] = {11, 5, 5, 0, 0};
  progress[NodeOf(4)] = {9, 5, 5, 0, 0};
  EXPECT_EQ(AwaitedByDrain(view, progress, NodeOf(1)), (Set{2, 3})) << "of another epoch: before an etcd was set back";
  progress[NodeOf(3)] = {10, 5, 5, 0, 0};
  EXPECT_EQ(AwaitedByDrain(view, progress, NodeOf(1)), Set{3}) << "of an epoch before";
  progress[NodeOf(4)] = {10, 5, 4, 0, 0};
  EXPECT_EQ(AwaitedByDrain(view, progress, NodeOf(1)), Set{3});
  progress[NodeOf(4)] = {10, 5, 5, 0, 0};
  EXPECT_EQ(AwaitedByDrain(view, progress, NodeOf(1)), Set{});

  // If all members own everything, none gains; the others are awaited only if alive, unless none is.
  members.resize(3);
  view.placement = *cluster::Placement::Compute(10, 3, members);
  view.status.resize(3);
  EXPECT_EQ(AwaitedByDrain(view, {}, NodeOf(1)), (Set{1, 2}));
  view.status[2].incarnation = 1;
  EXPECT_EQ(AwaitedByDrain(view, {}, NodeOf(1)), Set{2});
  members.resize(2);
  view.placement = *cluster::Placement::Compute(10, 2, members);
  view.status.resize(2);
  EXPECT_EQ(AwaitedByDrain(view, {}, NodeOf(1)), Set{1}) << "the other owner may lack encodings";
  view.status[1].incarnation = 1;
  EXPECT_EQ(AwaitedByDrain(view, {}, NodeOf(1)), Set{1});
}

TEST(AwaitedByMove, WaitsForMembersThatGainSlots) {
  cluster::View view;
  std::vector<cluster::Member> members;
  for (uint8_t i = 1; i <= 3; ++i) members.push_back({NodeOf(i), "", 4, MemberState::kActive});
  members[0].former = cluster::Standing{"", 1};
  view.placement = *cluster::Placement::Compute(10, 1, members);
  view.status.resize(3);
  using Set = std::set<uint16_t>;
  EXPECT_EQ(AwaitedByMove(view, {}), Set{0}) << "it weighs more";
  members[0].former->weight = 100;
  view.placement = *cluster::Placement::Compute(10, 1, members);
  EXPECT_EQ(AwaitedByMove(view, {}), (Set{1, 2})) << "it weighs less";
  std::map<cluster::NodeId, cluster::ProgressRecord> progress;
  progress[NodeOf(2)] = {10, 5, 5, 0, 0};
  progress[NodeOf(3)] = {9, 5, 5, 0, 0};
  EXPECT_EQ(AwaitedByMove(view, progress), Set{2}) << "of an epoch before";
  progress[NodeOf(3)] = {10, 5, 5, 0, 0};
  EXPECT_EQ(AwaitedByMove(view, progress), Set{});
}

}  // namespace
}  // namespace kvlink::testing
