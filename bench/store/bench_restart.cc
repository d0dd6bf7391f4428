// How soon does a node with a million encodings serve after kill -9, and how much memory do they take? Measures from
// the start of its process to the first answered lookup of a client over UCX; the previous process was killed with its
// log as full as it gets.
//
// The encodings are index records and holes in segments: opening reads neither slabs.
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
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "bench/transfer/transfer.h"
#include "store/client/remote.h"
#include "store/engine/disk/segment_files.h"
#include "store/engine/disk/store_directory.h"
#include "store/engine/engine.h"
#include "store/engine/index/index.h"
#include "store/node/node.h"

namespace kvlink {
namespace {

using bench::Now;
using engine::EncodingKey;
using engine::Engine;
using engine::Location;

constexpr SlabShape kShape{Codec::kRawBf16, 1, 32, 16};  // one page per layer
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

// Writes records [first, last), each of an encoding of one block.
void Write(engine::Index* index, const Manifest& manifest, int64_t first, int64_t last) {
  Location location;
  location.etag = manifest.etag;
  location.tokens = static_cast<int32_t>(manifest.tokens);
  location.manifest_bytes = static_cast<int32_t>(SerializeManifest(manifest).size());
  location.bytes = manifest.bytes();
  if (location.blocks() != 1) Die("an encoding of more than one block; fewer layers");
  for (int64_t start = first; start < last; start += kBatch) {
    engine::IndexBatch batch(index);
    for (int64_t i = start; i < std::min(last, start + kBatch); ++i) {
      const EncodingKey key = KeyOf(i);
      location.sequence = static_cast<uint64_t>(i) + 1;
      const int64_t block = i / (kBlocksPerSegment - 1) * kBlocksPerSegment + 1 + i % (kBlocksPerSegment - 1);
      location.runs = {{static_cast<uint32_t>(block), 1}};
      batch.PutEncoding(key, location);
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
  return manifest;
}

// The parts of the program, each in its own process.

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

[[noreturn]] void Serve(const std::string& directory, int64_t encodings) {
  store::node::NodeOptions options;
  options.directory = directory;
  options.engine = Options(encodings);
  options.data_address = "127.0.0.1:0";
  options.log = [](absl::string_view) {};
  const double start = Now();
  const auto node = store::node::Node::Start(std::move(options));
  MustBe(node.status());
  bench::ServeForever(absl::StrCat((*node)->addresses().control, " ", Now() - start));
}

int64_t StatusBytes(pid_t process, const std::string& field) {
  std::ifstream status(absl::StrCat("/proc/", process, "/status"));
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind(field + ":", 0) != 0) continue;
    int64_t kilobytes = 0;
    if (absl::SimpleAtoi(line.substr(field.size() + 1, line.size() - field.size() - 1 - 3), &kilobytes))
      return kilobytes << 10;
  }
  Die("no " + field + " in /proc/PID/status");
}

struct Served {
  double first_answer = 0;        // seconds since the process started
  double start = 0;               // of these, the node's own
  double resident = 0, peak = 0;  // bytes
};

// Starts a node, asks it, and kills it.
Served ServeOnce(const std::vector<std::string>& command, int64_t encodings) {
  Served served;
  const double start = Now();
  const auto node = bench::ServingProcess::Start(command);
  MustBe(node.status());
  const std::vector<std::string> words = absl::StrSplit((*node)->first_line(), ' ');
  if (words.size() != 2 || !absl::SimpleAtod(words[1], &served.start)) Die("the node said something else");
  store::client::RemoteOptions options;
  options.address = words[0];
  options.carrier = store::client::Carrier::kUcx;
  const auto client = store::client::OpenRemote(options);
  MustBe(client.status());
  const EncodingKey last = KeyOf(encodings - 1);
  const auto found = (*client)->Lookup(last.ns, {last.identity}, last.codec);
  MustBe(found.status());
  served.first_answer = Now() - start;
  if ((*found)[0].present != (encodings > 1)) Die("the last encoding is not there");
  const auto stats = (*client)->Stats();
  MustBe(stats.status());
  if (stats->integrity_failures + stats->double_claims != 0) Die("records were dropped");
  int64_t count = 0;
  for (const auto& ns : stats->namespaces) count += ns.encodings;
  if (encodings > 1 && count != encodings) Die(absl::StrCat(count, " encodings of ", encodings));
  served.resident = static_cast<double>(StatusBytes((*node)->process(), "VmRSS"));
  served.peak = static_cast<double>(StatusBytes((*node)->process(), "VmHWM"));
  return served;
}

// Runs this program as one of its parts, until it ends.
void RunPart(const std::vector<std::string>& command, bool killed) {
  std::vector<std::string> words = command;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t child = -1;
  if (posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, argv.data(), environ) != 0) Die("spawn");
  int status = 0;
  waitpid(child, &status, 0);
  if (killed ? !WIFSIGNALED(status) : status != 0) Die(absl::StrCat("part '", command[1], "' failed"));
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
  const std::string directory = flags->Get("dir", "");  // for a part: its store
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
  const auto command = [&](absl::string_view name, absl::string_view where, int64_t count) {
    return std::vector<std::string>{"/proc/self/exe",
                                    absl::StrCat("--part=", name),
                                    absl::StrCat("--dir=", scratch->path(), "/", where),
                                    absl::StrCat("--encodings=", count),
                                    absl::StrCat("--layers=", layers),
                                    absl::StrCat("--log=", log)};
  };
  RunPart(command("build", "store", encodings), false);
  std::vector<double> first, start, resident, peak, empty;
  int64_t log_bytes = 0;
  for (int round = 0; round < rounds; ++round) {
    RunPart(command("log", "store", encodings), true);
    log_bytes = 0;
    for (const auto& file : std::filesystem::directory_iterator(scratch->path() + "/store/index"))
      if (file.path().extension() == ".log") log_bytes += static_cast<int64_t>(file.file_size());
    const Served served = ServeOnce(command("serve", "store", encodings), encodings);
    first.push_back(served.first_answer);
    start.push_back(served.start);
    resident.push_back(served.resident);
    peak.push_back(served.peak);
    empty.push_back(ServeOnce(command("serve", "empty", 1), 1).resident);
  }
  bench::Report report("restart");
  std::printf("%lld encodings in %d namespaces, %lld records of %lld layers (%.1f MB) in the log, %d restarts\n",
              static_cast<long long>(encodings), kNamespaces, static_cast<long long>(log),
              static_cast<long long>(layers), 1e-6 * static_cast<double>(log_bytes), rounds);
  report.Add("first answer to a client after the start of the node's process", bench::Median(first), "s",
             bench::Target{1, true});
  report.Add("first answer, slowest", *std::max_element(first.begin(), first.end()), "s");
  report.Add("of which the node's start", bench::Median(start), "s");
  const double millions = 1e-6 * static_cast<double>(encodings);
  report.Add("memory per million encodings", 1e-6 * (bench::Median(resident) - bench::Median(empty)) / millions, "MB");
  report.Add("peak memory per million encodings", 1e-6 * (bench::Median(peak) - bench::Median(empty)) / millions, "MB");
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink

int main(int argc, char** argv) { return kvlink::Main(argc, argv); }
