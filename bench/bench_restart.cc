// How soon does a store of a million encodings serve after kill -9, and how much memory do they take? From the start of
// a process to its first answered lookup; the process before it was killed with its log as full as it gets.
//
// The encodings are records of the index and blocks of segments that are holes: opening reads neither slabs.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "store/engine/engine.h"
#include "store/engine/index.h"
#include "store/engine/segment_files.h"
#include "store/engine/store_directory.h"

namespace kvlink {
namespace {

using bench::Now;
using engine::EncodingKey;
using engine::Engine;
using engine::Location;

constexpr SlabShape kShape{Codec::kRawBf16, 1, 32, 16};  // a page for each layer
constexpr int kNamespaces = 4;
constexpr int64_t kBatch = 5000;
constexpr int64_t kSegmentBytes = int64_t{256} << 20;
constexpr int64_t kBlocksPerSegment = kSegmentBytes / engine::kSegmentBlockBytes;

[[noreturn]] void Die(absl::string_view what) {
  std::fprintf(stderr, "bench_restart: %s\n", std::string(what).c_str());
  std::exit(1);
}

void MustBe(const absl::Status& status) {
  if (!status.ok()) Die(status.message());
}

engine::EngineOptions Options(int64_t encodings) {
  engine::EngineOptions options;
  options.dram_bytes = int64_t{1} << 30;
  options.capacity_bytes = (encodings / (kBlocksPerSegment - 1) + 2) * kSegmentBytes;
  options.segment_bytes = kSegmentBytes;
  return options;
}

EncodingKey KeyOf(int64_t number) {
  EncodingKey key{absl::StrCat("namespace-", number % kNamespaces), {}, Codec::kRawBf16};
  uint64_t state = static_cast<uint64_t>(number) * 0x9e3779b97f4a7c15u + 1;
  for (int i = 0; i < 4; ++i) {
    state ^= state >> 30, state *= 0xbf58476d1ce4e5b9u, state ^= state >> 27, state *= 0x94d049bb133111ebu;
    std::memcpy(key.identity.bytes.data() + 8 * i, &state, 8);
  }
  return key;
}

// Records [first, last), each of an encoding of one block.
void Write(engine::Index* index, Manifest manifest, int64_t first, int64_t last) {
  Location location;
  location.etag = manifest.etag;
  location.tokens = manifest.tokens;
  location.bytes = manifest.bytes();
  for (int64_t start = first; start < last; start += kBatch) {
    engine::IndexBatch batch(index);
    for (int64_t i = start; i < std::min(last, start + kBatch); ++i) {
      const EncodingKey key = KeyOf(i);
      manifest.identity = key.identity;
      location.sequence = static_cast<uint64_t>(i) + 1;
      const int64_t block = i / (kBlocksPerSegment - 1) * kBlocksPerSegment + 1 + i % (kBlocksPerSegment - 1);
      location.runs = {{static_cast<uint32_t>(block), 1}};
      batch.PutEncoding(key, location, SerializeManifest(manifest));
    }
    MustBe(index->Commit(&batch));
  }
}

std::unique_ptr<engine::Index> OpenIndex(const std::string& directory) {
  auto index = engine::Index::Open(directory + "/index", {});
  MustBe(index.status());
  return *std::move(index);
}

Manifest ManifestOf(int64_t layers) {
  Manifest manifest = Manifest::Uniform(kShape, layers, kShape.head_dim);
  const bench::Memory slab(kShape.slab_bytes());
  for (int64_t layer = 0; layer < layers; ++layer)
    MustBe(manifest.ChecksumLayer(layer, absl::MakeConstSpan(slab.as<std::byte>(), kShape.slab_bytes())));
  manifest.Seal();
  if (engine::BlocksFor(manifest.bytes()) != 1) Die("an encoding of more than one block; fewer layers");
  return manifest;
}

// The parts of the program, each in a process of its own.

void Build(const std::string& directory, int64_t encodings, int64_t layers) {
  MustBe(Engine::Open(directory, Options(encodings)).status());
  const engine::FileSystem files(nullptr);
  auto opened = engine::StoreDirectory::Open(files, directory, false, false);
  MustBe(opened.status());
  auto segments = engine::SegmentFiles::Open(files, {.path = (*opened)->segments_path(),
                                                     .uuid = (*opened)->identity()->uuid,
                                                     .segment_bytes = kSegmentBytes,
                                                     .sparse = true});
  MustBe(segments.status());
  while ((*segments)->bytes() / kSegmentBytes * (kBlocksPerSegment - 1) < encodings)
    MustBe((*segments)->Grow().status());
  auto index = OpenIndex(directory);
  Write(index.get(), ManifestOf(layers), 0, encodings);
  MustBe(index->Close());
}

// Writes what a killed process leaves in the log: records of the same encodings again.
void FillLog(const std::string& directory, int64_t encodings, int64_t layers, int64_t records) {
  auto index = OpenIndex(directory);
  Write(index.get(), ManifestOf(layers), 0, std::min(records, encodings));
  kill(getpid(), SIGKILL);
}

int64_t StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind(field + ":", 0) != 0) continue;
    int64_t kilobytes = 0;
    if (absl::SimpleAtoi(line.substr(field.size() + 1, line.size() - field.size() - 1 - 3), &kilobytes))
      return kilobytes << 10;
  }
  Die("no " + field + " in /proc/self/status");
}

