// Does the store keep the right things? Runs traces over a store whose DRAM tier (then, whose segments) holds a tenth
// of what is requested, and compares its hit ratios with those of LRU and of Belady's optimum over the same trace.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <set>

#include "base/mutex.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "bench/store/cache_simulators.h"
#include "store/engine/engine.h"

namespace kvlink {
namespace {

using bench::CacheLimits;
using bench::MakeTrace;
using bench::Report;
using bench::Trace;
using engine::EncodingKey;

constexpr int64_t kLayers = 2;
constexpr int64_t kMaxSlabPages = 16;
constexpr int64_t kTenth = 10;
constexpr int64_t kBlock = 64 << 10;
constexpr double kHigh = 0.96, kLow = 0.92;  // the engine's watermarks

[[noreturn]] void Die(absl::string_view what) {
  std::fprintf(stderr, "bench_cache: %s\n", std::string(what).c_str());
  std::exit(1);
}

template <typename T>
T MustBe(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status().message());
  return *std::move(value);
}

void MustBe(const absl::Status& status) {
  if (!status.ok()) Die(status.message());
}

// Documents of different lengths whose encodings share their bytes.
class Documents {
 public:
  Documents(int64_t count, uint64_t seed) : bytes_(kMaxSlabPages * 4096) {
    std::mt19937_64 random(seed);
    for (int64_t i = 0; i < bytes_.bytes() / 8; ++i) bytes_.as<uint64_t>()[i] = random();
    for (int64_t pages = 1; pages <= kMaxSlabPages; ++pages) {
      const SlabShape shape{Codec::kRawBf16, 1, 32, pages * 32};  // 128 bytes per token
      Manifest manifest = Manifest::Uniform(shape, kLayers, shape.head_dim);
      for (int64_t layer = 0; layer < kLayers; ++layer) {
        const absl::Status summed =
            manifest.ChecksumLayer(layer, absl::MakeConstSpan(bytes_.as<std::byte>(), shape.slab_bytes()));
        if (!summed.ok()) Die(summed.message());
      }
      shapes_.push_back(manifest);
    }
    std::lognormal_distribution<double> pages(1.2, 0.7);
    for (int64_t i = 0; i < count; ++i)
      pages_.push_back(std::clamp<int64_t>(static_cast<int64_t>(pages(random)), 1, kMaxSlabPages));
  }

  uint32_t count() const { return static_cast<uint32_t>(pages_.size()); }
  Manifest manifest(uint32_t document) const {
    Manifest manifest = shapes_[pages_[document] - 1];
    std::memcpy(manifest.identity.bytes.data(), &document, sizeof(document));
    manifest.Seal();
    return manifest;
  }
  EncodingKey key(uint32_t document) const { return {"bench", manifest(document).identity, Codec::kRawBf16}; }
  std::vector<absl::Span<const std::byte>> slabs(const Manifest& manifest) const {
    std::vector<absl::Span<const std::byte>> slabs;
    for (const LayerManifest& layer : manifest.layers)
      slabs.push_back(absl::MakeConstSpan(bytes_.as<std::byte>(), layer.length));
    return slabs;
  }
  std::vector<int64_t> Bytes() const {
    std::vector<int64_t> bytes;
    for (const int64_t pages : pages_) bytes.push_back(kLayers * pages * 4096);
    return bytes;
  }
  std::vector<int64_t> Blocks() const {
    std::vector<int64_t> blocks = Bytes();
    for (int64_t& bytes : blocks) bytes = (bytes + kBlock - 1) / kBlock;
    return blocks;
  }

 private:
  bench::Memory bytes_;
  std::vector<Manifest> shapes_;
  std::vector<int64_t> pages_;  // per slab
};

int64_t Sum(const std::vector<int64_t>& values) {
  int64_t sum = 0;
  for (const int64_t value : values) sum += value;
  return sum;
}

void Put(engine::Engine* engine, const Documents& documents, uint32_t document) {
  const Manifest manifest = documents.manifest(document);
  MustBe(engine->Put("bench", manifest, documents.slabs(manifest), absl::InfiniteFuture()));
}

// Bytes of the memory that are resident in this process.
int64_t ResidentBytes(const std::map<std::byte*, int64_t>& chunks) {
  int64_t resident = 0;
  for (const auto& [data, bytes] : chunks) {
    std::vector<unsigned char> pages(bytes / 4096);
    if (mincore(data, bytes, pages.data()) != 0) Die("mincore");
    for (const unsigned char page : pages) resident += (page & 1) * 4096;
  }
  return resident;
}

// Hit ratio of reads from the DRAM tier; every document is in the segments.
double DramHitRatio(engine::Engine* engine, const Documents& documents, const Trace& trace, size_t warm_up) {
  engine->DropDramTier();
  int64_t hits = 0;
  for (size_t i = 0; i < trace.accesses.size(); ++i) {
    const EncodingKey key = documents.key(trace.accesses[i]);
    const auto found = engine->Find(key);
    if (!found.has_value()) Die("a document is gone");
    const auto lease = MustBe(engine->Read(key, found->location.etag, absl::InfiniteFuture()));
    hits += lease->from_dram() && i >= warm_up;
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const absl::Status arrived = lease->WaitLayer(layer, absl::InfiniteFuture());
      if (!arrived.ok()) Die(arrived.message());
    }
  }
  return static_cast<double>(hits) / static_cast<double>(trace.accesses.size() - warm_up);
}

