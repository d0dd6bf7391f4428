#include "bench/store/member_cluster.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "store/cluster/members/administration.h"
#include "store/cluster/node/upkeep.h"

namespace kvlink::bench::members {

using store::cluster::MemberNode;
using store::cluster::MemberState;
using store::cluster::NodeId;

absl::Time Soon() { return SteadyNow() + absl::Minutes(1); }

void Await(absl::string_view what, const std::function<bool()>& is) {
  for (const absl::Time limit = SteadyNow() + absl::Minutes(10); !is(); absl::SleepFor(absl::Milliseconds(5))) {
    if (SteadyNow() > limit) Die(absl::StrCat("waited ten minutes for ", what));
  }
}

Corpus::Corpus(std::string ns, const SlabShape& shape)
    : ns_(std::move(ns)), slab_(shape.slab_bytes()), manifest_(Manifest::Uniform(shape, kLayers, shape.head_dim)) {
  spans_.assign(kLayers, {slab_.as<std::byte>(), static_cast<size_t>(shape.slab_bytes())});
  for (int64_t layer = 0; layer < kLayers; ++layer) MustBe(manifest_.ChecksumLayer(layer, spans_[0]));
}

Manifest Corpus::Named(int number) const {
  Manifest named = manifest_;
  Sha256 hash;
  hash.Update(absl::StrCat(ns_, " ", number));
  named.identity.bytes = hash.Finish();
  named.Seal();
  return named;
}

bool Has(const MemberNode& node, const Corpus& corpus, const Manifest& manifest) {
  return node.node()->engine()->Find({corpus.ns(), manifest.identity, manifest.codec}).has_value();
}

Cluster::Cluster(std::string directory, int64_t bytes_per_second)
    : directory_(std::move(directory)), bytes_per_second_(bytes_per_second), etcd_(1) {
  store::cluster::ClusterSettings settings;
  settings.copies = kCopies;
  settings.acknowledged = 1;
  const auto connection = Must(store::cluster::Connection::Open(address()));
  Must(store::cluster::CreateCluster(connection.get(), settings, Soon()));
  membership_ = Must(store::cluster::Membership::Open({address(), std::nullopt, {}, {}}, Soon()));
  for (int i = 0; i < kFirstNodes; ++i) AwaitActive(Add()->id());
}

store::cluster::ClusterAddress Cluster::address() const {
  store::cluster::ClusterAddress address;
  address.etcd.endpoints = etcd_.endpoints();
  return address;
}

MemberNode* Cluster::Add() {
  store::cluster::MemberNodeOptions options;
  options.node.directory = absl::StrCat(directory_, "/", added_++);
  options.node.engine.dram_bytes = int64_t{256} << 20;
  options.node.engine.capacity_bytes = int64_t{8} << 30;
  options.node.data_address = "127.0.0.1:0";
  options.node.log = [](absl::string_view) {};
  options.cluster = address();
  options.weight = 1;
  store::cluster::UpkeepOptions upkeep;
  upkeep.repair.bytes_per_second = bytes_per_second_;
  options.companions.push_back(store::cluster::MakeUpkeep(std::move(upkeep)));
  nodes_.push_back(Must(MemberNode::Start(std::move(options), Soon())));
  return nodes_.back().get();
}

void Cluster::AwaitActive(const NodeId& id) const {
  Await("a node to join", [&] {
    const auto view = membership_->view();
    return std::ranges::any_of(view->placement.members(), [&](const auto& member) {
      return member.node_id == id && member.state == MemberState::kActive;
    });
  });
}

void Cluster::Drain(const NodeId& id) {
  Must(store::cluster::Drain(membership_->connection(), id, Soon()));
  const auto node = std::ranges::find_if(nodes_, [&](const auto& one) { return one->id() == id; });
  Await("a node to drain", [&] { return (*node)->ended().has_value(); });
  MustBe(*(*node)->ended());
  End(id);
}

void Cluster::End(const NodeId& id) {
  std::erase_if(nodes_, [&](const auto& node) { return node->id() == id; });
}

uint64_t Cluster::Remove(const NodeId& id) {
  return Must(store::cluster::Remove(membership_->connection(), id, /*force=*/true, Soon()));
}

bool Cluster::Complete(uint64_t epoch) const {
  const auto progress = membership_->progress();
  return std::ranges::all_of(nodes_, [&](const auto& node) {
    const auto found = progress.find(node->id());
    return found != progress.end() && found->second.epoch == epoch && found->second.complete();
  });
}

bool Cluster::Owns(const MemberNode& node, const Identity& identity) const {
  const auto view = membership_->view();
  return std::ranges::any_of(view->placement.NextOwners(identity),
                             [&](uint16_t owner) { return view->placement.members()[owner].node_id == node.id(); });
}

}  // namespace kvlink::bench::members
