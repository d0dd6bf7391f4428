// How fast do encodings come from another process, relative to what UCX itself moves, and to other systems? Everything
// is interleaved in one run, in rings of memory that no cache holds. Two processes: a server, and this one.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "bench/transfer/grpc_ceiling.h"
#include "bench/transfer/transfer.h"
#include "bench/transfer/transfer_machine.h"
#include "bench/transfer/transfer_peers.h"
#include "bench/transfer/transfer_store.h"
#include "bench/transfer/transfer_transport.h"
#include "bench/transfer/ucx_ceiling.h"

namespace kvlink::bench {
namespace {

// 512 tokens of Llama-3.1-8B and of SmolLM2-135M, in bf16; and the documents of a request, asked for at once.
struct Shape : EncodingShape {
  bool asks_for_first = false;  // the first layer should arrive within an eighth of the whole time
};
const Shape kShapes[] = {{{"Llama 8B", 1, 32, int64_t{2} << 20}, true},
                         {{"SmolLM2", 1, 30, int64_t{384} << 10}},
                         {{"8 of SmolLM2", 8, 30, int64_t{384} << 10}}};

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "bench_transfer: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

// What a row is compared with: the network's ceiling, the lesser of that and the disk's, or a copy in memory.
enum class Against { kNetwork, kNetworkAndDisk, kCopy };

struct Row {
  std::unique_ptr<Mover> mover;
  Against against = Against::kNetwork;
  std::optional<double> at_least;  // minimum ratio
};

// The minimal work of a store, without our code: the ceilings of its paths. Over tcp, transport/ucx may neither send
// directly from payloads nor write into a peer's memory (transport/ucx/context.cc), and received bytes are verified.
constexpr char kNodeUcx[] = "bare ucx, no zero copy";
constexpr char kNodeUcxVerified[] = "bare ucx, no zero copy, verified";
constexpr char kDiskUcx[] = "bare io_uring into bare ucx, no zero copy, verified";
constexpr char kPushUcx[] = "bare ucx, no zero copy, verified and written to memory";
constexpr char kBareGrpc[] = "bare grpc, verified";
struct Path {
  StoreMove move;
  const char* carrier;
  const char* ceiling;
  double at_least;
};
constexpr Path kPaths[] = {{StoreMove::kPullDram, "ucx", kNodeUcxVerified, 0.8},
                           {StoreMove::kPullSegments, "ucx", kDiskUcx, 0.85},
                           {StoreMove::kPushMemory, "ucx", kPushUcx, 0.7},
                           {StoreMove::kPullDram, "grpc", kBareGrpc, 0.8}};

class Bench {
 public:
  Bench(int64_t ring_bytes, std::string self, std::string rows)
      : ring_bytes_(ring_bytes), self_(std::move(self)), wanted_(std::move(rows)) {}
  absl::Status Start(bool grpc) {
    for (const bool in_memory : {false, true}) {
      KVLINK_ASSIGN_OR_RETURN(auto scratch, Scratch::Make(StoreScratch(getpid(), in_memory)));
      scratch_.push_back(std::move(scratch));
    }
    KVLINK_ASSIGN_OR_RETURN(const std::string port, Serve("ceiling"));
    KVLINK_ASSIGN_OR_RETURN(auto peer, DialUcxCeiling(port, ring_bytes_));
    network_ = NewUcxCeiling(std::move(peer), UcxMove::kPull, "bare ucx");
    UseUcxAsTheTransportDoes();
    KVLINK_ASSIGN_OR_RETURN(disk_, NewDiskMover(scratch_[0].path() + "/bare", ring_bytes_));
    copy_ = NewCopyMover(ring_bytes_);
    KVLINK_RETURN_IF_ERROR(AddTransport("ucx", 0.9, 0.8));
    KVLINK_RETURN_IF_ERROR(AddPathCeilings(grpc));
    if (grpc) KVLINK_RETURN_IF_ERROR(AddTransport("grpc", std::nullopt, std::nullopt));
    KVLINK_RETURN_IF_ERROR(AddStore(StoreMove::kPullDram, "ucx", Against::kNetwork, 0.8));
    KVLINK_RETURN_IF_ERROR(AddStore(StoreMove::kPullSegments, "ucx", Against::kNetworkAndDisk, 0.85));
    KVLINK_RETURN_IF_ERROR(AddStore(StoreMove::kMappedFirst, "ucx", Against::kCopy, 1.0));
    KVLINK_RETURN_IF_ERROR(AddStore(StoreMove::kMapped, "ucx", Against::kCopy, std::nullopt));
    KVLINK_RETURN_IF_ERROR(AddStore(StoreMove::kPushMemory, "ucx", Against::kNetwork, 0.7));
    KVLINK_RETURN_IF_ERROR(AddStore(StoreMove::kPush, "ucx", Against::kNetworkAndDisk, std::nullopt));
    if (grpc) KVLINK_RETURN_IF_ERROR(AddStore(StoreMove::kPullDram, "grpc", Against::kNetwork, 0.6));
    return absl::OkStatus();
  }

