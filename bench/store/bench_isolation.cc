// Do pushes at the write ceiling hold up readers? A node in a process of its own; pulls from its DRAM and from its
// segments over UCX, alone and beside a niced process that pushes as fast as the node takes them, in turns within one
// run. All of them share this machine's cores, and its disk: what a niced process that writes a file and nothing else
// does to the same pulls is the machine's part.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "bench/transfer/transfer.h"
#include "store/client/remote.h"
#include "store/engine/engine.h"
#include "store/node/node.h"

namespace kvlink::bench {
namespace {

// An encoding of SmolLM2-135M: 512 tokens.
constexpr int64_t kLayers = 30;
constexpr SlabShape kShape{Codec::kRawBf16, 3, 64, 512};
const int64_t kBytes = kLayers * kShape.slab_bytes();
constexpr int kResident = 8;  // encodings pulled from DRAM
constexpr int kOnDisk = 40;   // encodings pulled from segments: more than the tier has room for
constexpr int kPushers = 4;   // pushes of the generator under way
constexpr int kNice = 19;     // of the generator
constexpr int64_t kDramBytes = int64_t{384} << 20;
constexpr absl::Duration kPatience = absl::Seconds(60);

[[noreturn]] void Die(absl::string_view what) {
  std::fprintf(stderr, "bench_isolation: %s\n", std::string(what).c_str());
  std::exit(1);
}

void MustBe(const absl::Status& status) {
  if (!status.ok()) Die(status.message());
}

template <typename T>
T Must(absl::StatusOr<T> result) {
  MustBe(result.status());
  return *std::move(result);
}

absl::Time Soon() { return SteadyNow() + kPatience; }

Manifest Named(Manifest manifest, uint64_t number) {
  std::memcpy(manifest.identity.bytes.data(), &number, sizeof(number));
  return manifest;
}

// One encoding's slabs, ready to be written under any name.
struct Slabs {
  explicit Slabs(std::byte* data) {
    FillRing(data, kBytes);
    manifest = Manifest::Uniform(kShape, kLayers, kShape.head_dim);
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      spans.push_back(absl::MakeConstSpan(data + layer * kShape.slab_bytes(), kShape.slab_bytes()));
      MustBe(manifest.ChecksumLayer(layer, spans.back()));
    }
    manifest.Seal();
  }
  Manifest manifest;
  std::vector<absl::Span<const std::byte>> spans;
};

// The parts of the program, each in a process of its own.

[[noreturn]] void Serve(const std::string& directory) {
  store::NodeOptions options;
  options.directory = directory + "/store";
  options.engine.dram_bytes = kDramBytes;
  options.engine.capacity_bytes = int64_t{4} << 30;
  options.data_address = "127.0.0.1:0";
  options.log = [](absl::string_view) {};
  {
    const Memory memory(kBytes);
    const Slabs slabs(memory.as<std::byte>());
    const auto engine = Must(engine::Engine::Open(options.directory, options.engine));
    // What is pushed evicts what was pushed before, so that the disk is written in steady state.
    MustBe(engine->PutNamespace("pushed", {.capacity_bytes = 60 * kBytes}));
    for (int i = 0; i < kResident + kOnDisk; ++i) {
      MustBe(
          engine->Put(i < kResident ? "resident" : "on-disk", Named(slabs.manifest, i), slabs.spans, Soon()).status());
    }
  }
  const auto node = Must(store::Node::Start(std::move(options)));
  ServeForever(node->addresses().control);
}

std::unique_ptr<store::RemoteStore> Connect(const std::string& address) {
  store::RemoteOptions options;
  options.address = address;
  options.carrier = store::Carrier::kUcx;
  options.name = "bench";
  return Must(store::OpenRemote(options));
}

[[noreturn]] void Push(const std::string& address) {
  if (setpriority(PRIO_PROCESS, 0, kNice) != 0) Die("setpriority");  // inherited by every thread
  const auto store = Connect(address);
  const auto memory = Must(store->AllocateSlabs(kBytes));
  const Slabs slabs(memory->data());
  std::vector<std::thread> pushers;
  for (uint64_t pusher = 0; pusher < kPushers; ++pusher) {
    pushers.emplace_back([&, pusher] {
      for (auto next = static_cast<uint64_t>(absl::GetCurrentTimeNanos()) * kPushers + pusher;; next += kPushers) {
        const auto put = store->Put("pushed", Named(slabs.manifest, next), slabs.spans, absl::InfiniteFuture());
        if (!absl::IsResourceExhausted(put.status())) MustBe(put.status());
      }
    });
  }
  ServeForever("pushing");
}

[[noreturn]] void WriteFile(const std::string& path) {
  if (setpriority(PRIO_PROCESS, 0, kNice) != 0) Die("setpriority");
  constexpr int64_t kRequest = int64_t{2} << 20, kRequests = 300;
  const int file = open(path.c_str(), O_CREAT | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);
  const Memory memory(kRequest);
  std::thread writer([&] {
    for (int64_t i = 0;; ++i) {
      if (pwrite(file, memory.as<>(), kRequest, i % kRequests * kRequest) != kRequest) Die("writing a file");
    }
  });
  ServeForever("writing");
}

// Pulls as a worker does: a read, and every layer verified. What does not come from `tier` is not counted.
class Puller {
 public:
  Puller(store::Store* store, std::string ns, const Manifest& manifest, int first, int count, store::Tier tier)
      : store_(store), ns_(std::move(ns)), manifest_(manifest), first_(first), count_(count), tier_(tier) {}

