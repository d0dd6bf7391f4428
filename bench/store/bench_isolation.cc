// Does one tenant of a node hold up another? A node runs in its own process; a reader's latencies are measured over
// UCX, alone and beside others, in turns within one run. All processes share this machine's cores and its disk.
//
// Pushes: pulls from DRAM and from segments beside a niced process that pushes as fast as the node accepts. A niced
// process that only writes a file shows how much of the effect is due to the machine.
//
// Tenants: lookups and pulls of a tenant's small set beside another, hostile tenant. The effect of that tenant when it
// uses a node of its own, so that only the machine is shared, is the machine's part.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/bench_common.h"
#include "bench/store/hostile_tenants.h"
#include "bench/store/isolation.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench::isolation {
namespace {

constexpr absl::Duration kSettle = absl::Milliseconds(300);  // time for processes that ended to release their resources

// The processes of the bench: this program under a flag of its own.
struct Role {
  const char* flag;
  const char* value;
  void (*run)(const std::string& value);
};
const Role kRoles[] = {{"serve", "DIRECTORY",
                        [](const std::string& directory) {
                          Serve(directory, {kResident, kOnDisk});
                        }},
                       {"serve-tenants", "DIRECTORY",
                        [](const std::string& directory) {
                          Serve(directory, {kSmall, kLarge});
                        }},
                       {"push", "ADDRESS", Push},
                       {"write", "FILE", WriteFile},
                       {"read-much", "ADDRESS", ReadMuch},
                       {"lease-all", "ADDRESS", LeaseAll},
                       {"push-nothing", "ADDRESS", PushNothing},
                       {"verify", "ADDRESS", Verify}};

std::unique_ptr<ServingProcess> Start(absl::string_view role, const std::string& value) {
  return Must(ServingProcess::Start({"/proc/self/exe", absl::StrCat("--", role), value}));
}

void AddLatencies(Report* report, absl::string_view name, const std::vector<double>& seconds) {
  report->Add(absl::StrCat(name, " p50"), 1e3 * Median(seconds), "ms");
  report->Add(absl::StrCat(name, " p99"), 1e3 * Quantile(seconds, 0.99), "ms");
}

// Pushes.

struct PullSamples {
  std::vector<double> alone, beside_writes, beside_pushes;
};

void AddPulls(Report* report, absl::string_view what, const PullSamples& samples, double most) {
  report->Section(what);
  AddLatencies(report, absl::StrCat(what, " alone"), samples.alone);
  AddLatencies(report, absl::StrCat(what, " beside bare writes"), samples.beside_writes);
  AddLatencies(report, absl::StrCat(what, " beside pushes"), samples.beside_pushes);
  const double alone = Quantile(samples.alone, 0.99);
  report->Add(absl::StrCat(what, " p99 beside bare writes / alone"), Quantile(samples.beside_writes, 0.99) / alone, "");
  report->Add(absl::StrCat(what, " p99 beside pushes / alone"), Quantile(samples.beside_pushes, 0.99) / alone, "",
              Target{most, true});
}

// GB/s written by the node meanwhile.
double WriteRate(store::Store* store, const std::function<void()>& body) {
  const int64_t before = Must(store->Stats()).bytes_written;
  const double start = Now();
  body();
  return 1e-9 * static_cast<double>(Must(store->Stats()).bytes_written - before) / (Now() - start);
}

void MeasurePushes(const std::string& scratch, const Manifest& manifest, int reads, int rounds, Report* report) {
  const auto node = Start("serve", scratch + "/pushes");
  const std::string& address = node->first_line();
  const auto store = Connect(address, kTenantKey);
  const auto operator_store = Connect(address, kOperatorKey);
  Reader resident(store.get(), kResident, manifest), on_disk(store.get(), kOnDisk, manifest);
  PullSamples dram, segments;
  std::vector<double> ceiling, beside;
  for (int round = -1; round < rounds; ++round) {
    PullSamples ignored_dram, ignored_segments;
    PullSamples* const to_dram = round < 0 ? &ignored_dram : &dram;
    PullSamples* const to_segments = round < 0 ? &ignored_segments : &segments;
    const auto pull = [&](std::vector<double> PullSamples::*when) {
      resident.ReadFrom(store::Tier::kDram, reads, &(to_dram->*when));
      on_disk.ReadFrom(store::Tier::kDisk, reads, &(to_segments->*when));
    };
    pull(&PullSamples::alone);
    {
      const auto writer = Start("write", scratch + "/bare");
      pull(&PullSamples::beside_writes);
    }
    const auto generator = Start("push", address);
    absl::SleepFor(absl::Milliseconds(200));
    const double alone = WriteRate(operator_store.get(), [] { absl::SleepFor(absl::Seconds(1)); });
    const double with_pulls = WriteRate(operator_store.get(), [&] { pull(&PullSamples::beside_pushes); });
    std::printf("  pushes, round %d of %d\n", round + 1, rounds);
    std::fflush(stdout);
    if (round < 0) continue;
    ceiling.push_back(alone);
    beside.push_back(with_pulls);
  }
  std::printf("%s\n", Must(operator_store->Stats()).io.c_str());
  AddPulls(report, "DRAM", dram, 2);
  AddPulls(report, "segments", segments, 4);
  report->Section("pushes");
  report->Add("pushes without pulls", Median(ceiling), "GB/s");
  report->Add("pushes beside pulls", Median(beside), "GB/s");
}

// Tenants.

struct Hostile {
  const char* role;
  const char* name;  // as in "beside ..."
};
constexpr Hostile kHostile[] = {{"read-much", "reads of a full tier"},
                                {"lease-all", "a tenant that leases everything"},
                                {"verify", "verify"},
                                {"push-nothing", "pushes that never send"}};

struct ReadSamples {
  std::vector<double> alone, beside, beside_other;  // another tenant of this node, of another node
  int64_t failed = 0;
  std::string why;
};

// A failed read is counted, and the next one is made.
void ReadSome(Reader* reader, int reads, std::vector<double>* seconds, ReadSamples* samples) {
  for (int i = 0; i < reads; ++i) {
    const double start = Now();
    const auto tier = reader->Read();
    if (tier.ok()) {
      seconds->push_back(Now() - start);
      continue;
    }
    ++samples->failed;
    samples->why = std::string(tier.status().message());
  }
}

void MeasureTenants(const std::string& scratch, const Manifest& manifest, int reads, int rounds, Report* report) {
  const auto node = Start("serve-tenants", scratch + "/tenants");
  const auto other = Start("serve-tenants", scratch + "/others");
  const auto store = Connect(node->first_line(), kTenantKey);
  Reader reader(store.get(), kSmall, manifest);
  ReadSamples all[std::size(kHostile)];
  for (int round = -1; round < rounds; ++round) {
    for (size_t i = 0; i < std::size(kHostile); ++i) {
      ReadSamples ignored;
      ReadSamples* const to = round < 0 ? &ignored : &all[i];
      ReadSome(&reader, reads, &to->alone, to);
      {
        const auto hostile = Start(kHostile[i].role, node->first_line());
        ReadSome(&reader, reads, &to->beside, to);
      }
      absl::SleepFor(kSettle);
      {
        const auto hostile = Start(kHostile[i].role, other->first_line());
        ReadSome(&reader, reads, &to->beside_other, to);
      }
      absl::SleepFor(kSettle);
      if (to->failed > 0) all[i].failed = std::max(all[i].failed, to->failed);
      std::printf("  %s, round %d of %d: p50 %.2f ms alone, %.2f beside\n", kHostile[i].name, round + 1, rounds,
                  1e3 * Median(to->alone), 1e3 * Median(to->beside));
      std::fflush(stdout);
    }
  }
  for (size_t i = 0; i < std::size(kHostile); ++i) {
    const ReadSamples& of = all[i];
    const std::string name = absl::StrCat("a tenant's reads beside ", kHostile[i].name);
    report->Section(absl::StrCat("beside ", kHostile[i].name));
    AddLatencies(report, absl::StrCat(name, ", alone"), of.alone);
    AddLatencies(report, name, of.beside);
    AddLatencies(report, absl::StrCat(name, " of another node"), of.beside_other);
    const double alone = Quantile(of.alone, 0.99), beside = Quantile(of.beside, 0.99);
    report->Add(absl::StrCat(name, ", failed"), static_cast<double>(of.failed), "reads", Target{0, true});
    if (of.failed > 0) std::printf("  the last one: %s\n", of.why.c_str());
    report->Add(absl::StrCat(name, " of another node, p99 / alone"), Quantile(of.beside_other, 0.99) / alone, "");
    report->Add(absl::StrCat(name, ", p99 / alone"),
                of.failed > 0 ? std::numeric_limits<double>::infinity() : beside / alone, "", Target{2, true});
  }
}

int Main(int argc, char** argv) {
  std::vector<FlagHelp> known = {kScratchFlag,
                                 {"pulls", "N", "Pulls of each kind in a round (default 100)."},
                                 {"rounds", "N", "Rounds (default 12)."},
                                 {"only", "PART", "pushes or tenants (default: both)."}};
  for (const Role& role : kRoles) known.push_back({role.flag, role.value, "For the bench itself."});
  const auto flags =
      Flags::Parse(argc, argv, "Measures how much tenants of a node hold up another one's reads.", known);
  MustBe(flags.status());
  if (flags->help_wanted()) return 0;
  setenv("UCX_NET_DEVICES", "lo", 0);
  for (const Role& role : kRoles) {
    if (flags->Has(role.flag)) role.run(flags->Get(role.flag, ""));
  }
  const int reads = static_cast<int>(std::clamp<int64_t>(flags->GetInt("pulls", 100), 1, 100000));
  const int rounds = static_cast<int>(std::clamp<int64_t>(flags->GetInt("rounds", 12), 1, 1000));
  const std::string only = flags->Get("only", "");
  if (!only.empty() && only != "pushes" && only != "tenants") Die("--only is pushes or tenants");

  const Scratch scratch = Must(Scratch::Make(flags->Get("dir", "")));
  const Memory memory(kEncodingBytes);
  const Manifest manifest = Slabs(memory.as<std::byte>()).manifest;
  std::printf("encodings of %.1f MB (%lld layers), %d pulls of each kind in %d rounds, others at nice %d\n",
              1e-6 * static_cast<double>(kEncodingBytes), static_cast<long long>(kLayers), reads, rounds, kNice);
  Report report("isolation");
  if (only != "tenants") MeasurePushes(scratch.path(), manifest, reads, rounds, &report);
  if (only != "pushes") MeasureTenants(scratch.path(), manifest, reads, rounds, &report);
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench::isolation

int main(int argc, char** argv) { return kvlink::bench::isolation::Main(argc, argv); }
