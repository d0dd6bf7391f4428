// Do pushes at the write ceiling hold up readers? Pulls from DRAM and from segments on an engine, alone and beside
// pushes that come as fast as the disk takes them from a niced generator, in turns within one run.
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "store/engine/engine.h"

namespace kvlink {
namespace {

using bench::Now;
using bench::Report;
using engine::EncodingKey;
using engine::Engine;

// An encoding of SmolLM2-135M: 512 tokens.
constexpr int64_t kLayers = 30;
constexpr SlabShape kShape{Codec::kRawBf16, 3, 64, 512};
const int64_t kBytes = kLayers * kShape.slab_bytes();
constexpr int kResident = 8;     // encodings pulled from DRAM
constexpr int kOnDisk = 40;      // encodings pulled from segments: more than the tier has room for
constexpr int kPushers = 2;      // threads of the generator
constexpr int kPushesAhead = 3;  // of each, neither written nor failed
constexpr int kNice = 19;
constexpr int64_t kDramBytes = int64_t{288} << 20;

[[noreturn]] void Die(absl::string_view what) {
  std::fprintf(stderr, "bench_isolation: %s\n", std::string(what).c_str());
  std::exit(1);
}

void MustBe(const absl::Status& status) {
  if (!status.ok()) Die(status.message());
}

struct Source {
  explicit Source(int count) : slabs(kBytes) {
    uint64_t state = 88172645463325252;
    for (int64_t i = 0; i < kBytes / 8; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      slabs.as<uint64_t>()[i] = state;
    }
    Manifest manifest = Manifest::Uniform(kShape, kLayers, kShape.head_dim);
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      spans.push_back(absl::MakeConstSpan(slabs.as<std::byte>() + layer * kShape.slab_bytes(), kShape.slab_bytes()));
      MustBe(manifest.ChecksumLayer(layer, spans.back()));
    }
    manifest.Seal();
    for (int i = 0; i < count; ++i) manifests.push_back(Named(manifest, i));
  }
  static Manifest Named(Manifest manifest, int64_t number) {
    std::memcpy(manifest.identity.bytes.data(), &number, sizeof(number));
    return manifest;
  }

  bench::Memory slabs;
  std::vector<absl::Span<const std::byte>> spans;
  std::vector<Manifest> manifests;
};

// Pushes without end, from threads of low priority: what a transport would have landed is copied into the push.
class Generator {
 public:
  Generator(Engine* engine, const Source* source) : engine_(engine), source_(source) {}
  ~Generator() { Stop(); }

  void Start() {
    stop_ = false;
    for (int t = 0; t < kPushers; ++t) threads_.emplace_back([this] { Run(); });
  }
  void Stop() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  int64_t pushed() const { return pushed_; }

 private:
  void Run() {
    if (setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice) != 0) Die("setpriority");
    const std::vector<int64_t> lengths(kLayers, kShape.slab_bytes());
    Mutex mutex;
    CondVar ended;
    int ahead = 0;
    while (!stop_) {
      const Manifest manifest = Source::Named(source_->manifests[0], 1000000 + next_++);
      auto push = engine_->BeginPush({"pushed", manifest.identity, manifest.codec}, lengths);
      if (absl::IsResourceExhausted(push.status())) {
        absl::SleepFor(absl::Milliseconds(1));
        continue;
      }
      MustBe(push.status());
      for (int64_t layer = 0; layer < kLayers; ++layer)
        std::memcpy((*push)->slab(layer).data(), source_->spans[layer].data(), source_->spans[layer].size());
      {
        MutexLock lock(&mutex);
        while (ahead >= kPushesAhead) ended.Wait(&mutex);
        ++ahead;
      }
      engine_->CommitPush(*std::move(push), manifest, [&](absl::StatusOr<Engine::PutOutcome> outcome) {
        MustBe(outcome.status());
        ++pushed_;
        MutexLock lock(&mutex);
        --ahead;
        ended.Signal();
      });
    }
    MutexLock lock(&mutex);
    while (ahead > 0) ended.Wait(&mutex);
  }

  Engine* const engine_;
  const Source* const source_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> next_{0}, pushed_{0};
};

// Seconds of each pull: a lease, every layer, and its bytes out of the tier, as a connection would send them.
class Puller {
 public:
  Puller(Engine* engine, const Source* source, std::string ns, int count, bool from_dram)
      : engine_(engine),
        source_(source),
        ns_(std::move(ns)),
        count_(count),
        from_dram_(from_dram),
        out_(int64_t{8} * kBytes) {}

  void Pull(int pulls, std::vector<double>* seconds) {
    for (int i = 0; i < pulls; ++i) {
      const Manifest& manifest = source_->manifests[next_++ % count_];
      std::byte* const out = out_.as<std::byte>() + next_ % 8 * kBytes;
      const double start = Now();
      auto lease = engine_->Read({ns_, manifest.identity, manifest.codec}, manifest.etag, absl::InfiniteFuture());
      if (absl::IsResourceExhausted(lease.status())) continue;
      MustBe(lease.status());
      for (int64_t layer = 0; layer < kLayers; ++layer) {
        MustBe((*lease)->WaitLayer(layer, absl::InfiniteFuture()));
        std::memcpy(out + layer * kShape.slab_bytes(), (*lease)->layer(layer).data(), kShape.slab_bytes());
      }
      if ((*lease)->from_dram() == from_dram_) seconds->push_back(Now() - start);
    }
  }