  void Pull(int pulls, std::vector<double>* seconds) {
    for (int done = 0, tried = 0; done < pulls; ++tried) {
      if (tried > 20 * pulls) Die(absl::StrCat("pulls of '", ns_, "' come from another tier"));
      const Manifest wanted = Named(manifest_, first_ + next_++ % count_);
      const double start = Now();
      const auto lease = Must(store_->Read(ns_, wanted.identity, wanted.codec, wanted.etag, Soon()));
      for (int64_t layer = 0; layer < kLayers; ++layer) MustBe(lease->WaitLayer(layer, Soon()));
      if (lease->source() != tier_) continue;
      seconds->push_back(Now() - start);
      ++done;
    }
  }

 private:
  store::Store* const store_;
  const std::string ns_;
  const Manifest manifest_;
  const int first_, count_;
  const store::Tier tier_;
  int next_ = 0;
};

struct Samples {
  std::vector<double> alone, beside_writes, beside_pushes;
};

void AddPulls(Report* report, absl::string_view what, const Samples& samples, double most) {
  const auto add = [&](absl::string_view name, const std::vector<double>& seconds) {
    report->Add(absl::StrCat(what, " ", name, " p50"), 1e3 * Median(seconds), "ms");
    report->Add(absl::StrCat(what, " ", name, " p99"), 1e3 * Quantile(seconds, 0.99), "ms");
  };
  report->Section(what);
  add("alone", samples.alone);
  add("beside bare writes", samples.beside_writes);
  add("beside pushes", samples.beside_pushes);
  const double alone = Quantile(samples.alone, 0.99);
  report->Add(absl::StrCat(what, " p99 beside bare writes / alone"), Quantile(samples.beside_writes, 0.99) / alone, "");
  report->Add(absl::StrCat(what, " p99 beside pushes / alone"), Quantile(samples.beside_pushes, 0.99) / alone, "",
              Target{most, true});
}

// GB/s that the node writes meanwhile.
double WriteRate(store::Store* store, const std::function<void()>& body) {
  const int64_t before = Must(store->Stats()).bytes_written;
  const double start = Now();
  body();
  return 1e-9 * static_cast<double>(Must(store->Stats()).bytes_written - before) / (Now() - start);
}

int Main(int argc, char** argv) {
  const auto flags =
      Flags::Parse(argc, argv, "Measures how much pushes at a node's write ceiling hold up pulls from it.",
                   {kScratchFlag,
                    {"pulls", "N", "Pulls of each kind in a round (default 100)."},
                    {"rounds", "N", "Rounds (default 4)."},
                    {"serve", "DIRECTORY", "For the bench itself."},
                    {"push", "ADDRESS", "For the bench itself."},
                    {"write", "FILE", "For the bench itself."}});
  MustBe(flags.status());
  if (flags->help_wanted()) return 0;
  setenv("UCX_NET_DEVICES", "lo", 0);
  if (flags->Has("serve")) Serve(flags->Get("serve", ""));
  if (flags->Has("push")) Push(flags->Get("push", ""));
  if (flags->Has("write")) WriteFile(flags->Get("write", ""));
  const int pulls = static_cast<int>(std::clamp<int64_t>(flags->GetInt("pulls", 100), 1, 100000));
  const int rounds = static_cast<int>(std::clamp<int64_t>(flags->GetInt("rounds", 4), 1, 1000));

  const Scratch scratch = Must(Scratch::Make(flags->Get("dir", "")));
  const auto node = Must(ServingProcess::Start({"/proc/self/exe", "--serve", scratch.path()}));
  const std::string& address = node->first_line();
  const auto store = Connect(address);
  const Memory memory(kBytes);
  const Manifest manifest = Slabs(memory.as<std::byte>()).manifest;
  Puller from_dram(store.get(), "resident", manifest, 0, kResident, store::Tier::kDram);
  Puller from_segments(store.get(), "on-disk", manifest, kResident, kOnDisk, store::Tier::kSegments);
  Samples dram, segments;
  std::vector<double> ceiling, beside;
  for (int round = -1; round < rounds; ++round) {
    Samples ignored_dram, ignored_segments;
    Samples* const to_dram = round < 0 ? &ignored_dram : &dram;
    Samples* const to_segments = round < 0 ? &ignored_segments : &segments;
    const auto pull = [&](std::vector<double> Samples::*when) {
      from_dram.Pull(pulls, &(to_dram->*when));
      from_segments.Pull(pulls, &(to_segments->*when));
    };
    pull(&Samples::alone);
    {
      const auto writer = Must(ServingProcess::Start({"/proc/self/exe", "--write", scratch.path() + "/bare"}));
      pull(&Samples::beside_writes);
    }
    const auto generator = Must(ServingProcess::Start({"/proc/self/exe", "--push", address}));
    absl::SleepFor(absl::Milliseconds(200));
    const double alone = WriteRate(store.get(), [] { absl::SleepFor(absl::Seconds(1)); });
    const double with_pulls = WriteRate(store.get(), [&] { pull(&Samples::beside_pushes); });
    if (round < 0) continue;
    ceiling.push_back(alone);
    beside.push_back(with_pulls);
  }
  Report report("isolation");
  std::printf("encodings of %.1f MB (%lld layers), %d pulls of each kind in %d rounds, %d pushes at nice %d; %s\n",
              1e-6 * static_cast<double>(kBytes), static_cast<long long>(kLayers), pulls, rounds, kPushers, kNice,
              Must(store->Stats()).io.c_str());
  AddPulls(&report, "DRAM", dram, 2);
  AddPulls(&report, "segments", segments, 4);
  report.Section("pushes");
  report.Add("pushes without pulls", Median(ceiling), "GB/s");
  report.Add("pushes beside pulls", Median(beside), "GB/s");
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
