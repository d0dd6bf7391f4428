// Peers call the other engines directly, so a test repairs within one process and without a network.
#include "tests/store/cluster/engines.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "gtest/gtest.h"

namespace kvlink::testing {
namespace {

using store::cluster::Member;
using store::cluster::MemberState;
using store::cluster::NodeId;
using store::cluster::View;

class EnginePart : public store::client::PartLease {
 public:
  explicit EnginePart(std::unique_ptr<engine::EncodingLease> lease) : lease_(std::move(lease)) {}
  const Manifest& manifest() const override { return lease_->manifest(); }
  store::Tier source() const override { return store::Tier::kDisk; }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline) override { return lease_->WaitLayer(layer, deadline); }
  absl::Span<const std::byte> head(int64_t layer, int64_t head) const override {
    const SlabShape shape = manifest().shape(layer);
    return lease_->layer(layer).subspan(shape.head_offset(head), shape.head_bytes());
  }

 private:
  const std::unique_ptr<engine::EncodingLease> lease_;
};

// Answers as store/node/data/slots.cc and its client do.
class EnginePeer : public store::cluster::RepairPeer {
 public:
  explicit EnginePeer(EngineCluster::Node* node) : node_(node) {}
  absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) override {
    if (node_->faults.down) return Down();
    return node_->engine->SlotDigests(slots);
  }
  absl::StatusOr<SlotListing> ListSlot(int slot, const std::optional<SlotEntry>& after) override {
    if (node_->faults.down) return Down();
    constexpr int64_t kPage = 3;
    SlotListing listing;
    listing.dropped = node_->engine->dropped();
    std::optional<engine::EncodingKey> key;
    if (after.has_value()) key = {after->ns, after->identity, after->codec};
    listing.encodings = node_->engine->ListSlot(slot, key, kPage + 1);
    listing.more = static_cast<int64_t>(listing.encodings.size()) > kPage;
    if (listing.more) listing.encodings.pop_back();
    if (node_->faults.before_answer) node_->faults.before_answer();
    return listing;
  }
  absl::StatusOr<std::unique_ptr<store::client::PartLease>> ReadPart(const SlotEntry& entry,
                                                                     const store::client::EncodingPart&,
                                                                     absl::Time deadline) override {
    PeerFaults& faults = node_->faults;
    if (faults.down_after.load() == 0) faults.down = true;
    if (faults.down_after.load() > 0) --faults.down_after;
    if (faults.down) return Down();
    if (faults.damaged) return absl::DataLossError("damaged");
    if (faults.frozen) {
      absl::SleepFor(deadline - SteadyNow());
      return absl::DeadlineExceededError("frozen");
    }
    if (faults.before_answer) faults.before_answer();
    auto lease = node_->engine->Read({entry.ns, entry.identity, entry.codec}, entry.etag, deadline);
    if (!lease.ok()) return lease.status();
    return std::make_unique<EnginePart>(*std::move(lease));
  }

 private:
  static absl::Status Down() { return absl::UnavailableError("it is down"); }
  EngineCluster::Node* const node_;
};

}  // namespace

void SettableView::Set(std::shared_ptr<const View> view) {
  MutexLock lock(&mutex_);
  view_ = std::move(view);
  changed_.SignalAll();
}

std::shared_ptr<const View> SettableView::view() const {
  MutexLock lock(&mutex_);
  return view_;
}

std::shared_ptr<const View> SettableView::WaitForChange(const std::shared_ptr<const View>& than,
                                                        absl::Time deadline) const {
  MutexLock lock(&mutex_);
  while (view_ == than && changed_.WaitUntil(&mutex_, deadline)) {
  }
  return view_;
}

EngineCluster::EngineCluster(int nodes, int copies, int64_t capacity) : copies_(copies), capacity_(capacity) {
  nodes_.reserve(16);  // other threads look up peers while a member is added
  for (int i = 0; i < nodes; ++i) Add(MemberState::kActive);
  Publish();
}

EngineCluster::~EngineCluster() {
  for (const auto& node : nodes_) node->repairer = nullptr;
  for (const auto& node : nodes_) node->drops = nullptr;
}