void Serve(const std::string& directory, int64_t encodings) {
  const double start = Now();
  auto opened = Engine::Open(directory, Options(encodings));
  MustBe(opened.status());
  const double open = Now() - start;
  const bool found = (*opened)->Find(KeyOf(encodings - 1)).has_value();
  if (found != (encodings > 1)) Die("the last encoding is not there");
  // Seen by whoever waits for it: the answer.
  std::printf("%d\n", found ? 1 : 0);
  std::fflush(stdout);
  const Engine::Statistics stats = (*opened)->Stats();
  if (stats.integrity_failures + stats.double_claims != 0) Die("records were dropped");
  int64_t count = 0;
  for (const auto& ns : stats.namespaces) count += ns.encodings;
  if (encodings > 1 && count != encodings) Die(absl::StrCat(count, " encodings of ", encodings));
  std::printf("%.6f %lld %lld\n", open, static_cast<long long>(StatusBytes("VmRSS")),
              static_cast<long long>(StatusBytes("VmHWM")));
  std::fflush(stdout);
  kill(getpid(), SIGKILL);
}

struct Served {
  double first_answer = 0;  // seconds since the process was started
  double open = 0;
  double resident = 0, peak = 0;  // bytes
};

// Runs this program as one of its parts. Every part but Build ends by SIGKILL.
Served RunPart(const std::vector<std::string>& arguments, bool killed) {
  std::vector<std::string> words = {"bench_restart"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int ends[2];
  if (pipe(ends) != 0) Die("pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  pid_t child = -1;
  const double start = Now();
  if (posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environ) != 0) Die("spawn");
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  Served served;
  std::string text;
  char byte;
  while (read(ends[0], &byte, 1) == 1) {
    if (text.empty()) served.first_answer = Now() - start;
    text.push_back(byte);
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (killed ? !WIFSIGNALED(status) : status != 0) Die(absl::StrCat("part '", arguments[0], "' failed"));
  if (!text.empty()) std::sscanf(text.c_str(), "%*d %lf %lf %lf", &served.open, &served.resident, &served.peak);
  return served;
}

int Main(int argc, char** argv) {
  const auto flags = bench::Flags::Parse(
      argc, argv, "Measures how soon a store of many encodings serves after kill -9, and the memory they take.",
      {bench::kScratchFlag,
       {"encodings", "N", "In the store (default 1000000)."},
       {"layers", "N", "Of each, 1 to 16: its manifest grows with them (default 2)."},
       {"log", "N", "Records written before the kill (default 100000)."},
       {"rounds", "N", "Restarts (default 5)."},
       {"part", "NAME", "For the bench itself."}});
  MustBe(flags.status());
  if (flags->help_wanted()) return 0;
  const std::string directory = flags->Get("dir", "");  // of a part: its store
  const int64_t encodings = std::clamp<int64_t>(flags->GetInt("encodings", 1000000), 1, 20000000);
  const int64_t layers = std::clamp<int64_t>(flags->GetInt("layers", 2), 1, 16);
  const int64_t log = std::clamp<int64_t>(flags->GetInt("log", 100000), 0, encodings);
  const int rounds = static_cast<int>(std::clamp<int64_t>(flags->GetInt("rounds", 5), 1, 1000));
  const std::string part = flags->Get("part", "");
  if (part == "build") Build(directory, encodings, layers);
  if (part == "log") FillLog(directory, encodings, layers, log);
  if (part == "serve") Serve(directory, encodings);
  if (!part.empty()) return 0;

  const auto scratch = bench::Scratch::Make(directory);
  MustBe(scratch.status());
  const auto run = [&](absl::string_view name, absl::string_view where, int64_t count, bool killed) {
    return RunPart(
        {absl::StrCat("--part=", name), absl::StrCat("--dir=", scratch->path(), "/", where),
         absl::StrCat("--encodings=", count), absl::StrCat("--layers=", layers), absl::StrCat("--log=", log)},
        killed);
  };
  run("build", "store", encodings, false);
  std::vector<double> first, open, resident, peak, empty;
  int64_t log_bytes = 0;
  for (int round = 0; round < rounds; ++round) {
    run("log", "store", encodings, true);
    log_bytes = 0;
    for (const auto& file : std::filesystem::directory_iterator(scratch->path() + "/store/index"))
      if (file.path().extension() == ".log") log_bytes += static_cast<int64_t>(file.file_size());
    const Served served = run("serve", "store", encodings, true);
    first.push_back(served.first_answer);
    open.push_back(served.open);
    resident.push_back(served.resident);
    peak.push_back(served.peak);
    empty.push_back(run("serve", "empty", 1, true).resident);
  }
  bench::Report report("restart");
  std::printf("%lld encodings in %d namespaces, %lld records of %lld layers (%.1f MB) in the log, %d restarts\n",
              static_cast<long long>(encodings), kNamespaces, static_cast<long long>(log),
              static_cast<long long>(layers), 1e-6 * static_cast<double>(log_bytes), rounds);
  report.Add("first answer after the start of the process", bench::Median(first), "s", bench::Target{1, true});
  report.Add("first answer, slowest", *std::max_element(first.begin(), first.end()), "s");
  report.Add("of which opening", bench::Median(open), "s");
  const double millions = 1e-6 * static_cast<double>(encodings);
  report.Add("memory per million encodings", 1e-6 * (bench::Median(resident) - bench::Median(empty)) / millions, "MB");
  report.Add("peak memory per million encodings", 1e-6 * (bench::Median(peak) - bench::Median(empty)) / millions, "MB");
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink

int main(int argc, char** argv) { return kvlink::Main(argc, argv); }
