// What do readers notice when the members of a cluster change, and what moves? Nodes in this process are members over a
// real etcd and repair at a limited rate. A fourth node joins three and is drained; another joins while a client
// writes, and is lost. Meanwhile a client in a process of its own reads at a fixed rate. A read's time counts from when
// it was due; reads during each change are compared with reads in the quiet periods between changes of the same run.
// Nodes, repair, clients and etcd share the machine's cores and disk, so the rate should be a small part of what these
// can move.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "bench/bench_common.h"
#include "bench/store/member_cluster.h"
#include "bench/store/member_reader.h"
#include "store/cluster/replicas/replicated.h"

namespace kvlink::bench {
namespace {

using members::Await;
using members::Cluster;
using members::Corpus;
using members::Has;
using members::kCopies;
using members::kDocument;
using members::kDocuments;
using members::Reader;
using members::Soon;
using members::Window;
using store::cluster::MemberNode;
using store::cluster::NodeId;

constexpr SlabShape kSmall{Codec::kRawBf16, 1, 8, 16};
constexpr int kMaxWrites = 4000;

// Which documents each node has, in the order of Cluster::nodes().
using Held = std::vector<std::vector<bool>>;

// What a joining node got of the writes meanwhile, divided by its share by weight.
struct WriteShares {
  double copies = 0, first_copies = 0;
  int writes = 0;
};

// Results of one round.
struct Round {
  std::vector<Window> quiet;
  std::array<Window, 3> changes;  // in the order of kChanges
  double joined_share = 0;        // fraction of all bytes that the joined node got
  int64_t moved_elsewhere = 0;    // documents that other nodes got during the join
  double of_limit = 0;            // bytes per second of repair, over the limits of all nodes together
  WriteShares writes;
};
constexpr std::array<absl::string_view, 3> kChanges = {"a join", "a drain", "repair"};

class Bench {
 public:
  Bench(const std::string& directory, int documents, int64_t bytes_per_second, double quiet_seconds)
      : bytes_per_second_(bytes_per_second), quiet_seconds_(quiet_seconds), cluster_(directory, bytes_per_second) {
    for (int i = 0; i < documents; ++i) documents_.push_back(corpus_.Named(i));
    StoreAll();
    store::cluster::ReplicatedOptions options;
    options.node.name = "bench";
    options.node.carrier = store::client::Carrier::kUcx;
    store_ = Must(store::cluster::OpenReplicated(cluster_.membership(), nullptr, options));
    reader_ = std::make_unique<Reader>(cluster_.endpoints(), documents, directory);
  }

  void Run();
  void Tell(Report* report) const;

 private:
  void StoreAll();
  Held WhatNodesHold() const;
  // Removes at once what nodes no longer own. They would keep it for ten minutes, and the next change would have less
  // to move.
  void Forget();
  void Quiet(Round* round);
  NodeId Join(Round* round);
  NodeId JoinBesideWrites(Round* round);
  void Repair(const NodeId& lost, Round* round);
  WriteShares Write(const MemberNode& joined);
  void TellReads(Report* report) const;

