// A cluster of five nodes, each on a host of its own, beside three members of etcd and PostgreSQL, while one thing at a
// time goes wrong, as a seed says; and what its clients were answered (history.h says what must hold).
//
// With two copies, of which one is acknowledged, no request to the nodes may fail, whatever happens to one of them.
// With both acknowledged, writes to a node that is gone fail, and nothing that was acknowledged may be missed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/integration/cluster/cluster_clients.h"
#include "tests/integration/cluster/cluster_processes.h"
#include "tests/integration/cluster/history.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

constexpr int64_t kSlow = 1000000000;  // ns
constexpr absl::Duration kCalm = absl::Seconds(3), kFault = absl::Seconds(4);

struct Fault {
  const char* name;
  std::function<void(ClusterProcesses*, int node)> begin, end;
  bool database = false;  // requests to the catalog may fail
};

const std::vector<Fault>& Faults() {
  using C = ClusterProcesses*;
  static const auto* const faults = new std::vector<Fault>{
      {"kill", [](C c, int n) { c->Kill(n); }, [](C c, int n) { c->Start(n); }},
      {"freeze", [](C c, int n) { c->Freeze(n); }, [](C c, int n) { c->Thaw(n); }},
      {"isolate", [](C c, int n) { c->network().Isolate(n); }, [](C c, int n) { c->network().Heal(n); }},
      {"answers to clients lost", [](C c, int n) { c->network().Drop(n, c->network().local(0)); },
       [](C c, int n) { c->network().Heal(n); }},
      {"cut off from etcd", [](C c, int n) { c->network().Drop(n, c->network().local(1)); },
       [](C c, int n) { c->network().Heal(n); }},
      {"cut off from the database", [](C c, int n) { c->network().Drop(n, c->network().local(2)); },
       [](C c, int n) { c->network().Heal(n); }},
      {"cut off from one node", [](C c, int n) { c->network().Drop(n, c->network().address((n + 1) % c->hosts())); },
       [](C c, int n) { c->network().Heal(n); }},
      {"slow link", [](C c, int n) { c->network().Slow(n, 1 << 20); }, [](C c, int n) { c->network().Heal(n); }},
      {"full disk", [](C c, int n) { c->FillDisk(n); }, [](C c, int n) { c->FreeDisk(n); }},
      {"clock an hour ahead", [](C c, int n) { c->MoveClock(n, 3600); }, [](C c, int n) { c->MoveClock(n, 0); }},
      {"clock an hour behind", [](C c, int n) { c->MoveClock(n, -3600); }, [](C c, int n) { c->MoveClock(n, 0); }},
      {"stop and start", [](C c, int n) { c->Stop(n); }, [](C c, int n) { c->Start(n); }},
      {"etcd member killed", [](C c, int n) { c->etcd().Kill(n % c->etcd().size()); },
       [](C c, int n) { c->etcd().Restart(n % c->etcd().size()); }},
      {"etcd leader frozen",
       [](C c, int) {
         static int leader;
         leader = c->etcd().Leader();
         c->etcd().Freeze(leader);
       },
       [](C c, int) {
         for (int i = 0; i < c->etcd().size(); ++i) c->etcd().Thaw(i);
       }},
      {"database frozen", [](C c, int) { c->postgres().Freeze(); }, [](C c, int) { c->postgres().Thaw(); }, true},
      {"database killed", [](C c, int) { c->postgres().Kill(); }, [](C c, int) { c->postgres().Restart(); }, true},
  };
  return *faults;
}

double Milliseconds(int64_t ns) { return static_cast<double>(ns) / 1e6; }

struct Times {
  std::vector<int64_t> all;  // sorted
  double at(double part) const {
    if (all.empty()) return 0;
    return Milliseconds(all[std::min(all.size() - 1, static_cast<size_t>(part * static_cast<double>(all.size())))]);
  }
};

