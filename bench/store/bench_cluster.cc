// What does a client pay for a cluster? Compares pulls and lookups through the replicated store over 1, 2 and 4 nodes
// with the store over a single node. Nodes and clients share one machine's cores, so more nodes mean more work on the
// same machine; bare messages of the same sizes to 1, 3 and 4 peers at once show how much (of 4 nodes with two copies
// of everything, a lookup asks 3). Also compares the memory and threads of a client of 100 nodes with those of a client
// of 3: it runs in its own process, connected to all of them (several members are the same node, which is not visible
// in an address).
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "proto/node_id.h"
#include "store/client/remote.h"
#include "store/cluster/replicas/replicated.h"
#include "store/cluster/view.h"
#include "store/node/node.h"
#include "transport/ucx/ucx.h"

namespace kvlink::bench {
namespace {

using store::cluster::View;

constexpr int kDocuments = 40, kNodes[] = {1, 2, 4};
constexpr SlabShape kShape{Codec::kRawBf16, 8, 64, 512};
constexpr int64_t kLayers = 2;

Identity IdentityOf(uint64_t number) {
  Identity identity;
  Sha256 hash;
  hash.Update(absl::StrCat("cluster ", number));
  identity.bytes = hash.Finish();
  return identity;
}

using Addresses = std::map<NodeId, std::string>;

class FixedView : public store::cluster::ViewSource {
 public:
  explicit FixedView(const Addresses& addresses) {
    auto view = std::make_shared<View>();
    view->settings.name = "bench";
    view->settings.copies = view->settings.acknowledged = static_cast<int>(std::min<size_t>(2, addresses.size()));
    std::vector<store::cluster::Member> members;
    for (const auto& [id, address] : addresses) {
      members.push_back({id});
      view->status.push_back({address, "bench", 1});
    }
    view->placement = Must(store::cluster::Placement::Compute(1, view->settings.copies, std::move(members)));
    view_ = std::move(view);
  }
  std::shared_ptr<const View> view() const override { return view_; }
  std::shared_ptr<const View> WaitForChange(const std::shared_ptr<const View>&, absl::Time) const override {
    return view_;
  }

 private:
  std::shared_ptr<const View> view_;
};

std::unique_ptr<store::cluster::ReplicatedStore> OpenCluster(const Addresses& addresses, absl::string_view carrier) {
  store::cluster::ReplicatedOptions options;
  options.node.name = "bench";
  options.node.carrier = Must(store::client::ParseCarrier(carrier));
  return Must(store::cluster::OpenReplicated(std::make_shared<FixedView>(addresses), nullptr, options));
}

std::unique_ptr<store::client::RemoteStore> OpenAlone(
    const std::string& address, absl::string_view carrier,
    const std::shared_ptr<store::client::ClientResources>& resources = nullptr) {
  store::client::RemoteOptions options;
  options.resources = resources;
  options.address = address;
  options.name = "bench";
  options.carrier = Must(store::client::ParseCarrier(carrier));
  return Must(store::client::OpenRemote(options));
}

// Stand-alone nodes in this process: each serves whatever it has.
class Machines {
 public:
  explicit Machines(const std::string& directory, int count) {
    for (int i = 0; i < count; ++i) {
      store::node::NodeOptions options;
      options.directory = absl::StrCat(directory, "/", count, "-", i);
      options.engine.dram_bytes = int64_t{256} << 20;
      options.engine.capacity_bytes = int64_t{2} << 30;
      options.data_address = "127.0.0.1:0";
      options.log = [](absl::string_view) {};
      nodes_.push_back(Must(store::node::Node::Start(std::move(options))));
      addresses_[nodes_.back()->engine()->id()] = nodes_.back()->addresses().control;
    }
  }
  const Addresses& addresses() const { return addresses_; }

