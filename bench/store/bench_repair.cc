// How fast is a node filled, relative to its rate limit? An empty node and a full one run in one process, so that
// neither a network nor a second machine is measured: the rate, the cost of one copy at a time, and the cost of
// comparing when nothing differs.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/bench_common.h"
#include "store/cluster/repair/repair.h"
#include "tests/store/cluster/engines.h"

namespace kvlink::bench {
namespace {

using store::cluster::RepairOptions;
using testing::EngineCluster;

constexpr int kEncodings = 300;
constexpr int64_t kTokens = 4096;  // a mebibyte, in two layers

// Seconds to fill an empty node at a rate limit, and the bytes.
std::pair<double, int64_t> Fill(EngineCluster* cluster, int64_t rate) {
  cluster->Replace(0);
  const double begun = Now();
  cluster->StartRepair(0, [rate](RepairOptions* options) { options->bytes_per_second = rate; });
  cluster->WaitComplete(0);
  const double seconds = Now() - begun;
  const int64_t bytes = cluster->node(0).repairer->statistics().copied_bytes;
  cluster->StopRepair(0);
  return {seconds, bytes};
}

int Main(int argc, char** argv) {
  const auto flags = Flags::Parse(argc, argv, "how fast repair fills a node, and what comparing costs", {});
  if (!flags.ok()) {
    std::fprintf(stderr, "bench_repair: %s\n", std::string(flags.status().message()).c_str());
    return 1;
  }
  if (flags->help_wanted()) return 0;
  Report report("repair");
  EngineCluster cluster(2, /*copies=*/2, /*capacity=*/int64_t{2} << 30);
  for (int i = 0; i < kEncodings; ++i) {
    cluster.PutAt(1, testing::MakeInSlot(static_cast<uint64_t>(i), i * 97 % kSlots, 0, Codec::kRawBf16, kTokens));
  }
  for (const int64_t mebibytes : {64, 256, 1 << 20}) {
    const auto [seconds, bytes] = Fill(&cluster, mebibytes << 20);
    const double reached = static_cast<double>(bytes) / seconds / (1 << 20);
    if (mebibytes == 1 << 20) {
      report.Add("filled without a limit", reached, "MiB/s");
    } else {
      report.Add(absl::StrCat("of a limit of ", mebibytes, " MiB/s"), reached / static_cast<double>(mebibytes), "",
                 Target{0.8});
    }
  }
  cluster.StartRepair(0);
  cluster.WaitComplete(0, 20);
  const int64_t before = cluster.node(0).repairer->statistics().passes;
  const double begun = Now();
  cluster.WaitComplete(0, 20);
  const int64_t passes = cluster.node(0).repairer->statistics().passes - before;
  report.Add("a pass over 65536 slots of equals, with its pause of 20 ms",
             (Now() - begun) / static_cast<double>(passes) * 1e3, "ms");
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