// Hit ratio of the store as a whole; misses are put, some at a time, as an ingest or a write-back would.
class SegmentRun {
 public:
  SegmentRun(engine::Engine* engine, const Documents& documents) : engine_(engine), documents_(documents) {}

  double HitRatio(const Trace& trace, size_t warm_up) {
    int64_t hits = 0;
    for (size_t i = 0; i < trace.accesses.size(); ++i) {
      const uint32_t document = trace.accesses[i];
      if (engine_->Touch(documents_.key(document)).ok() || OnItsWay(document)) {
        hits += i >= warm_up;
      } else {
        Start(document);
      }
    }
    MutexLock lock(&mutex_);
    while (!on_their_way_.empty()) ended_.Wait(&mutex_);
    return static_cast<double>(hits) / static_cast<double>(trace.accesses.size() - warm_up);
  }

 private:
  bool OnItsWay(uint32_t document) {
    MutexLock lock(&mutex_);
    return on_their_way_.contains(document);
  }
  void Start(uint32_t document) {
    {
      MutexLock lock(&mutex_);
      while (on_their_way_.size() >= kAtATime) ended_.Wait(&mutex_);
      on_their_way_.insert(document);
    }
    const Manifest manifest = documents_.manifest(document);
    const auto slabs = documents_.slabs(manifest);
    std::vector<int64_t> lengths;
    for (const auto& slab : slabs) lengths.push_back(static_cast<int64_t>(slab.size()));
    auto push = MustBe(engine_->BeginPush(documents_.key(document), lengths));
    MustBe(push->Accept(manifest));
    for (size_t layer = 0; layer < slabs.size(); ++layer) {
      if (!push->Reserve(static_cast<int64_t>(layer)).ok()) std::abort();
      std::memcpy(push->slab(layer).data(), slabs[layer].data(), slabs[layer].size());
      MustBe(push->WriteLayer(static_cast<int64_t>(layer)));
    }
    engine_->CommitPush(std::move(push), [this, document](absl::StatusOr<engine::Engine::PutOutcome> put) {
      MustBe(std::move(put));
      MutexLock lock(&mutex_);
      on_their_way_.erase(document);
      ended_.SignalAll();
    });
  }

  static constexpr size_t kAtATime = 32;
  engine::Engine* const engine_;
  const Documents& documents_;
  Mutex mutex_;
  CondVar ended_;
  std::set<uint32_t> on_their_way_ ABSL_GUARDED_BY(mutex_);
};

void AddRatios(Report* report, absl::string_view tier, const Trace& trace, const std::vector<int64_t>& weights,
               CacheLimits limits, size_t warm_up, double ours, double target) {
  const double lru = bench::LruHitRatio(trace, weights, limits, warm_up);
  const double belady = bench::BeladyHitRatio(trace, weights, limits, warm_up);
  const std::string name = absl::StrCat(tier, " ", trace.name);
  report->Add(absl::StrCat(name, " hit ratio"), ours, "");
  report->Add(absl::StrCat(name, " LRU"), lru, "");
  report->Add(absl::StrCat(name, " Belady"), belady, "");
  report->Add(absl::StrCat(name, " / LRU"), ours / lru, "", bench::Target{target, false});
  report->Add(absl::StrCat(name, " / Belady"), ours / belady, "");
}

struct Run {
  std::string directory;
  const Documents* documents;
  std::vector<Trace> traces;
  size_t warm_up = 0;
};

void RunDram(const Run& run, Report* report) {
  const std::vector<int64_t> bytes = run.documents->Bytes();
  Mutex mutex;
  std::map<std::byte*, int64_t> chunks;  // all that ever existed
  engine::EngineOptions options;
  // In whole chunks, so that the simulated caches get the same size.
  options.dram_bytes = Sum(bytes) / kTenth;
  options.dram_bytes -=
      options.dram_bytes % static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(options.dram_bytes / 16)));
  options.capacity_bytes = 2 * Sum(run.documents->Blocks()) * kBlock + (int64_t{1} << 30);
  options.chunk_ready = [&](const engine::TierChunk& chunk) {
    MutexLock lock(&mutex);
    chunks[chunk.data] = chunk.bytes;
  };
  const auto engine = MustBe(engine::Engine::Open(run.directory + "/dram", options));
  for (uint32_t document = 0; document < run.documents->count(); ++document)
    Put(engine.get(), *run.documents, document);
  report->Section(absl::StrCat("DRAM tier of ", options.dram_bytes, " bytes, a tenth of what is read"));
  for (const Trace& trace : run.traces) {
    AddRatios(report, "DRAM", trace, bytes, {options.dram_bytes, options.dram_bytes}, run.warm_up,
              DramHitRatio(engine.get(), *run.documents, trace, run.warm_up), trace.least);
  }
  MutexLock lock(&mutex);
  report->Add("resident memory of the tier", static_cast<double>(ResidentBytes(chunks)) / (1 << 20), "MiB");
  report->Add("resident memory / limit",
              static_cast<double>(ResidentBytes(chunks)) / static_cast<double>(options.dram_bytes), "",
              bench::Target{1.05, true});
}