 private:
  std::vector<std::unique_ptr<store::node::Node>> nodes_;
  Addresses addresses_;
};

// The carrier alone: peers in this process, like the nodes, that echo every message.
class Echoes {
 public:
  explicit Echoes(int peers) : own_(Must(transport::NewUcxTransport({}, kAddress))) {
    for (int i = 0; i < peers; ++i) {
      transports_.push_back(Must(transport::NewUcxTransport({}, kAddress)));
      listeners_.push_back(Must(transports_.back()->Listen(kAddress, [](std::shared_ptr<transport::Connection> one) {
        return std::make_shared<Peer>(std::move(one));
      })));
      connections_.push_back(
          Must(own_->Connect(listeners_.back()->address(), answers_, SteadyNow() + absl::Seconds(10))));
    }
  }
  // Sends each of `peers` peers its part of `bytes` and waits until all have come back.
  void Ask(size_t peers, size_t bytes) {
    const std::string message(bytes / peers, 'x');
    answers_->Expect(peers);
    for (size_t i = 0; i < peers; ++i) MustBe(connections_[i]->SendMessage(message));
    answers_->Wait();
  }

 private:
  static constexpr char kAddress[] = "127.0.0.1:0";
  class Peer : public transport::ConnectionEvents {
   public:
    explicit Peer(std::shared_ptr<transport::Connection> connection) : connection_(std::move(connection)) {}
    void OnMessage(absl::string_view message) override { MustBe(connection_->SendMessage(message)); }
    void OnClosed(const absl::Status&) override {}

   private:
    const std::shared_ptr<transport::Connection> connection_;
  };
  class Answers : public transport::ConnectionEvents {
   public:
    void OnMessage(absl::string_view) override {
      MutexLock lock(&mutex_);
      if (--left_ == 0) all_.Signal();
    }
    void OnClosed(const absl::Status&) override {}
    void Expect(size_t count) {
      MutexLock lock(&mutex_);
      left_ = count;
    }
    void Wait() {
      MutexLock lock(&mutex_);
      while (left_ > 0) all_.Wait(&mutex_);
    }

   private:
    Mutex mutex_;
    CondVar all_;
    size_t left_ ABSL_GUARDED_BY(mutex_) = 0;
  };

  std::vector<std::unique_ptr<transport::Transport>> transports_;
  const std::unique_ptr<transport::Transport> own_;
  const std::shared_ptr<Answers> answers_ = std::make_shared<Answers>();
  std::vector<std::unique_ptr<transport::Listener>> listeners_;
  std::vector<std::shared_ptr<transport::Connection>> connections_;
};

struct Corpus {
  Corpus() : slab(kShape.slab_bytes()), manifest(Manifest::Uniform(kShape, kLayers, 64)) {
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      if (!manifest.ChecksumLayer(layer, span()).ok()) Die("the shape");
    }
    for (int i = 0; i < kDocuments; ++i) identities.push_back(IdentityOf(i));
  }
  absl::Span<const std::byte> span() const { return {slab.as<std::byte>(), static_cast<size_t>(kShape.slab_bytes())}; }
  void StoreIn(store::Store* store) {
    const std::vector<absl::Span<const std::byte>> slabs(kLayers, span());
    for (const Identity& identity : identities) {
      manifest.identity = identity;
      manifest.Seal();
      Must(store->Put("bench", manifest, slabs, SteadyNow() + absl::Minutes(1)));
    }
  }
  Memory slab;
  Manifest manifest;
  std::vector<Identity> identities;
};

std::vector<store::Found> LookUp(store::Store* store, const Corpus& corpus) {
  auto found = Must(store->Lookup("bench", corpus.identities, Codec::kRawBf16));
  if (std::any_of(found.begin(), found.end(), [](const auto& one) { return !one.present; })) Die("a miss");
  return found;
}

// Pulls all documents, every layer.
void PullAll(store::Store* store, const Corpus& corpus) {
  const auto found = LookUp(store, corpus);
  std::vector<store::ReadRequest> wanted;
  for (size_t i = 0; i < found.size(); ++i) wanted.push_back({corpus.identities[i], found[i].etag});
  const absl::Time deadline = SteadyNow() + absl::Minutes(1);
  auto leases = store->ReadMany(nullptr, "bench", Codec::kRawBf16, wanted, deadline);
  for (auto& lease : leases) {
    if (!lease.ok()) Die(lease.status().message());
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const absl::Status arrived = (*lease)->WaitLayer(layer, deadline);
      if (!arrived.ok()) Die(arrived.message());
    }
    *lease = nullptr;
  }
}