std::unique_ptr<engine::Engine> EngineCluster::OpenEngine(const std::string& directory) const {
  engine::EngineOptions options;
  options.dram_bytes = 8 << 20;
  options.segment_bytes = 1 << 20;
  options.capacity_bytes = capacity_;
  auto opened = engine::Engine::Open(directory + "/store", options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return *std::move(opened);
}

int EngineCluster::Add(MemberState state) {
  auto node = std::make_unique<Node>();
  node->id[0] = static_cast<uint8_t>(nodes_.size() + 1);
  node->state = state;
  node->directory = std::make_unique<ScratchDirectory>(/*in_memory=*/true);
  node->engine = OpenEngine(node->directory->path());
  nodes_.push_back(std::move(node));
  return size() - 1;
}

void EngineCluster::Replace(int i) {
  Node& node = *nodes_[i];
  node.engine = nullptr;
  node.directory = std::make_unique<ScratchDirectory>(/*in_memory=*/true);
  node.engine = OpenEngine(node.directory->path());
}

void EngineCluster::Reopen(int i) {
  nodes_[i]->engine = nullptr;
  nodes_[i]->engine = OpenEngine(nodes_[i]->directory->path());
}

void EngineCluster::Publish(bool moves) {
  if (moves) ++epoch_;
  std::vector<Member> members;
  for (const auto& node : nodes_) {
    if (node->member) members.push_back({.node_id = node->id, .state = node->state});
  }
  auto placement = store::cluster::Placement::Compute(epoch_, copies_, members);
  ASSERT_TRUE(placement.ok()) << placement.status();
  auto view = std::make_shared<View>();
  view->placement = *std::move(placement);
  std::vector<std::pair<uint16_t, const store::cluster::HotRecord*>> hot;
  for (const Member& member : view->placement.members()) {
    const int i = member.node_id[0] - 1;
    store::cluster::MemberStatus status;
    status.address = absl::StrCat(i);
    if (nodes_[i]->alive) status.incarnation = nodes_[i]->incarnation;
    hot.emplace_back(static_cast<uint16_t>(view->status.size()), &nodes_[i]->hot);
    view->status.push_back(std::move(status));
  }
  view->hot = store::cluster::HotView::Make(hot);
  views_.Set(std::move(view));
}

bool EngineCluster::Owns(int i, const Synthetic& s) const {
  const auto view = views_.view();
  for (const uint16_t owner : view->placement.NextOwners(s.manifest.identity)) {
    if (view->placement.members()[owner].node_id == nodes_[i]->id) return true;
  }
  return false;
}

void EngineCluster::PutAt(int i, const Synthetic& s, const std::string& ns) {
  const auto put = nodes_[i]->engine->Put(ns, s.manifest, s.spans(), SteadyNow() + absl::Seconds(60),
                                          engine::PutMode::kReplaceSmallerEtag);
  ASSERT_TRUE(put.ok()) << put.status();
}

void EngineCluster::Put(const Synthetic& s, const std::string& ns) {
  for (int i = 0; i < size(); ++i) {
    if (Owns(i, s)) PutAt(i, s, ns);
  }
}

bool EngineCluster::Has(int i, const Synthetic& s, const std::string& ns) {
  const auto found = nodes_[i]->engine->Find({ns, s.manifest.identity, s.manifest.codec});
  return found.has_value() && found->location.etag == s.manifest.etag;
}

store::cluster::RepairOptions EngineCluster::Options(int i) {
  store::cluster::RepairOptions options;
  options.self = nodes_[i]->id;
  options.bytes_per_second = int64_t{1} << 40;
  options.retry = absl::Milliseconds(2);
  options.interval = absl::Milliseconds(20);
  options.copy_timeout = absl::Seconds(10);
  options.open_peer = [this, i](
                          const store::cluster::NodeId&,
                          const std::string& address) -> absl::StatusOr<std::shared_ptr<store::cluster::RepairPeer>> {
    EXPECT_NE(address, absl::StrCat(i)) << "a node asks itself";
    Node* const node = nodes_[std::stoi(address)].get();
    if (node->faults.down) return absl::UnavailableError("nobody listens");
    return std::make_shared<EnginePeer>(node);
  };
  return options;
}

void EngineCluster::StartRepair(int i, const std::function<void(store::cluster::RepairOptions*)>& change) {
  Node& node = *nodes_[i];
  store::cluster::RepairOptions options = Options(i);
  if (change) change(&options);
  node.repairer = std::make_unique<store::cluster::Repairer>(
      node.engine.get(), &views_, node.drops == nullptr ? nullptr : node.drops->memory(), std::move(options));
  node.repairer->Start();
}

void EngineCluster::WaitComplete(int i, int64_t passes) {
  store::cluster::Repairer* const repairer = nodes_[i]->repairer.get();
  const int64_t before = repairer->statistics().passes;
  const bool complete = Eventually([&] {
    const store::cluster::RepairProgress progress = repairer->progress();
    return progress.epoch == epoch_ && progress.complete() && repairer->statistics().passes >= before + passes;
  });
  const store::cluster::RepairProgress progress = repairer->progress();
  EXPECT_TRUE(complete) << "epoch " << progress.epoch << " of " << epoch_ << ": " << progress.slots_done << " of "
                        << progress.slots << " slots, " << progress.bytes_left << " bytes left";
}

std::vector<SlotDigest> AllDigests(engine::Engine* engine) {
  std::vector<uint16_t> slots(kSlots);
  std::iota(slots.begin(), slots.end(), uint16_t{0});
  return engine->SlotDigests(slots);
}

}  // namespace kvlink::testing