  absl::Status Measure(const Shape& shape, int rounds, bool peers, Report* report) {
    std::vector<Mover*> movers = {network_.get(), disk_.get(), copy_.get()};
    for (const Row& row : rows_) movers.push_back(row.mover.get());
    std::unique_ptr<Mover> redis;
    if (peers) {
      auto made = NewRedisMover(shape, ring_bytes_);
      if (!made.ok()) std::printf("  without redis: %s\n", std::string(made.status().message()).c_str());
      if (made.ok()) redis = *std::move(made);
    }
    if (redis != nullptr) movers.push_back(redis.get());
    KVLINK_ASSIGN_OR_RETURN(const std::vector<Moved> moved, MeasureMovers(movers, shape, ring_bytes_, rounds));
    report->Section(absl::StrCat(shape.name, ": ", shape.encodings, " x ", shape.layers, " layers of ",
                                 shape.slab_bytes >> 10, " KiB"));
    const Moved* store = nullptr;  // the rate of the store's pulls
    for (size_t i = 0; i < movers.size(); ++i) {
      const std::string name = absl::StrCat(shape.name, " ", movers[i]->name());
      const double rate = moved[i].gigabytes_per_second;
      report->Add(name, rate, "GB/s");
      if (i >= 3 && i - 3 < rows_.size()) {
        AddRatio(shape, name, rows_[i - 3], moved, i, report);
        AddPathRatio(name, movers, moved, i, report);
      }
      if (movers[i]->name() == StoreMoveName(StoreMove::kPullDram, "ucx")) store = &moved[i];
      if (movers[i] == redis.get() && store != nullptr) {
        report->Add(absl::StrCat(shape.name, " store pull / redis"), MedianRatio(store->turns, moved[i].turns), "",
                    Target{1.0, false});
      }
      report->Add(absl::StrCat(name, " first layer"), 1e6 * moved[i].first_seconds, "us");
      report->Add(absl::StrCat(name, " whole"), 1e6 * moved[i].whole_seconds, "us");
    }
    if (peers) AddOtherPeers(shape, rounds, store == nullptr ? 0 : store->gigabytes_per_second, report);
    return absl::OkStatus();
  }

 private:
  static void AddRatio(const Shape& shape, const std::string& name, const Row& row, const std::vector<Moved>& moved,
                       size_t i, Report* report) {
    const bool by_disk =
        row.against == Against::kNetworkAndDisk && moved[1].gigabytes_per_second < moved[0].gigabytes_per_second;
    const Moved& ceiling = moved[row.against == Against::kCopy ? 2 : by_disk ? 1 : 0];
    std::optional<Target> target;
    if (row.at_least.has_value()) target = Target{*row.at_least, false};
    report->Add(absl::StrCat(name, row.against == Against::kCopy ? " / memcpy"
                                   : by_disk                     ? " / bare io_uring"
                                                                 : " / bare ucx"),
                MedianRatio(moved[i].turns, ceiling.turns), "", target);
    if (!shape.asks_for_first || row.against != Against::kNetwork || !absl::StrContains(name, "pull")) return;
    report->Add(absl::StrCat(name, " first layer / whole"), moved[i].first_seconds / moved[i].whole_seconds, "",
                Target{0.125, true});
  }

