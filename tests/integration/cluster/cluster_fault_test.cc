// A cluster of five nodes on separate hosts, with three members of etcd and PostgreSQL, under one fault at a time,
// chosen by a seed; and the answers its clients got (history.h says what must hold).
//
// With two copies and one acknowledgement, no request to the nodes may fail, whatever happens to one of them. With two
// acknowledgements, writes to an absent node fail, and nothing acknowledged may be missed. Requests to the catalog fail
// only if no database server takes writes for longer than they search for one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/integration/cluster/cluster_clients.h"
#include "tests/integration/cluster/cluster_processes.h"
#include "tests/integration/cluster/faults.h"
#include "tests/integration/cluster/history.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

constexpr int64_t kSlow = 1000000000;  // ns
constexpr absl::Duration kFault = absl::Seconds(4);
// A request to the catalog searches for a server for three seconds. If it began at most this long before the server was
// back, it had two seconds left and must not fail.
constexpr int64_t kCatalogPatience = 1000000000;  // ns

// Before and after a fault.
absl::Duration Calm() { return absl::Seconds(Soak() ? 3 : 1); }

double Milliseconds(int64_t ns) { return static_cast<double>(ns) / 1e6; }

struct Times {
  std::vector<int64_t> all;  // sorted
  double at(double part) const {
    if (all.empty()) return 0;
    return Milliseconds(all[std::min(all.size() - 1, static_cast<size_t>(part * static_cast<double>(all.size())))]);
  }
};

// Durations of requests to nodes; without `puts`, of reads only, for when writes wait for every copy.
template <typename Counts>
Times TimesOf(const std::vector<Timing>& timings, bool puts, Counts counts) {
  Times times;
  for (const Timing& one : timings) {
    if (OfDocument(one.kind) || (one.kind == CallKind::kPut && !puts)) continue;
    if (counts(one)) times.all.push_back(one.ended - one.begun);
  }
  std::sort(times.all.begin(), times.all.end());
  return times;
}

void Append(const Times& more, Times* times) { times->all.insert(times->all.end(), more.all.begin(), more.all.end()); }

std::string Show(const Times& times) {
  return absl::StrCat(times.all.size(), " requests, p50 ", times.at(0.5), " p99 ", times.at(0.99), " p99.9 ",
                      times.at(0.999), " longest ", times.at(1), " ms");
}

// The schedules of one kind of fault.
struct Figures {
  int schedules = 0;
  Times before, during;
  int64_t failed = 0;
  int64_t late = 0;  // requests that took more than a second longer than 99% of those before the fault
};

class ClusterFaultTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = ClusterProcesses::WhyNot(); !why.empty()) GTEST_SKIP() << why;
  }

  // Runs one fault per seed, one after the other, and checks after each what must hold.
  void RunSeeds(int acknowledged, int seeds) {
    ClusterShape shape;
    shape.spare_hosts = 1;
    shape.acknowledged = acknowledged;
    ClusterProcesses cluster(shape);
    if (HasFailure()) return;
    for (int i = 0; i < seeds && !HasFailure(); ++i)
      RunSeed(&cluster, TestSeed() + static_cast<uint64_t>(i), acknowledged);
    PrintFigures(acknowledged);
  }

  void RunSeed(ClusterProcesses* cluster, uint64_t seed, int acknowledged) {
    std::mt19937_64 random(seed);
    const Fault& fault = Faults()[seed % Faults().size()];
    const int node = static_cast<int>(random() % static_cast<uint64_t>(cluster->nodes()));
    const std::string what = absl::StrCat("seed ", seed, ": ", fault.name, ", node ", node);
    SCOPED_TRACE(what);
    if (fault.prepare) fault.prepare(cluster, node);
    ClusterClients clients(*cluster, seed);
    clients.Start();
    Phases at;
    at.begun = ClusterClients::Now();
    absl::SleepFor(Calm());
    at.broken = ClusterClients::Now();
    fault.begin(cluster, node);
    at.begin_returned = ClusterClients::Now();
    absl::SleepFor(kFault);
    fault.end(cluster, node);
    at.healed = ClusterClients::Now();
    absl::SleepFor(Calm());
    clients.Stop();
    clients.ReadAll();
    std::printf("%s\n", what.c_str());
    Judge(fault, at, clients, acknowledged);
    std::fflush(stdout);
    if (fault.restore && !HasFailure()) fault.restore(cluster, node);
  }

  // The times of events, on the clock of calls.
  struct Phases {
    int64_t begun = 0, broken = 0, begin_returned = 0, healed = 0;
  };

  void Judge(const Fault& fault, const Phases& at, const ClusterClients& clients, int acknowledged) {
    const auto timings = clients.timings();
    const bool puts = acknowledged == 1;
    const auto ended_before = [&at](const Timing& one) { return one.ended >= at.begun && one.ended < at.broken; };
    const auto met = [&at](const Timing& one) { return one.ended >= at.broken && one.begun <= at.healed; };
    const Times before = TimesOf(timings, puts, ended_before), during = TimesOf(timings, puts, met);
    std::printf("  before: %s\n  during: %s\n", Show(before).c_str(), Show(during).c_str());
    Figures& figures = figures_[fault.name];
    ++figures.schedules;
    Append(before, &figures.before);
    Append(during, &figures.during);
    const int64_t usual = static_cast<int64_t>(before.at(0.99) * 1e6);
    const int64_t back = fault.database == DatabaseIs::kAwayToBegin ? at.begin_returned
                         : fault.database == DatabaseIs::kAwayToEnd ? at.healed
                                                                    : 0;
    int64_t failed = 0, refused_puts = 0;
    for (const Timing& one : timings) {
      const bool waits_for_all = one.kind == CallKind::kPut && acknowledged > 1;
      if (!OfDocument(one.kind) && !waits_for_all && one.ended - one.begun > usual + kSlow) {
        ++figures.late;
        std::printf("  a %s took %.0f ms, %.0f ms after the fault began\n", NameOf(one.kind),
                    Milliseconds(one.ended - one.begun), Milliseconds(one.begun - at.broken));
      }
      if (one.failed.empty() || (OfDocument(one.kind) && one.begun + kCatalogPatience < back)) continue;
      if (waits_for_all && fault.away) {
        ++refused_puts;
        continue;
      }
      ++failed;
      if (failed > 5) continue;
      ADD_FAILURE() << "a " << NameOf(one.kind) << " failed: " << one.failed << " after "
                    << Milliseconds(one.ended - one.begun) << " ms, " << Milliseconds(one.begun - at.broken)
                    << " ms after the fault began";
    }
    figures.failed += failed;
    if (refused_puts > 0) std::printf("  %ld writes were refused\n", refused_puts);
    // An encoding that only one owner has acknowledged is missed while that owner is away.
    std::vector<Excuse> excuses;
    if (acknowledged == 1 && fault.away) excuses.push_back({at.broken, ClusterClients::Now()});
    for (const std::string& line : Check(clients.calls(), excuses)) ADD_FAILURE() << line;
  }

  // Prints one line for each kind of fault.
  void PrintFigures(int acknowledged) {
    std::printf("\nRequests to nodes, of 2 copies %d acknowledged%s; times in ms\n", acknowledged,
                acknowledged > 1 ? ", without writes" : "");
    std::printf("%-46s %9s %9s %7s %9s %9s %9s %9s %9s\n", "fault", "schedules", "requests", "failed", "p99 before",
                "p99", "p99.9", "longest", "1 s late");
    for (const Fault& fault : Faults()) {
      const auto found = figures_.find(fault.name);
      if (found == figures_.end()) continue;
      Figures& of = found->second;
      std::sort(of.before.all.begin(), of.before.all.end());
      std::sort(of.during.all.begin(), of.during.all.end());
      std::printf("%-46s %9d %9zu %7ld %9.1f %9.1f %9.1f %9.1f %9ld\n", fault.name, of.schedules, of.during.all.size(),
                  of.failed, of.before.at(0.99), of.during.at(0.99), of.during.at(0.999), of.during.at(1), of.late);
    }
    std::fflush(stdout);
  }

  std::map<std::string, Figures> figures_;  // by kind of fault
};

TEST_F(ClusterFaultTest, NoRequestFails) { RunSeeds(/*acknowledged=*/1, Soak() ? 100 : 4); }

TEST_F(ClusterFaultTest, AcknowledgedWritesSurvive) { RunSeeds(/*acknowledged=*/2, Soak() ? 100 : 1); }

}  // namespace
}  // namespace kvlink::testing