// Of requests to nodes; of reads alone where writes wait for every copy.
Times TimesOf(const std::vector<Timing>& timings, int64_t from, int64_t to, bool puts) {
  Times times;
  for (const Timing& one : timings) {
    if (OfDocument(one.kind) || (one.kind == CallKind::kPut && !puts)) continue;
    if (one.ended >= from && one.begun <= to) times.all.push_back(one.ended - one.begun);
  }
  std::sort(times.all.begin(), times.all.end());
  return times;
}

std::string Show(const Times& times) {
  return absl::StrCat(times.all.size(), " requests, p50 ", times.at(0.5), " p99 ", times.at(0.99), " p99.9 ",
                      times.at(0.999), " longest ", times.at(1), " ms");
}

class ClusterFaultTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = ClusterProcesses::WhyNot(); !why.empty()) GTEST_SKIP() << why;
  }

  // One fault after the other, as the seeds say, and what must hold after each.
  void RunSeeds(int acknowledged, int seeds) {
    ClusterShape shape;
    shape.acknowledged = acknowledged;
    ClusterProcesses cluster(shape);
    if (HasFailure()) return;
    for (int i = 0; i < seeds && !HasFailure(); ++i)
      RunSeed(&cluster, TestSeed() + static_cast<uint64_t>(i), acknowledged);
  }

  void RunSeed(ClusterProcesses* cluster, uint64_t seed, int acknowledged) {
    std::mt19937_64 random(seed);
    const Fault& fault = Faults()[seed % Faults().size()];
    const int node = static_cast<int>(random() % static_cast<uint64_t>(cluster->hosts()));
    const std::string what = absl::StrCat("seed ", seed, ": ", fault.name, ", node ", node);
    SCOPED_TRACE(what);
    ClientsOptions options;
    options.seed = seed;
    ClusterClients clients(*cluster, options);
    const int64_t begun = ClusterClients::Now();
    clients.Start();
    absl::SleepFor(kCalm);
    const int64_t broken = ClusterClients::Now();
    fault.begin(cluster, node);
    absl::SleepFor(kFault);
    fault.end(cluster, node);
    const int64_t healed = ClusterClients::Now();
    absl::SleepFor(kCalm);
    clients.Stop();
    clients.ReadAll();

    const auto timings = clients.timings();
    const Times calm = TimesOf(timings, begun, broken, acknowledged == 1),
                faulty = TimesOf(timings, broken, healed, acknowledged == 1);
    std::printf("%s\n  before: %s\n  during: %s\n", what.c_str(), Show(calm).c_str(), Show(faulty).c_str());
    std::fflush(stdout);
    for (const Timing& one : timings) {
      if (OfDocument(one.kind) || one.ended - one.begun < kSlow || (one.kind == CallKind::kPut && acknowledged > 1))
        continue;
      std::printf("  a %s took %.0f ms, %.0f ms after the fault began\n", NameOf(one.kind),
                  Milliseconds(one.ended - one.begun), Milliseconds(one.begun - broken));
    }
    int64_t failed = 0, refused_puts = 0;
    for (const Timing& one : timings) {
      if (one.failed.empty() || (OfDocument(one.kind) && fault.database)) continue;
      if (one.kind == CallKind::kPut && acknowledged > 1) {
        ++refused_puts;
        continue;
      }
      ++failed;
      ADD_FAILURE() << "a request failed: " << one.failed << " after " << Milliseconds(one.ended - one.begun) << " ms";
      if (failed > 5) break;
    }
    if (refused_puts > 0) std::printf("  %ld writes were refused\n", refused_puts);
    // What one owner alone acknowledged is missed while that one is away.
    std::vector<Excuse> excuses;
    if (acknowledged == 1) excuses.push_back({broken, ClusterClients::Now()});
    for (const std::string& line : Check(clients.calls(), excuses)) ADD_FAILURE() << line;
  }
};

TEST_F(ClusterFaultTest, NoRequestFails) { RunSeeds(/*acknowledged=*/1, Soak() ? 100 : 5); }

TEST_F(ClusterFaultTest, NothingAcknowledgedIsLost) { RunSeeds(/*acknowledged=*/2, Soak() ? 100 : 3); }

}  // namespace
}  // namespace kvlink::testing