 private:
  Engine* const engine_;
  const Source* const source_;
  const std::string ns_;
  const int count_;
  const bool from_dram_;  // what else comes from there does not count
  int64_t next_ = 0;
  bench::Memory out_;
};

struct Samples {
  std::vector<double> alone, beside;
};

void AddPulls(Report* report, absl::string_view what, const Samples& samples, double most) {
  const auto add = [&](absl::string_view name, const std::vector<double>& seconds) {
    report->Add(absl::StrCat(what, " ", name, " p50"), 1e3 * bench::Median(seconds), "ms");
    report->Add(absl::StrCat(what, " ", name, " p99"), 1e3 * bench::Quantile(seconds, 0.99), "ms");
  };
  report->Section(what);
  add("alone", samples.alone);
  add("beside pushes", samples.beside);
  report->Add(absl::StrCat(what, " p99 beside pushes / alone"),
              bench::Quantile(samples.beside, 0.99) / bench::Quantile(samples.alone, 0.99), "",
              bench::Target{most, true});
}

int Main(int argc, char** argv) {
  const auto flags = bench::Flags::Parse(
      argc, argv, "Measures how much pushes at the write ceiling hold up pulls from DRAM and from segments.",
      {{"dir", "DIRECTORY", "Made and removed by the bench (default: among the temporary files)."},
       {"pulls", "N", "Pulls of each kind in a round (default 150)."},
       {"rounds", "N", "Rounds (default 5)."}});
  MustBe(flags.status());
  if (flags->help_wanted()) return 0;
  const std::string directory =
      flags->Get("dir", (std::filesystem::temp_directory_path() / absl::StrCat("bench_isolation_", getpid())).string());
  const int pulls = static_cast<int>(std::clamp<int64_t>(flags->GetInt("pulls", 150), 1, 100000));
  const int rounds = static_cast<int>(std::clamp<int64_t>(flags->GetInt("rounds", 5), 1, 1000));
  if (std::filesystem::exists(directory))
    Die(absl::StrCat(directory, " exists; name a directory that can be made and removed"));
  struct Cleanup {
    std::string path;
    ~Cleanup() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } cleanup{directory};

  const Source source(kOnDisk);
  engine::EngineOptions options;
  options.dram_bytes = kDramBytes;
  options.capacity_bytes = int64_t{4} << 30;
  auto opened = Engine::Open(directory, options);
  MustBe(opened.status());
  Engine* const engine = opened->get();
  // What is pushed evicts what was pushed before, so that the disk is written in steady state.
  MustBe(engine->PutNamespace("pushed", {.capacity_bytes = 60 * kBytes}));
  for (const char* ns : {"resident", "on-disk"}) {
    for (int i = 0; i < (ns[0] == 'r' ? kResident : kOnDisk); ++i)
      MustBe(engine->Put(ns, source.manifests[i], source.spans, absl::InfiniteFuture()).status());
  }
  std::vector<std::unique_ptr<engine::EncodingLease>> held;
  for (int i = 0; i < kResident; ++i) {
    const Manifest& manifest = source.manifests[i];
    auto lease = engine->Read({"resident", manifest.identity, manifest.codec}, manifest.etag, absl::InfiniteFuture());
    MustBe(lease.status());
    for (int64_t layer = 0; layer < kLayers; ++layer) MustBe((*lease)->WaitLayer(layer, absl::InfiniteFuture()));
    held.push_back(*std::move(lease));
  }

  Puller from_dram(engine, &source, "resident", kResident, true),
      from_segments(engine, &source, "on-disk", kOnDisk, false);
  Generator generator(engine, &source);
  Samples dram, segments;
  std::vector<double> ceiling, beside;  // GB/s of pushes
  const auto rate = [&](const std::function<void()>& body) {
    const int64_t before = generator.pushed();
    const double start = Now();
    body();
    return 1e-9 * static_cast<double>((generator.pushed() - before) * kBytes) / (Now() - start);
  };
  for (int round = -1; round < rounds; ++round) {
    Samples ignored_dram, ignored_segments;
    Samples* const to_dram = round < 0 ? &ignored_dram : &dram;
    Samples* const to_segments = round < 0 ? &ignored_segments : &segments;
    from_dram.Pull(pulls, &to_dram->alone);
    from_segments.Pull(pulls, &to_segments->alone);
    generator.Start();
    absl::SleepFor(absl::Milliseconds(200));
    const double alone = rate([] { absl::SleepFor(absl::Milliseconds(1000)); });
    const double with_pulls = rate([&] {
      from_dram.Pull(pulls, &to_dram->beside);
      from_segments.Pull(pulls, &to_segments->beside);
    });
    generator.Stop();
    if (round < 0) continue;
    ceiling.push_back(alone);
    beside.push_back(with_pulls);
  }
  Report report("isolation");
  std::printf(
      "encodings of %.1f MB (%lld layers), %d pulls of each kind in %d rounds, %d pushing threads at nice %d; %s\n",
      1e-6 * static_cast<double>(kBytes), static_cast<long long>(kLayers), pulls, rounds, kPushers, kNice,
      engine->Stats().io.c_str());
  AddPulls(&report, "DRAM", dram, 2);
  AddPulls(&report, "segments", segments, 4);
  report.Section("pushes");
  report.Add("pushes without pulls", bench::Median(ceiling), "GB/s");
  report.Add("pushes beside pulls", bench::Median(beside), "GB/s");
  held.clear();
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink

int main(int argc, char** argv) { return kvlink::Main(argc, argv); }
