// How fast do encodings come from another process, against what UCX itself moves, and against others? Everything is
// interleaved in one run and lies in rings of memory that no cache holds. Two processes: what serves, and this one.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "absl/strings/match.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "bench/transfer.h"
#include "bench/transfer_peers.h"
#include "bench/transfer_store.h"
#include "bench/transfer_transport.h"
#include "bench/ucx_ceiling.h"

namespace kvlink::bench {
namespace {

// 512 tokens of Llama-3.1-8B and of SmolLM2-135M, in bf16; and the documents of a request, which are asked for at once.
const EncodingShape kShapes[] = {
    {"Llama 8B", 32, int64_t{2} << 20}, {"SmolLM2", 30, int64_t{384} << 10}, {"8 of SmolLM2", 240, int64_t{384} << 10}};

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "bench_transfer: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

// The rows: what moves, and what it must reach of the ceiling, which is the first row.
struct Row {
  std::unique_ptr<Mover> mover;
  std::optional<Target> of_ceiling;
};

class Bench {
 public:
  Bench(int64_t ring_bytes, std::string self, std::string rows)
      : ring_bytes_(ring_bytes), self_(std::move(self)), wanted_(std::move(rows)) {}

  void Start(bool grpc) {
    auto ceiling = NewUcxCeiling(Serve("ceiling"), ring_bytes_);
    if (!ceiling.ok()) Die(ceiling.status());
    rows_.push_back({*std::move(ceiling), std::nullopt});
    AddTransport("ucx", Target{0.9, false}, Target{0.8, false});
    if (grpc) AddTransport("grpc", std::nullopt, std::nullopt);
    AddStore(StoreMove::kPullDram, "ucx", Target{0.8, false});
    AddStore(StoreMove::kPullSegments, "ucx", std::nullopt);
    AddStore(StoreMove::kMapped, "ucx", std::nullopt);
    AddStore(StoreMove::kPush, "ucx", std::nullopt);
    if (grpc) AddStore(StoreMove::kPullDram, "grpc", std::nullopt);
  }

  void Measure(const EncodingShape& shape, int rounds, bool peers, Report* report) {
    std::vector<Mover*> movers;
    for (const Row& row : rows_) movers.push_back(row.mover.get());
    std::unique_ptr<Mover> redis;
    if (peers) {
      auto made = NewRedisMover(shape, ring_bytes_);
      if (!made.ok()) std::printf("  without redis: %s\n", std::string(made.status().message()).c_str());
      if (made.ok()) redis = *std::move(made);
    }
    if (redis != nullptr) movers.push_back(redis.get());
    const auto moved = MeasureMovers(movers, shape, ring_bytes_, rounds);
    if (!moved.ok()) Die(moved.status());
    report->Section(absl::StrCat(shape.name, ": ", shape.layers, " layers of ", shape.slab_bytes >> 10, " KiB"));
    for (size_t i = 0; i < movers.size(); ++i) {
      const std::string name = absl::StrCat(shape.name, " ", movers[i]->name());
      report->Add(name, (*moved)[i].gigabytes_per_second, "GB/s");
      if (i > 0) {
        report->Add(absl::StrCat(name, " / bare ucx"),
                    (*moved)[i].gigabytes_per_second / (*moved)[0].gigabytes_per_second, "",
                    i < rows_.size() ? rows_[i].of_ceiling : std::nullopt);
      }
      report->Add(absl::StrCat(name, " first layer"), 1e6 * (*moved)[i].first_seconds, "us");
      report->Add(absl::StrCat(name, " whole"), 1e6 * (*moved)[i].whole_seconds, "us");
    }
  }

 private:
  // Starts this program as a server; the address.
  std::string Serve(const std::string& what) {
    auto server = ServingProcess::Start({self_, "--serve", what, "--ring", absl::StrCat(ring_bytes_ >> 20)});
    if (!server.ok()) Die(server.status());
    servers_.push_back(*std::move(server));
    return servers_.back()->first_line();
  }
  void AddTransport(const std::string& carrier, std::optional<Target> plain, std::optional<Target> verified) {
    auto reader = ConnectTransport(carrier, Serve(carrier), ring_bytes_);
    if (!reader.ok()) Die(reader.status());
    AddRow(NewTransportMover(*reader, false), plain);
    AddRow(NewTransportMover(*reader, true), verified);
  }

  // Each with a node of its own: they drop and evict what is in DRAM.
  void AddStore(StoreMove move, const std::string& carrier, std::optional<Target> target) {
    if (!absl::StrContains(StoreMoveName(move, carrier), wanted_)) return;
    auto mover = NewStoreMover(Serve("store"), move, carrier, ring_bytes_);
    if (!mover.ok()) Die(mover.status());
    AddRow(*std::move(mover), target);
  }
  void AddRow(std::unique_ptr<Mover> mover, std::optional<Target> target) {
    if (absl::StrContains(mover->name(), wanted_)) rows_.push_back({std::move(mover), target});
  }

  const int64_t ring_bytes_;
  const std::string self_;
  const std::string wanted_;  // only rows with this in their names, and the ceiling
  std::vector<std::unique_ptr<ServingProcess>> servers_;  // outlive the rows
  std::vector<Row> rows_;
};

int Main(int argc, char** argv) {
  const auto flags = Flags::Parse(
      argc, argv, "Measures how fast encodings come from another process, against bare UCX and against others.",
      {{"ring", "N", "MiB of memory on each side that they come from and go to (default 1024)."},
       {"rounds", "N", "Rounds of each (default 7)."},
       {"rows", "TEXT", "Only rows with this in their names, and the ceiling."},
       {"no-peers", "", "Without other systems."},
       {"no-grpc", "", "Without the carrier gRPC."},
       {"serve", "WHAT", "Serves: ceiling, ucx, grpc or store (the bench starts these itself)."}});
  if (!flags.ok()) Die(flags.status());
  if (flags->help_wanted()) return 0;
  setenv("UCX_NET_DEVICES", "lo", 0);
  const int64_t ring_bytes = std::clamp<int64_t>(flags->GetInt("ring", 1024), 64, 1 << 16) << 20;
  const std::string serve = flags->Get("serve", "");
  if (serve == "ceiling") ServeUcxCeiling(ring_bytes);
  if (serve == "store") ServeStore(ring_bytes);
  if (!serve.empty()) ServeTransport(serve, ring_bytes);

  const int rounds = static_cast<int>(std::clamp<int64_t>(flags->GetInt("rounds", 7), 1, 1000));
  Report report("transfer");
  {
    Bench bench(ring_bytes, "/proc/self/exe", flags->Get("rows", ""));
    bench.Start(!flags->Has("no-grpc"));
    for (const EncodingShape& shape : kShapes) bench.Measure(shape, rounds, !flags->Has("no-peers"), &report);
  }
  std::filesystem::remove_all(StoreScratch(getpid()));
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