  // Compares with the ceiling of the row's own path, the most it can reach whatever the store does; and pulls with the
  // transport alone.
  static void AddPathRatio(const std::string& name, const std::vector<Mover*>& movers, const std::vector<Moved>& moved,
                           size_t i, Report* report) {
    const auto add = [&](const std::string& path, double at_least) {
      for (size_t j = 0; j < movers.size(); ++j) {
        if (movers[j]->name() != path) continue;
        report->Add(absl::StrCat(name, " / ", path), MedianRatio(moved[i].turns, moved[j].turns), "",
                    Target{at_least, false});
      }
    };
    for (const Path& path : kPaths) {
      if (movers[i]->name() != StoreMoveName(path.move, path.carrier)) continue;
      add(path.ceiling, path.at_least);
      if (path.move == StoreMove::kPullDram) add(absl::StrCat("transport over ", path.carrier, ", verified"), 0.9);
    }
  }

  // Peers that are separate programs: run after ours, not interleaved.
  void AddOtherPeers(const EncodingShape& shape, int rounds, double store, Report* report) {
    const std::string scripts = KVLINK_SOURCE_DIR "/bench/peers/";
    const auto mooncake = RunPeer(absl::StrCat("python3 ", scripts, "mooncake_peer.py ", shape.slabs(), " ",
                                               shape.slab_bytes, " ", ring_bytes_ >> 20, " ", rounds, " 2>/dev/null"));
    const auto json = nlohmann::json::parse(mooncake.value_or(""), nullptr, false);
    if (json.is_object()) {
      const double rate = json.value("gigabytes_per_second", 0.0);
      report->Add(absl::StrCat(shape.name, " mooncake tcp"), rate, "GB/s");
      if (store > 0)
        report->Add(absl::StrCat(shape.name, " store pull / mooncake tcp"), store / rate, "", Target{1.0, false});
    } else {
      std::printf("  without mooncake: %s\n", std::string(mooncake.status().message()).c_str());
    }
    const auto perftest = RunPeer(absl::StrCat(scripts, "ucx_perftest.sh ", shape.slab_bytes));
    std::printf("  ucx_perftest: %s\n",
                perftest.ok() ? perftest->c_str() : std::string(perftest.status().message()).c_str());
  }

  // Starts this program as a server; returns the address.
  absl::StatusOr<std::string> Serve(const std::string& what) {
    KVLINK_ASSIGN_OR_RETURN(auto server,
                            ServingProcess::Start({self_, "--serve", what, "--ring", absl::StrCat(ring_bytes_ >> 20)}));
    servers_.push_back(std::move(server));
    return servers_.back()->first_line();
  }
  absl::Status AddTransport(const std::string& carrier, std::optional<double> plain, std::optional<double> verified) {
    if (!absl::StrContains(absl::StrCat("transport over ", carrier), wanted_)) return absl::OkStatus();
    KVLINK_ASSIGN_OR_RETURN(const std::string address, Serve(carrier));
    KVLINK_ASSIGN_OR_RETURN(auto reader, ConnectTransport(carrier, address, ring_bytes_));
    rows_.push_back({NewTransportMover(reader, false), Against::kNetwork, plain});
    rows_.push_back({NewTransportMover(reader, true), Against::kNetwork, verified});
    return absl::OkStatus();
  }
  // Adds the ceilings of requested rows.
  absl::Status AddPathCeilings(bool grpc) {
    std::shared_ptr<UcxPeer> peer;
    const auto add = [&](UcxMove move, const char* name) -> absl::Status {
      if (peer == nullptr) {
        KVLINK_ASSIGN_OR_RETURN(const std::string port, Serve("path-ceiling"));
        KVLINK_ASSIGN_OR_RETURN(peer, DialUcxCeiling(port, ring_bytes_));
      }
      rows_.push_back({NewUcxCeiling(peer, move, name), Against::kNetwork, std::nullopt});
      return absl::OkStatus();
    };
    const auto wanted = [this](StoreMove move, const char* carrier) {
      return absl::StrContains(StoreMoveName(move, carrier), wanted_);
    };
    if (wanted(StoreMove::kPullDram, "ucx")) {
      KVLINK_RETURN_IF_ERROR(add(UcxMove::kPull, kNodeUcx));
      KVLINK_RETURN_IF_ERROR(add(UcxMove::kPullVerified, kNodeUcxVerified));
    }
    if (wanted(StoreMove::kPullSegments, "ucx")) KVLINK_RETURN_IF_ERROR(add(UcxMove::kPullDisk, kDiskUcx));
    if (wanted(StoreMove::kPushMemory, "ucx")) KVLINK_RETURN_IF_ERROR(add(UcxMove::kPush, kPushUcx));
    if (!grpc || !wanted(StoreMove::kPullDram, "grpc")) return absl::OkStatus();
    KVLINK_ASSIGN_OR_RETURN(const std::string address, Serve("grpc-ceiling"));
    KVLINK_ASSIGN_OR_RETURN(auto mover, NewGrpcCeiling(kBareGrpc, address, ring_bytes_));
    rows_.push_back({std::move(mover), Against::kNetwork, std::nullopt});
    return absl::OkStatus();
  }
  // Each has its own node, because they drop and evict what is in DRAM.
  absl::Status AddStore(StoreMove move, const std::string& carrier, Against against, std::optional<double> at_least) {
    if (!absl::StrContains(StoreMoveName(move, carrier), wanted_)) return absl::OkStatus();
    KVLINK_ASSIGN_OR_RETURN(const std::string address,
                            Serve(move == StoreMove::kPushMemory ? "store-in-memory" : "store"));
    KVLINK_ASSIGN_OR_RETURN(auto mover, NewStoreMover(address, move, carrier, ring_bytes_));
    rows_.push_back({std::move(mover), against, at_least});
    return absl::OkStatus();
  }

