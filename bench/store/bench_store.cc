// Does the store cost anything over the disk? Writes and reads slabs through the embedded store and through bare
// io_uring with O_DIRECT and registered memory: same file system, same sizes, same number of flushes, interleaved in
// one run.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

#include "base/status.h"
#include "bench/bench_common.h"
#include "bench/store/bare_disk.h"
#include "store/embedded/embedded_engine.h"
#include "store/engine/disk/io_observer.h"

namespace kvlink {
namespace {

using bench::BareDisk;
using bench::Memory;
using bench::Now;
using bench::Report;

constexpr int kPutters = 8;
constexpr int kAhead = 3;  // encodings read ahead of the one being waited for
constexpr int64_t kMemory = 96 << 20;
// An encoding of SmolLM2-135M: 512 tokens.
constexpr int64_t kLayers = 30;
constexpr SlabShape kShape{Codec::kRawBf16, 3, 64, 512};

struct Cost {
  double seconds = 0;
  double cpu = 0;
};

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + 1e-6 * (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

template <typename Body>
Cost Measure(Body body) {
  const double cpu = CpuSeconds(), start = Now();
  body();
  return {Now() - start, CpuSeconds() - cpu};
}

[[noreturn]] void Die(absl::string_view what) {
  std::fprintf(stderr, "bench_store: %s\n", std::string(what).c_str());
  std::exit(1);
}

void MustBe(const absl::Status& status) {
  if (!status.ok()) Die(status.message());
}

// Counts the flushes of segments, so that the bare side flushes as often.
class CountFlushes : public engine::IoObserver {
 public:
  absl::StatusOr<uint64_t> WriteStarted(const std::string&, int64_t, absl::Span<const std::byte>) override { return 0; }
  void WriteEnded(uint64_t) override {}
  absl::StatusOr<uint64_t> SyncStarted(const std::string& path) override {
    if (path.find("/segments/") != std::string::npos) ++flushes;
    return 0;
  }
  void SyncEnded(uint64_t) override {}
  void Created(const std::string&) override {}
  void Resized(const std::string&, int64_t) override {}
  void Renamed(const std::string&, const std::string&) override {}
  void Removed(const std::string&) override {}
  void DirectoryCreated(const std::string&) override {}
  std::atomic<int64_t> flushes{0};
};

// The store's side: `count` encodings of the same bytes under different names.
class Subject {
 public:
  Subject(const std::string& directory, int64_t count) : slabs_(kLayers * kShape.slab_bytes()) {
    uint64_t state = 88172645463325252;
    for (int64_t i = 0; i < slabs_.bytes() / 8; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      slabs_.as<uint64_t>()[i] = state;
    }
    Manifest manifest = Manifest::Uniform(kShape, kLayers, kShape.head_dim);
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      spans_.push_back(absl::MakeConstSpan(slabs_.as<std::byte>() + layer * kShape.slab_bytes(), kShape.slab_bytes()));
      MustBe(manifest.ChecksumLayer(layer, spans_.back()));
    }
    manifests_.assign(count, manifest);
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(manifests_[i].identity.bytes.data(), &i, sizeof(i));
      manifests_[i].Seal();
    }
    engine::EngineOptions options;
    options.observer = &flushes_;
    options.dram_bytes = kMemory;  // smaller than what is written and read, as in a useful store
    options.capacity_bytes = 2 * bytes() + (int64_t{1} << 30);
    auto engine = engine::Engine::Open(directory, options);
    MustBe(engine.status());
    store_ = store::StoreOver(*std::move(engine));
  }

  int64_t bytes() const { return static_cast<int64_t>(manifests_.size()) * kLayers * kShape.slab_bytes(); }
  store::Store* store() { return store_.get(); }

  // Returns the number of flushes.
  int64_t Write() {
    const int64_t before = flushes_.flushes;
    std::atomic<size_t> next{0};
    std::vector<std::thread> putters;
    for (int t = 0; t < kPutters; ++t) {
      putters.emplace_back([&] {
        for (size_t i = next++; i < manifests_.size(); i = next++) {
          MustBe(store_->Put("bench", manifests_[i], spans_, absl::InfiniteFuture()).status());
        }
      });
    }
    for (std::thread& putter : putters) putter.join();
    return flushes_.flushes - before;
  }

  void Remove() {
    for (const Manifest& manifest : manifests_) MustBe(store_->Remove("bench", manifest.identity));
  }

  // Leases everything in order and waits for every layer, which verifies it.
  void Read() {
    std::vector<std::unique_ptr<store::Lease>> ahead;
    const auto lease = [&](size_t i) {
      auto taken = store_->Read("bench", manifests_[i].identity, manifests_[i].codec, manifests_[i].etag,
                                absl::InfiniteFuture());
      MustBe(taken.status());
      return *std::move(taken);
    };
    for (size_t i = 0; i < manifests_.size(); ++i) {
      while (i + ahead.size() < manifests_.size() && ahead.size() <= kAhead) ahead.push_back(lease(i + ahead.size()));
      for (int64_t layer = 0; layer < kLayers; ++layer) MustBe(ahead[0]->WaitLayer(layer, absl::InfiniteFuture()));
      ahead.erase(ahead.begin());
    }
  }

  // The share of verification: checksums of as many bytes that were read before and have left the caches.
  void Verify() {
    std::vector<std::unique_ptr<store::Lease>> leases;
    for (size_t i = 0; i < 4; ++i) {
      auto lease = store_->Read("bench", manifests_[i].identity, manifests_[i].codec, manifests_[i].etag,
                                absl::InfiniteFuture());
      MustBe(lease.status());
      leases.push_back(*std::move(lease));
      for (int64_t layer = 0; layer < kLayers; ++layer) MustBe(leases[i]->WaitLayer(layer, absl::InfiniteFuture()));
    }
    verify_ = Measure([&] {
      for (size_t i = 0; i < manifests_.size(); ++i) {
        for (int64_t layer = 0; layer < kLayers; ++layer)
          MustBe(manifests_[i].VerifyLayer(layer, leases[i % 4]->layer(layer)));
      }
    });
  }
  Cost verify_cost() const { return verify_; }

