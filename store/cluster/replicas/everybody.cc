// Each call blocks a thread until its answer comes. Such calls are rare, so the threads live only as long as the calls.
#include "store/cluster/replicas/everybody.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <tuple>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "proto/data.h"

namespace kvlink::store::cluster {
namespace {

constexpr size_t kMaxThreads = 16;

absl::Status NoMembers(const Nodes& nodes) {
  return absl::UnavailableError(absl::StrCat("cluster ", nodes.view->settings.name, " has no members"));
}

// "10.0.0.1:7400: why; ..." of those that failed.
std::string Failures(NodeSpan nodes, absl::Span<const absl::Status> statuses) {
  std::vector<std::string> why;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!statuses[i].ok()) why.push_back(absl::StrCat(nodes[i]->address(), ": ", statuses[i].message()));
  }
  return absl::StrJoin(why, "; ");
}

int64_t Failed(absl::Span<const absl::Status> statuses) {
  return absl::c_count_if(statuses, [](const absl::Status& status) { return !status.ok(); });
}

using Uses = std::map<std::string, NamespaceStats>;

// Adds the namespaces, of which each node may have thousands, to `uses`, and everything else to `sum`.
void AddTo(StoreStats* sum, Uses* uses, const StoreStats& one) {
  for (const NamespaceStats& ns : one.namespaces) {
    NamespaceStats& use = uses->try_emplace(ns.name, NamespaceStats{.name = ns.name}).first->second;
    use.encodings += ns.encodings;
    use.bytes += ns.bytes;
    use.pinned_bytes += ns.pinned_bytes;
    use.documents += ns.documents;
  }
  for (int64_t StoreStats::*const value :
       {&StoreStats::segment_bytes, &StoreStats::segment_bytes_used, &StoreStats::pinned_bytes, &StoreStats::dram_bytes,
        &StoreStats::dram_bytes_used, &StoreStats::hits_dram, &StoreStats::hits_segments, &StoreStats::misses,
        &StoreStats::bytes_read, &StoreStats::bytes_written, &StoreStats::bytes_written_in_place,
        &StoreStats::evictions, &StoreStats::integrity_failures, &StoreStats::double_claims, &StoreStats::leases}) {
    sum->*value += one.*value;
  }
}

}  // namespace

std::vector<absl::Status> AskEach(NodeSpan nodes,
                                  const std::function<absl::Status(size_t, client::RemoteStore*)>& call) {
  std::vector<absl::Status> statuses(nodes.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < nodes.size(); i = next++) {
      const auto store = nodes[i]->Store();
      statuses[i] = store.ok() ? call(i, store->get()) : store.status();
      if (store.ok()) nodes[i]->Ended(Work::kLookup, statuses[i]);
    }
  };
  std::vector<Thread> threads;
  for (size_t i = 1; i < std::min(nodes.size(), kMaxThreads); ++i)
    threads.emplace_back("node-call", [&work] { work(); });
  work();
  threads.clear();
  return statuses;
}

absl::Status ActAtOwners(const Nodes& nodes, const Identity& identity, bool every,
                         const std::function<absl::Status(client::RemoteStore*)>& act) {
  std::vector<std::shared_ptr<ClusterNode>> owners;
  std::vector<Breaker::Probe> probes;
  std::vector<std::string> resting;
  for (const uint16_t member : every ? HoldersOf(*nodes.view, identity) : OwnersOf(nodes.view->placement, identity)) {
    const std::shared_ptr<ClusterNode>& node = nodes.nodes[member];
    Breaker::Probe probe = node->TryProbe(Work::kLookup);
    if (probe != nullptr || !node->Rests(Work::kLookup)) {
      owners.push_back(node);
      probes.push_back(std::move(probe));
    } else {
      resting.push_back(absl::StrCat(node->address(), ": no recent answer"));
    }
  }
  if (owners.empty() && resting.empty()) return NoMembers(nodes);
  auto statuses = AskEach(owners, [&](size_t, client::RemoteStore* store) {
    const absl::Status status = act(store);
    // A node that answers `moved` is not an owner and has removed its copy, if it had one.
    return MovedEpoch(status).has_value() && every ? absl::OkStatus() : status;
  });
  const bool any = absl::c_any_of(statuses, [](const absl::Status& status) { return status.ok(); });
  if (any && (!every || (Failed(statuses) == 0 && resting.empty()))) return absl::OkStatus();
  for (const absl::Status& status : statuses) {
    const bool ours = absl::IsInvalidArgument(status) || absl::IsPermissionDenied(status) ||
                      absl::IsUnauthenticated(status) || absl::IsResourceExhausted(status);
    if (ours) return status;
  }
  const bool missed = absl::c_any_of(statuses, [](const absl::Status& status) { return absl::IsNotFound(status); });
  if (!every && missed) return absl::NotFoundError("a miss: no reachable owner has the encoding");
  const std::string failures = Failures(owners, statuses);
  if (!failures.empty()) resting.push_back(failures);
  return absl::UnavailableError(absl::StrJoin(resting, "; "));
}