  const int64_t ring_bytes_;
  const std::string self_;
  const std::string wanted_;                              // only rows with this in their names
  std::vector<Scratch> scratch_;                          // on the disk and in memory; outlives the servers that write
                                                          // there
  std::vector<std::unique_ptr<ServingProcess>> servers_;  // outlive the rows
  std::unique_ptr<Mover> network_, disk_, copy_;
  std::vector<Row> rows_;
};

int Main(int argc, char** argv) {
  const auto flags = Flags::Parse(
      argc, argv, "Measures how fast encodings come from another process, against bare UCX and against others.",
      {{"ring", "N", "MiB of memory on each side that they come from and go to (default 1024)."},
       {"rounds", "N", "Rounds of each (default 7)."},
       {"rows", "TEXT", "Only rows with this in their names, and their ceilings."},
       {"no-peers", "", "Without other systems."},
       {"no-grpc", "", "Without the carrier gRPC."},
       {"serve", "WHAT",
        "Serves: ceiling, path-ceiling, grpc-ceiling, ucx, grpc, store or store-in-memory (the bench starts these "
        "itself)."}});
  if (!flags.ok()) Die(flags.status());
  if (flags->help_wanted()) return 0;
  setenv("UCX_NET_DEVICES", "lo", 0);
  const int64_t ring_bytes = std::clamp<int64_t>(flags->GetInt("ring", 1024), 64, 1 << 16) << 20;
  const std::string serve = flags->Get("serve", "");
  if (serve == "ceiling") ServeUcxCeiling(ring_bytes, "", "");
  if (serve == "path-ceiling") {
    UseUcxAsTheTransportDoes();
    ServeUcxCeiling(ring_bytes, StoreScratch(getppid(), false) + "/path", StoreScratch(getppid(), true) + "/path");
  }
  if (serve == "grpc-ceiling") ServeGrpcCeiling(ring_bytes);
  if (serve == "store" || serve == "store-in-memory") ServeStore(ring_bytes, serve == "store-in-memory");
  if (!serve.empty()) ServeTransport(serve, ring_bytes);

  const int rounds = static_cast<int>(std::clamp<int64_t>(flags->GetInt("rounds", 7), 1, 1000));
  Report report("transfer");
  absl::Status status;
  {
    Bench bench(ring_bytes, "/proc/self/exe", flags->Get("rows", ""));
    status = bench.Start(!flags->Has("no-grpc"));
    for (const Shape& shape : kShapes) {
      if (status.ok()) status = bench.Measure(shape, rounds, !flags->Has("no-peers"), &report);
    }
  }
  if (!status.ok()) Die(status);
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