  double Lookups() {
    constexpr int kLookups = 1000000;
    const double start = Now();
    for (int i = 0; i < kLookups; ++i) {
      if (!(*store_->Lookup("bench", {manifests_[i % manifests_.size()].identity}, Codec::kRawBf16))[0].present)
        Die("a miss");
    }
    return kLookups / (Now() - start);
  }

 private:
  Memory slabs_;
  std::vector<absl::Span<const std::byte>> spans_;
  std::vector<Manifest> manifests_;
  CountFlushes flushes_;
  Cost verify_;
  std::unique_ptr<store::Store> store_;
};

std::vector<double> Each(const std::vector<Cost>& costs, double Cost::*field) {
  std::vector<double> values;
  for (const Cost& cost : costs) values.push_back(cost.*field);
  return values;
}
double MedianOf(const std::vector<Cost>& costs, double Cost::*field) { return bench::Median(Each(costs, field)); }

void AddPair(Report* report, absl::string_view what, double gigabytes, const std::vector<Cost>& bare,
             const std::vector<Cost>& store) {
  report->Section(what);
  report->Add(absl::StrCat(what, " bare io_uring"), gigabytes / MedianOf(bare, &Cost::seconds), "GB/s");
  report->Add(absl::StrCat(what, " bare io_uring cpu"), MedianOf(bare, &Cost::cpu) / gigabytes, "cpu-s/GB");
  report->Add(absl::StrCat(what, " store"), gigabytes / MedianOf(store, &Cost::seconds), "GB/s");
  report->Add(absl::StrCat(what, " store / bare"),
              bench::MedianRatio(Each(bare, &Cost::seconds), Each(store, &Cost::seconds)), "",
              bench::Target{0.9, false});
  report->Add(absl::StrCat(what, " store cpu"), MedianOf(store, &Cost::cpu) / gigabytes, "cpu-s/GB",
              bench::Target{0.2, true});
}

int Main(int argc, char** argv) {
  const auto flags = bench::Flags::Parse(
      argc, argv, "Measures what the store costs over the disk: writes and reads through it and through bare io_uring.",
      {bench::kScratchFlag,
       {"megabytes", "N", "Bytes of the encodings, in MiB (default 1440)."},
       {"rounds", "N", "Rounds of each (default 9)."}});
  MustBe(flags.status());
  if (flags->help_wanted()) return 0;
  const int rounds = static_cast<int>(std::clamp<int64_t>(flags->GetInt("rounds", 9), 1, 1000));
  const int64_t encoding_bytes = kLayers * kShape.slab_bytes();
  const int64_t count =
      std::max<int64_t>(8, (std::clamp<int64_t>(flags->GetInt("megabytes", 1440), 1, 100000) << 20) / encoding_bytes);
  const auto scratch = bench::Scratch::Make(flags->Get("dir", ""));
  MustBe(scratch.status());

  Subject subject(scratch->path() + "/store", count);
  // The same kind and amount of memory as the store's.
  const auto bare = BareDisk::Create(scratch->path() + "/bare", subject.bytes(), kMemory);
  MustBe(bare.status());
  const double gigabytes = static_cast<double>(subject.bytes()) * 1e-9;
  // Uncounted: segments grow and memory is touched.
  int64_t flushes = subject.Write();
  std::vector<Cost> bare_write, store_write, bare_read, store_read, verify;
  for (int round = 0; round < rounds; ++round) {
    subject.Remove();
    const auto bare_writes = [&] { bare_write.push_back(Measure([&] { MustBe((*bare)->Write(flushes)); })); };
    if (round % 2 == 0) bare_writes();
    store_write.push_back(Measure([&] { flushes = subject.Write(); }));
    if (round % 2 == 1) bare_writes();
    const auto bare_reads = [&] {
      bare_read.push_back(Measure([&] { MustBe((*bare)->Transfer(false, 0, subject.bytes())); }));
    };
    subject.store()->DropDramTier();
    if (round % 2 == 0) bare_reads();
    store_read.push_back(Measure([&] { subject.Read(); }));
    if (round % 2 == 1) bare_reads();
    subject.Verify();
    verify.push_back(subject.verify_cost());
  }
  Report report("store");
  const auto stats = subject.store()->Stats();
  std::printf("%lld encodings of %.1f MB (%lld layers), %lld flushes for each pass, %d rounds; %s\n",
              static_cast<long long>(count), 1e-6 * static_cast<double>(encoding_bytes),
              static_cast<long long>(kLayers), static_cast<long long>(flushes), rounds, stats->io.c_str());
  AddPair(&report, "write", gigabytes, bare_write, store_write);
  AddPair(&report, "read", gigabytes, bare_read, store_read);
  report.Add("read of which verification", gigabytes / MedianOf(verify, &Cost::seconds), "GB/s");
  report.Add("read of which verification cpu", MedianOf(verify, &Cost::cpu) / gigabytes, "cpu-s/GB");
  report.Add("read store cpu without verification",
             (MedianOf(store_read, &Cost::cpu) - MedianOf(verify, &Cost::cpu)) / gigabytes, "cpu-s/GB");
  report.Section("lookup");
  report.Add("lookups", subject.Lookups(), "1/s");
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink

int main(int argc, char** argv) { return kvlink::Main(argc, argv); }
