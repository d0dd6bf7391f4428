// What does a client pay for a cluster? Compares pulls and lookups through the replicated store over 1, 2 and 4 nodes
// with the store over a single node. Nodes and clients share one machine's cores, so more nodes mean more work on the
// same machine. Also compares the memory and threads of a client of 100 nodes with those of a client of 3: it runs in
// its own process, connected to all of them (several members are the same node, which is not visible in an address).
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "store/client/remote.h"
#include "store/cluster/replicas/replicated.h"
#include "store/cluster/view.h"
#include "store/node/node.h"

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

class FixedView : public store::cluster::ViewSource {
 public:
  explicit FixedView(const std::vector<std::string>& addresses) {
    auto view = std::make_shared<View>();
    view->settings.name = "bench";
    view->settings.copies = view->settings.acknowledged = static_cast<int>(std::min<size_t>(2, addresses.size()));
    std::vector<store::cluster::Member> members;
    for (size_t i = 0; i < addresses.size(); ++i) {
      members.push_back({});
      members.back().node_id[0] = static_cast<uint8_t>(i);
      view->status.push_back({addresses[i], "bench", 1});
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

std::unique_ptr<store::cluster::ReplicatedStore> OpenCluster(const std::vector<std::string>& addresses,
                                                             absl::string_view carrier) {
  store::cluster::ReplicatedOptions options;
  options.node.name = "bench";
  options.node.carrier = Must(store::client::ParseCarrier(carrier));
  return Must(store::cluster::OpenReplicated(std::make_shared<FixedView>(addresses), nullptr, options));
}

std::unique_ptr<store::client::RemoteStore> OpenAlone(const std::string& address, absl::string_view carrier) {
  store::client::RemoteOptions options;
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
      addresses_.push_back(nodes_.back()->addresses().control);
    }
  }
  const std::vector<std::string>& addresses() const { return addresses_; }

 private:
  std::vector<std::unique_ptr<store::node::Node>> nodes_;
  std::vector<std::string> addresses_;
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

// The client whose memory and threads are measured: prints both as numbers once it is connected to every member.
int RunClient(const std::string& addresses, int64_t members) {
  const std::vector<std::string> real = absl::StrSplit(addresses, ',');
  std::vector<std::string> all;
  for (int64_t i = 0; i < members; ++i) all.push_back(real[i % real.size()]);
  const auto store = OpenCluster(all, "ucx");
  std::vector<Identity> identities;
  for (int i = 0; i < 4000; ++i) identities.push_back(IdentityOf(1000 + i));
  for (int i = 0; i < 20; ++i) {
    Must(store->Lookup("bench", identities, Codec::kRawBf16));
    if (static_cast<int64_t>(store->NodeCounters().size()) == members) break;
  }
  int64_t sessions = 0;
  for (const auto& node : store->NodeCounters()) sessions += node.sessions > 0;
  std::printf("%lld %lld %lld\n", static_cast<long long>(sessions), static_cast<long long>(OwnStatus("Threads")),
              static_cast<long long>(OwnStatus("VmRSS") << 10));
  std::fflush(stdout);
  return 0;
}

struct Footprint {
  int64_t sessions = 0, threads = 0, bytes = 0;
};
Footprint MeasureClient(const std::vector<std::string>& addresses, int members) {
  std::vector<char> path(4096);
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
  if (length <= 0) Die("it cannot find itself");
  const std::string command = absl::StrCat(std::string(path.data(), length), " --client ",
                                           absl::StrJoin(addresses, ","), " --members ", members);
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
  std::vector<std::unique_ptr<store::cluster::ReplicatedStore>> clusters;
  for (const int count : kNodes) {
    machines.push_back(std::make_unique<Machines>(scratch.path(), count));
    clusters.push_back(OpenCluster(machines.back()->addresses(), "ucx"));
    corpus.StoreIn(clusters.back().get());
  }
  const auto alone = OpenAlone(machines[0]->addresses()[0], "ucx");
  const auto measure = [&](const std::function<void(store::Store*)>& run, int calls) {
    std::vector<std::function<void()>> alternatives = {[&] { run(alone.get()); }};
    for (const auto& cluster : clusters) alternatives.push_back([&run, store = cluster.get()] { run(store); });
    return InTurn(alternatives, seconds, calls);
  };

  report.Section("lookups of 40 documents");
  auto times = measure([&](store::Store* store) { LookUp(store, corpus); }, 50);
  report.Add("lookup, one node alone", 1e6 * Median(times[0]), "us");
  for (size_t i = 0; i < clusters.size(); ++i) {
    const std::string name = absl::StrCat("lookup, cluster of ", kNodes[i]);
    report.Add(name, 1e6 * Median(times[i + 1]), "us");
    const std::optional<Target> target = kNodes[i] == 4 ? std::optional<Target>(Target{1.3, true}) : std::nullopt;
    report.Add(absl::StrCat(name, " / alone"), MedianRatio(times[i + 1], times[0]), "", target);
  }

  report.Section("pulls of 40 documents, 2 MiB each, from memory");
  times = measure([&](store::Store* store) { PullAll(store, corpus); }, 1);
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