  const int64_t bytes_per_second_;
  const double quiet_seconds_;
  const Corpus corpus_{kDocuments, kDocument}, written_{"written", kSmall};
  std::vector<Manifest> documents_;
  int next_write_ = 0;
  Cluster cluster_;
  std::unique_ptr<store::cluster::ReplicatedStore> store_;
  std::vector<Round> rounds_;
  std::unique_ptr<Reader> reader_;
};

void Bench::StoreAll() {
  std::vector<Thread> writers;
  for (const auto& node : cluster_.nodes()) {
    writers.emplace_back("writer", [this, &node] {
      for (const Manifest& document : documents_) {
        if (!cluster_.Owns(*node, document.identity)) continue;
        Must(node->node()->engine()->Put(corpus_.ns(), document, corpus_.spans(), Soon()));
      }
    });
  }
}

Held Bench::WhatNodesHold() const {
  Held held;
  for (const auto& node : cluster_.nodes()) {
    std::vector<bool>& of_node = held.emplace_back();
    for (const Manifest& document : documents_) of_node.push_back(Has(*node, corpus_, document));
  }
  return held;
}

void Bench::Forget() {
  for (const auto& node : cluster_.nodes()) {
    for (const Manifest& document : documents_) {
      if (cluster_.Owns(*node, document.identity) || !Has(*node, corpus_, document)) continue;
      MustBe(node->node()->engine()->RemoveEncoding({corpus_.ns(), document.identity, document.codec}, document.etag));
    }
  }
}

void Bench::Quiet(Round* round) {
  absl::SleepFor(absl::Seconds(1));  // after-effects of the last change
  const double begin = Now();
  absl::SleepFor(absl::Seconds(quiet_seconds_));
  round->quiet.push_back({begin, Now()});
}

// Number of documents in `after` but not in `before`.
int64_t Gained(const std::vector<bool>& before, const std::vector<bool>& after) {
  int64_t gained = 0;
  for (size_t i = 0; i < after.size(); ++i) gained += after[i] && !before[i];
  return gained;
}

NodeId Bench::Join(Round* round) {
  const Held before = WhatNodesHold();
  const NodeId id = cluster_.Add()->id();
  const double begin = Now();
  cluster_.AwaitActive(id);
  round->changes[0] = {begin, Now()};
  const Held after = WhatNodesHold();
  for (size_t i = 0; i < before.size(); ++i) round->moved_elsewhere += Gained(before[i], after[i]);
  const auto joined = std::ranges::count(after.back(), true);
  round->joined_share = static_cast<double>(joined) / static_cast<double>(kCopies * documents_.size());
  Forget();
  return id;
}

// Writes small encodings one after the other while the node joins.
WriteShares Bench::Write(const MemberNode& joined) {
  WriteShares shares;
  std::vector<Manifest> written;
  double first = 0;
  const auto joining = [&] {
    const auto progress = cluster_.membership()->progress();
    const auto found = progress.find(joined.id());
    return found == progress.end() || !found->second.complete();
  };
  while (joining() && shares.writes < kMaxWrites) {
    const Manifest manifest = written_.Named(next_write_++);
    Must(store_->Put(written_.ns(), manifest, written_.spans(), Soon()));
    const auto there =
        std::ranges::count_if(cluster_.nodes(), [&](const auto& node) { return Has(*node, written_, manifest); });
    if (there == 0) Die("nobody has what was acknowledged");
    if (Has(joined, written_, manifest)) first += 1.0 / static_cast<double>(there);
    written.push_back(manifest);
    ++shares.writes;
  }
  // Second copies were not waited for.
  absl::SleepFor(absl::Seconds(1));
  double copies = 0, at_joined = 0;
  for (const Manifest& manifest : written) {
    for (const auto& node : cluster_.nodes()) copies += Has(*node, written_, manifest);
    at_joined += Has(joined, written_, manifest);
  }
  const auto nodes = static_cast<double>(cluster_.nodes().size());  // of equal weight
  shares.copies = at_joined / copies * nodes;
  shares.first_copies = first / shares.writes * nodes;
  return shares;
}

NodeId Bench::JoinBesideWrites(Round* round) {
  const MemberNode* const node = cluster_.Add();
  round->writes = Write(*node);
  cluster_.AwaitActive(node->id());
  Forget();
  return node->id();
}

void Bench::Repair(const NodeId& lost, Round* round) {
  cluster_.End(lost);
  const Held before = WhatNodesHold();
  const double begin = Now();
  const uint64_t epoch = cluster_.Remove(lost);
  Await("repair", [&] { return cluster_.Complete(epoch); });
  const double end = Now();
  round->changes[2] = {begin, end};
  const Held after = WhatNodesHold();
  int64_t gained = 0;
  for (size_t i = 0; i < before.size(); ++i) gained += Gained(before[i], after[i]);
  const double limit = static_cast<double>(bytes_per_second_) * static_cast<double>(before.size());
  round->of_limit = static_cast<double>(gained * corpus_.encoding_bytes()) / (end - begin) / limit;
}

void Bench::Run() {
  Round round;
  Quiet(&round);
  const NodeId drained = Join(&round);
  Quiet(&round);
  const double begin = Now();
  cluster_.Drain(drained);
  round.changes[1] = {begin, Now()};
  Quiet(&round);
  const NodeId lost = JoinBesideWrites(&round);
  Quiet(&round);
  Repair(lost, &round);
  rounds_.push_back(std::move(round));
}

void Bench::TellReads(Report* report) const {
  const auto add = [&](const std::string& name, const std::function<std::vector<Window>(const Round&)>& windows) {
    std::vector<double> medians, tails;
    for (const Round& round : rounds_) {
      const std::vector<double> seconds = reader_->In(windows(round));
      medians.push_back(1e3 * Median(seconds));
      tails.push_back(1e3 * Quantile(seconds, 0.99));
    }
    report->Add(absl::StrCat("read, ", name, ", p50"), Median(medians), "ms");
    report->Add(absl::StrCat("read, ", name, ", p99"), Median(tails), "ms");
    return tails;
  };
  const auto undisturbed = add("undisturbed", [](const Round& round) { return round.quiet; });
  for (size_t i = 0; i < kChanges.size(); ++i) {
    const std::string name = absl::StrCat("during ", kChanges[i]);
    const auto disturbed = add(name, [i](const Round& round) { return std::vector<Window>{round.changes[i]}; });
    report->Add(absl::StrCat("read, ", name, ", p99 / undisturbed"), MedianRatio(disturbed, undisturbed), "",
                Target{2, true});
  }
  report->Add("reads that failed", static_cast<double>(reader_->failed()), "", Target{0, true});
}

void Bench::Tell(Report* report) const {
  report->Section("reads of 256 KiB, 200 a second");
  TellReads(report);
  double off = 0, elsewhere = 0, seconds = 0, writes = 0;
  std::vector<double> of_limit, copies, first_copies;
  for (const Round& round : rounds_) {
    off = std::max(off, std::abs(4 * round.joined_share - 1));
    elsewhere += static_cast<double>(round.moved_elsewhere);
    seconds = std::max(seconds, round.changes[0].end - round.changes[0].begin);
    writes += round.writes.writes;
    of_limit.push_back(round.of_limit);
    copies.push_back(round.writes.copies);
    first_copies.push_back(round.writes.first_copies);
  }
  report->Section("a fourth node joins three");
  report->Add("bytes that it got, of all", rounds_.back().joined_share, "");
  report->Add("these, off from a quarter, at most", 100 * off, "%", Target{3, true});
  report->Add("encodings that moved elsewhere", elsewhere, "", Target{0, true});
  report->Add("join, at most", seconds, "s");
  report->Section("one of four nodes is lost");
  report->Add("copied again, of the limit of three nodes", Median(of_limit), "", Target{0.8});
  report->Section("writes while an empty node is filled");
  report->Add("writes", writes, "");
  report->Add("copies at it, over its weight", Median(copies), "", Target{1.2, true});
  report->Add("first copies at it, over its weight", Median(first_copies), "", Target{1.2, true});
}

int Main(int argc, char** argv) {
  const auto flags = Flags::Parse(argc, argv, "Measures reads, and what moves, while members join, drain and are lost.",
                                  {{"rounds", "N", "Of all changes (default 3)."},
                                   {"documents", "N", "Of 256 KiB, two copies of each (default 4096)."},
                                   {"rate", "N", "MiB a second of repair, of each node (default 16)."},
                                   {"seconds", "N", "Of each quiet time (default 5)."},
                                   {"read", "ENDPOINTS", "For the bench itself."},
                                   {"to", "FILE", "For the bench itself."},
                                   kScratchFlag});
  if (!flags.ok()) Die(flags.status().message());
  if (flags->help_wanted()) return 0;
  if (!testing::EtcdCluster::Installed()) Die("etcd is not installed (Debian's etcd-server)");
  setenv("UCX_NET_DEVICES", "lo", 0);
  const int64_t rounds = std::clamp<int64_t>(flags->GetInt("rounds", 3), 1, 100);
  const auto documents = static_cast<int>(std::clamp<int64_t>(flags->GetInt("documents", 4096), 100, 1 << 14));
  if (flags->Has("read")) members::ReadForever(flags->Get("read", ""), documents, flags->Get("to", ""));
  const int64_t rate = std::clamp<int64_t>(flags->GetInt("rate", 16), 1, 1 << 20) << 20;
  const double quiet = static_cast<double>(std::clamp<int64_t>(flags->GetInt("seconds", 5), 1, 600));
  const Scratch scratch = Must(Scratch::Make(flags->Get("dir", "")));
  Report report("members");
  Bench bench(scratch.path(), documents, rate, quiet);
  for (int64_t round = 0; round < rounds; ++round) bench.Run();
  bench.Tell(&report);
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