// Seconds per call, for alternatives run in turn.
std::vector<std::vector<double>> InTurn(absl::Span<const std::function<void()>> alternatives, double seconds,
                                        int calls) {
  std::vector<std::vector<double>> times(alternatives.size());
  for (const auto& run : alternatives) run();
  const double end = Now() + seconds * static_cast<double>(alternatives.size());
  while (Now() < end) {
    for (size_t i = 0; i < alternatives.size(); ++i) {
      const double begin = Now();
      for (int call = 0; call < calls; ++call) alternatives[i]();
      times[i].push_back((Now() - begin) / calls);
    }
  }
  return times;
}

using Clusters = std::vector<std::unique_ptr<store::cluster::ReplicatedStore>>;

void MeasureLookups(store::Store* alone, const Clusters& clusters, const Corpus& corpus, double seconds,
                    Report* report) {
  constexpr size_t kPeers[] = {1, 3, 4};
  Echoes echoes(4);
  std::vector<std::function<void()>> alternatives = {[&] { LookUp(alone, corpus); }};
  for (const auto& cluster : clusters) alternatives.push_back([&, store = cluster.get()] { LookUp(store, corpus); });
  for (const size_t peers : kPeers) alternatives.push_back([&, peers] { echoes.Ask(peers, kDocuments * 40); });
  const auto times = InTurn(alternatives, seconds, 50);
  report->Add("lookup, one node alone", 1e6 * Median(times[0]), "us");
  for (size_t i = 0; i < clusters.size(); ++i) {
    const std::string name = absl::StrCat("lookup, cluster of ", kNodes[i]);
    report->Add(name, 1e6 * Median(times[i + 1]), "us");
    const std::optional<Target> target = kNodes[i] == 4 ? std::optional<Target>(Target{1.3, true}) : std::nullopt;
    report->Add(absl::StrCat(name, " / alone"), MedianRatio(times[i + 1], times[0]), "", target);
  }
  const auto* const bare = &times[clusters.size() + 1];
  report->Add("bare messages, 1 peer", 1e6 * Median(bare[0]), "us");
  for (const size_t i : {1, 2}) {
    const std::string name = absl::StrCat("bare messages, ", kPeers[i], " peers at once");
    report->Add(name, 1e6 * Median(bare[i]), "us");
    report->Add(absl::StrCat(name, " / 1"), MedianRatio(bare[i], bare[0]), "");
  }
}

int64_t OwnStatus(absl::string_view name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (!absl::StartsWith(line, absl::StrCat(name, ":"))) continue;
    const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(": \t"), absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() > 1 && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return 0;
}

// The client whose memory and threads are measured: prints both as numbers once it is connected to every member. There
// are fewer nodes than members, so it opens the per-node stores of a cluster's client directly.
int RunClient(const std::string& addresses, int64_t members) {
  const std::vector<std::string> real = absl::StrSplit(addresses, ',');
  const auto resources = store::client::NewClientResources({});
  std::vector<std::unique_ptr<store::client::RemoteStore>> stores;
  for (int64_t i = 0; i < members; ++i) {
    stores.push_back(OpenAlone(real[i % real.size()], "ucx", resources));
    Must(stores.back()->Lookup("bench", {IdentityOf(0)}, Codec::kRawBf16));
  }
  int64_t sessions = 0;
  for (const auto& node : stores) sessions += node->Counters().sessions > 0;
  std::printf("%lld %lld %lld\n", static_cast<long long>(sessions), static_cast<long long>(OwnStatus("Threads")),
              static_cast<long long>(OwnStatus("VmRSS") << 10));
  std::fflush(stdout);
  return 0;
}