void RunSegments(const Run& run, Report* report) {
  const std::vector<int64_t> blocks = run.documents->Blocks();
  constexpr int64_t kSegment = int64_t{4} << 20;
  const int64_t segments = std::max<int64_t>(2, Sum(blocks) / kTenth / (kSegment / kBlock - 1));
  const int64_t limit = segments * (kSegment / kBlock - 1);
  const CacheLimits limits{static_cast<int64_t>(static_cast<double>(limit) * kHigh),
                           static_cast<int64_t>(static_cast<double>(limit) * kLow)};
  report->Section(absl::StrCat("segments of ", limit, " blocks, a tenth of what is asked for"));
  for (size_t i = 0; i < run.traces.size(); ++i) {
    engine::EngineOptions options;
    options.dram_bytes = int64_t{32} << 20;
    options.segment_bytes = kSegment;
    options.capacity_bytes = segments * kSegment;
    const auto engine = MustBe(engine::Engine::Open(absl::StrCat(run.directory, "/segments", i), options));
    AddRatios(report, "segments", run.traces[i], blocks, limits, run.warm_up,
              SegmentRun(engine.get(), *run.documents).HitRatio(run.traces[i], run.warm_up), run.traces[i].least);
    report->Add(absl::StrCat("segments ", run.traces[i].name, " bytes / capacity"),
                static_cast<double>(engine->Stats().segment_bytes) / static_cast<double>(options.capacity_bytes), "",
                bench::Target{1.0, true});
  }
}

int Main(int argc, char** argv) {
  const auto flags = bench::Flags::Parse(
      argc, argv,
      "Measures whether the store keeps the right things: its hit ratios beside those of LRU and of Belady's optimum.",
      {{"dir", "DIRECTORY",
        "Made and removed by the bench (default: in memory, where there is /dev/shm; no disk is measured)."},
       {"documents", "N", "Documents that are asked for (default 10000)."},
       {"accesses", "N", "Accesses of each trace (default 200000)."},
       {"seed", "N", "Of the traces (default 1)."}});
  if (!flags.ok()) Die(flags.status().message());
  if (flags->help_wanted()) return 0;
  Run run;
  const std::filesystem::path memory("/dev/shm");
  const std::filesystem::path parent =
      std::filesystem::exists(memory) ? memory : std::filesystem::temp_directory_path();
  run.directory = flags->Get("dir", (parent / absl::StrCat("bench_cache_", getpid())).string());
  if (std::filesystem::exists(run.directory))
    Die(absl::StrCat(run.directory, " exists; name a directory that can be made and removed"));
  std::filesystem::create_directories(run.directory);
  struct Cleanup {
    std::string path;
    ~Cleanup() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } cleanup{run.directory};

  const uint64_t seed = static_cast<uint64_t>(flags->GetInt("seed", 1));
  const Documents documents(std::clamp<int64_t>(flags->GetInt("documents", 10000), 1000, 1000000), seed);
  run.documents = &documents;
  bench::TraceOptions zipf{.count = documents.count(),
                           .accesses = std::clamp<int64_t>(flags->GetInt("accesses", 200000), 1000, 100000000),
                           .seed = seed};
  run.warm_up = static_cast<size_t>(zipf.accesses / 4);
  for (const double skew : {0.9, 1.1}) {
    for (const double scanned : {0.0, 0.3}) {
      zipf.skew = skew;
      zipf.scanned = scanned;
      run.traces.push_back(MakeTrace(absl::StrCat("Zipf ", skew, scanned > 0 ? " with scans" : ""), zipf));
    }
  }
  // Conversations: each document is used three times within a few hundred accesses, then not for long. The documents
  // between its uses are more than a tenth of what fits, which is what S3-FIFO's small queue holds unless it learns.
  run.traces.push_back(MakeTrace("bursts", {.count = zipf.count,
                                            .accesses = zipf.accesses,
                                            .skew = 0.3,
                                            .burst = 3,
                                            .within = zipf.count / 15,
                                            .seed = seed}));
  // LRU is at its best here, and its simulation loses no space between chunks of memory.
  run.traces.back().least = 0.99;

  Report report("cache");
  RunDram(run, &report);
  RunSegments(run, &report);
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink

int main(int argc, char** argv) { return kvlink::Main(argc, argv); }
