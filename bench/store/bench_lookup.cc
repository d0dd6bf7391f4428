// How many identities a second does a node look up? The node and one client share this machine's cores; half of the
// identities are stored. A lookup is one call of the Store interface: one message there, one back.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "store/client/remote.h"
#include "store/node/node.h"

namespace kvlink::bench {
namespace {

constexpr int kStored = 4096;
constexpr int kBatches[] = {1, 16, 128, 1024};

Identity IdentityOf(uint64_t number) {
  Identity identity;
  const std::string text = absl::StrCat("lookup ", number);
  Sha256 hash;
  hash.Update(text);
  identity.bytes = hash.Finish();
  return identity;
}

void StoreEncodings(store::Store* store) {
  const SlabShape shape{Codec::kRawBf16, 1, 8, 16};
  Manifest manifest = Manifest::Uniform(shape, 1, 8);
  const Memory slab(shape.slab_bytes());
  const auto span = absl::MakeConstSpan(slab.as<std::byte>(), shape.slab_bytes());
  if (!manifest.ChecksumLayer(0, span).ok()) Die("the shape");
  for (int i = 0; i < kStored; ++i) {
    manifest.identity = IdentityOf(2 * i);
    manifest.Seal();
    Must(store->Put("bench", manifest, {span}, SteadyNow() + absl::Minutes(1)));
  }
}

void MeasureBatch(store::Store* store, absl::string_view carrier, const std::vector<Identity>& identities, int batch,
                  double seconds, Report* report) {
  std::mt19937_64 random(1);
  std::vector<double> calls;
  int64_t present = 0;
  const double start = Now();
  double now = start;
  while (now - start < seconds) {
    const size_t first = random() % (identities.size() - batch + 1);
    const auto found =
        Must(store->Lookup("bench", absl::MakeConstSpan(identities).subspan(first, batch), Codec::kRawBf16));
    for (const store::Found& one : found) present += one.present;
    const double end = Now();
    calls.push_back(end - now);
    now = end;
  }
  if (present == 0) Die("nothing was found");
  const double rate = static_cast<double>(calls.size()) * batch / (now - start);
  const std::string name = absl::StrCat(carrier, ", ", batch, " a call");
  report->Add(name, rate, "1/s", batch == 1024 ? std::optional<Target>(Target{500e3, false}) : std::nullopt);
  report->Add(absl::StrCat(name, ", median"), 1e6 * Median(calls), "us");
  report->Add(absl::StrCat(name, ", p99"), 1e6 * Quantile(calls, 0.99), "us");
}

int Main(int argc, char** argv) {
  const auto flags = Flags::Parse(argc, argv, "Measures lookups of a node by a client on the same cores.",
                                  {{"seconds", "N", "Time for each size of batch (default 3)."}});
  if (!flags.ok()) Die(flags.status().message());
  if (flags->help_wanted()) return 0;
  setenv("UCX_NET_DEVICES", "lo", 0);
  const double seconds = static_cast<double>(std::clamp<int64_t>(flags->GetInt("seconds", 3), 1, 600));
  const Scratch scratch = Must(Scratch::Make(""));
  std::vector<Identity> identities;
  for (int i = 0; i < 2 * kStored; ++i) identities.push_back(IdentityOf(i));
  Report report("lookup");
  {
    store::node::NodeOptions options;
    options.directory = scratch.path() + "/store";
    options.engine.dram_bytes = int64_t{64} << 20;
    options.engine.capacity_bytes = int64_t{2} << 30;
    options.engine.share_memory = true;
    options.data_address = "127.0.0.1:0";
    options.local_socket = scratch.path() + "/socket";
    options.log = [](absl::string_view) {};
    const auto node = Must(store::node::Node::Start(std::move(options)));
    for (const char* carrier : {"ucx", "mapped", "grpc"}) {
      store::client::RemoteOptions remote;
      remote.address = node->addresses().control;
      remote.carrier = Must(store::client::ParseCarrier(carrier));
      remote.name = "bench";
      const auto store = Must(store::client::OpenRemote(remote));
      if (carrier == std::string("ucx")) StoreEncodings(store.get());
      report.Section(carrier == std::string("mapped") ? "local socket" : carrier);
      for (const int batch : kBatches) MeasureBatch(store.get(), carrier, identities, batch, seconds, &report);
    }
  }
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