struct Footprint {
  int64_t sessions = 0, threads = 0, bytes = 0;
};
Footprint MeasureClient(const Addresses& addresses, int members) {
  std::vector<char> path(4096);
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
  if (length <= 0) Die("it cannot find itself");
  const auto second = [](std::string* out, const auto& node) { out->append(node.second); };
  const std::string command = absl::StrCat(std::string(path.data(), length), " --client ",
                                           absl::StrJoin(addresses, ",", second), " --members ", members);
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) Die("it cannot start a client");
  long long sessions = 0, threads = 0, bytes = 0;
  const int read = std::fscanf(pipe, "%lld %lld %lld", &sessions, &threads, &bytes);
  if (pclose(pipe) != 0 || read != 3) Die("the client failed");
  return {sessions, threads, bytes};
}

int Main(int argc, char** argv) {
  const auto flags =
      Flags::Parse(argc, argv, "Measures what a client pays for a cluster, against a client of one node.",
                   {{"seconds", "N", "Time for each alternative (default 4)."},
                    kScratchFlag,
                    {"client", "ADDRESSES", "Is the client whose memory is measured; the bench's own use."},
                    {"members", "N", "With --client: how many members it sees."}});
  if (!flags.ok()) Die(flags.status().message());
  if (flags->help_wanted()) return 0;
  setenv("UCX_NET_DEVICES", "lo", 0);
  if (flags->Has("client")) return RunClient(flags->Get("client", ""), flags->GetInt("members", 3));
  const double seconds = static_cast<double>(std::clamp<int64_t>(flags->GetInt("seconds", 4), 1, 600));
  const Scratch scratch = Must(Scratch::Make(flags->Get("dir", "")));
  Report report("cluster");
  Corpus corpus;
  std::vector<std::unique_ptr<Machines>> machines;
  Clusters clusters;
  for (const int count : kNodes) {
    machines.push_back(std::make_unique<Machines>(scratch.path(), count));
    clusters.push_back(OpenCluster(machines.back()->addresses(), "ucx"));
    corpus.StoreIn(clusters.back().get());
  }
  const auto alone = OpenAlone(machines[0]->addresses().begin()->second, "ucx");
  report.Section("lookups of 40 documents");
  MeasureLookups(alone.get(), clusters, corpus, seconds, &report);

  report.Section("pulls of 40 documents, 2 MiB each, from memory");
  std::vector<std::function<void()>> pulls = {[&] { PullAll(alone.get(), corpus); }};
  for (const auto& cluster : clusters) pulls.push_back([&, store = cluster.get()] { PullAll(store, corpus); });
  const auto times = InTurn(pulls, seconds, 1);
  const double gigabytes = 1e-9 * kDocuments * kLayers * static_cast<double>(kShape.slab_bytes());
  report.Add("pull, one node alone", gigabytes / Median(times[0]), "GB/s");
  for (size_t i = 0; i < clusters.size(); ++i) {
    const std::string name = absl::StrCat("pull, cluster of ", kNodes[i]);
    report.Add(name, gigabytes / Median(times[i + 1]), "GB/s");
    const std::optional<Target> target = kNodes[i] == 1 ? std::optional<Target>(Target{0.95, false}) : std::nullopt;
    report.Add(absl::StrCat(name, " / alone"), MedianRatio(times[0], times[i + 1]), "", target);
  }
  for (const auto& cluster : clusters) {
    const auto counters = cluster->Counters();
    if (counters.stuck > 0) std::printf("%lld requests were left behind\n", static_cast<long long>(counters.stuck));
  }

  report.Section("a client that is connected to every member");
  const Footprint few = MeasureClient(machines[2]->addresses(), 3), many = MeasureClient(machines[2]->addresses(), 100);
  if (few.sessions != 3 || many.sessions != 100) Die("a client is not connected to all members");
  report.Add("threads, 3 members", static_cast<double>(few.threads), "");
  report.Add("threads, 100 members", static_cast<double>(many.threads), "",
             Target{static_cast<double>(few.threads) + 4, true});
  report.Add("memory, 3 members", static_cast<double>(few.bytes) / (1 << 20), "MiB");
  report.Add("memory, 100 members", static_cast<double>(many.bytes) / (1 << 20), "MiB");
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