std::vector<NodeReport> ReportNodes(const Nodes& nodes) {
  std::vector<NodeReport> reports;
  for (size_t i = 0; i < nodes.nodes.size(); ++i) {
    const ClusterNode& node = *nodes.nodes[i];
    const bool rests = node.Rests(Work::kRead) || node.Rests(Work::kPut);
    reports.push_back(
        {nodes.view->placement.members()[i], nodes.view->status[i], rests, absl::UnavailableError("not asked")});
  }
  const auto statuses = AskEach(nodes.nodes, [&](size_t i, client::RemoteStore* store) {
    reports[i].stats = store->Stats();
    return reports[i].stats.status();
  });
  for (size_t i = 0; i < reports.size(); ++i) {
    if (!statuses[i].ok()) reports[i].stats = statuses[i];
  }
  return reports;
}

absl::StatusOr<StoreStats> SumOfStats(const Nodes& nodes) {
  if (nodes.nodes.empty()) return NoMembers(nodes);
  const std::vector<NodeReport> reports = ReportNodes(nodes);
  StoreStats sum = SumOf(reports);
  const bool any = absl::c_any_of(reports, [](const NodeReport& report) { return report.stats.ok(); });
  if (!any) return absl::UnavailableError(sum.io);
  return sum;
}

StoreStats SumOf(const std::vector<NodeReport>& nodes) {
  StoreStats sum;
  Uses uses;
  std::vector<std::string> failed, io;
  for (const NodeReport& report : nodes) {
    if (!report.stats.ok()) {
      failed.push_back(absl::StrCat(report.status.address, ": ", report.stats.status().message()));
      continue;
    }
    AddTo(&sum, &uses, *report.stats);
    if (!absl::c_linear_search(io, report.stats->io)) io.push_back(report.stats->io);
  }
  for (auto& [name, use] : uses) sum.namespaces.push_back(std::move(use));
  sum.io = absl::StrCat(nodes.size() - failed.size(), " of ", nodes.size(), " nodes: ", absl::StrJoin(io, ", "));
  if (!failed.empty()) absl::StrAppend(&sum.io, " (", absl::StrJoin(failed, "; "), ")");
  return sum;
}

absl::StatusOr<std::vector<StoreAdmin::Listed>> MergedListing(const Nodes& nodes, absl::string_view ns,
                                                              const Identity& after, int64_t limit) {
  if (nodes.nodes.empty()) return NoMembers(nodes);
  // The first `limit` of all are among the first `limit` of each.
  std::vector<std::vector<StoreAdmin::Listed>> listed(nodes.nodes.size());
  const auto statuses = AskEach(nodes.nodes, [&](size_t i, client::RemoteStore* store) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(listed[i], store->ListEncodings(ns, after, limit));
    return absl::OkStatus();
  });
  if (Failed(statuses) >= nodes.view->settings.acknowledged ||
      Failed(statuses) == static_cast<int64_t>(listed.size())) {
    return absl::UnavailableError(Failures(nodes.nodes, statuses));
  }
  std::map<std::tuple<std::string, Identity, Codec>, StoreAdmin::Listed> merged;
  for (auto& some : listed) {
    for (StoreAdmin::Listed& one : some) {
      auto key = std::make_tuple(one.ns, one.manifest.identity, one.manifest.codec);
      const auto [known, added] = merged.try_emplace(std::move(key), one);
      if (!added && known->second.manifest.etag < one.manifest.etag) known->second = std::move(one);
    }
  }
  std::vector<StoreAdmin::Listed> result;
  for (auto& [key, one] : merged) {
    // List an identity with all its codecs, since the next call continues after the identity.
    const bool begins = result.empty() || result.back().manifest.identity != one.manifest.identity;
    if (begins && static_cast<int64_t>(result.size()) >= limit) break;
    result.push_back(std::move(one));
  }
  return result;
}

absl::StatusOr<VerifyReport> VerifyEach(const Nodes& nodes, const std::function<bool(int64_t, int64_t)>& progress) {
  if (nodes.nodes.empty()) return NoMembers(nodes);
  Mutex mutex;
  std::vector<std::pair<int64_t, int64_t>> done(nodes.nodes.size());  // bytes verified, and bytes in total
  std::vector<VerifyReport> reports(nodes.nodes.size());
  bool go_on = true;
  const auto statuses = AskEach(nodes.nodes, [&](size_t i, client::RemoteStore* store) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(reports[i], store->Verify([&, i](int64_t bytes, int64_t total) {
      MutexLock lock(&mutex);
      done[i] = {bytes, total};
      int64_t all_bytes = 0, all_total = 0;
      for (const auto& [some, of] : done) {
        all_bytes += some;
        all_total += of;
      }
      if (progress && go_on) go_on = progress(all_bytes, all_total);
      return go_on;
    }));
    return absl::OkStatus();
  });
  if (Failed(statuses) == static_cast<int64_t>(reports.size())) {
    return absl::Status(statuses[0].code(), Failures(nodes.nodes, statuses));
  }
  VerifyReport all;
  for (size_t i = 0; i < reports.size(); ++i) {
    const std::string& address = nodes.nodes[i]->address();
    all.encodings += reports[i].encodings;
    all.bytes += reports[i].bytes;
    for (VerifyReport::Damage& damage : reports[i].damaged) {
      damage.what = absl::StrCat(address, ": ", damage.what);
      all.damaged.push_back(std::move(damage));
    }
    for (const std::string& problem : reports[i].index_problems) {
      all.index_problems.push_back(absl::StrCat(address, ": ", problem));
    }
    // Keep the findings of the other nodes: they have dropped the damaged encodings, so no later run would report them.
    if (!statuses[i].ok())
      all.index_problems.push_back(absl::StrCat(address, ": not verified: ", statuses[i].message()));
  }
  return all;
}

}  // namespace kvlink::store::cluster
