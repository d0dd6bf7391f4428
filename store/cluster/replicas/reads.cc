// Lookups and reads are each a Scatter, with its own request and its own meaning of answers.
#include "store/cluster/replicas/reads.h"

#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"
#include "store/cluster/replicas/lease.h"
#include "store/store.h"

namespace kvlink::store::cluster {
namespace {

bool NobodyReachable(const Nodes& nodes, Work work) {
  return absl::c_all_of(nodes.nodes, [work](const auto& node) { return node->Fails(work); });
}

// Why no node answered; OK if this counts as a miss.
absl::Status WhyNothing(const Scatter& scatter, Work work) {
  if (scatter.answered()) return absl::OkStatus();
  if (!scatter.refused().ok()) return scatter.refused();
  const Nodes& nodes = *scatter.nodes();
  const std::string& name = nodes.view->settings.name;
  if (nodes.nodes.empty()) return absl::UnavailableError(absl::StrCat("cluster ", name, " has no members"));
  if (!NobodyReachable(nodes, work)) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("none of the ", nodes.nodes.size(), " nodes of cluster ", name, " can be reached"));
}

class LookupRequest : public Scatter::Request {
 public:
  // `found` holds the results of the whole call.
  LookupRequest(std::unique_ptr<client::PendingLookup> pending, absl::Span<const size_t> which,
                std::vector<Found>* found)
      : pending_(std::move(pending)), which_(which.begin(), which.end()), found_(found) {}

  absl::StatusOr<std::vector<Verdict>> Poll() override {
    KVLINK_ASSIGN_OR_RETURN(const std::vector<Found> some, pending_->Wait(absl::InfinitePast()));
    std::vector<Verdict> verdicts;
    for (size_t k = 0; k < which_.size(); ++k) {
      verdicts.push_back(some[k].present             ? Verdict::kHad
                         : some[k].moved.has_value() ? Verdict::kMoved
                                                     : Verdict::kMissed);
      if (some[k].moved.has_value()) Moved(*some[k].moved);
      Found& found = (*found_)[which_[k]];
      if (some[k].present && (!found.present || found.etag < some[k].etag)) found = some[k];
    }
    return verdicts;
  }

 private:
  const std::unique_ptr<client::PendingLookup> pending_;
  const std::vector<size_t> which_;
  std::vector<Found>* const found_;
};

using Leases = std::vector<absl::StatusOr<std::unique_ptr<Lease>>>;

class ReadsRequest : public Scatter::Request {
 public:
  // `leases` holds the results of the whole call.
  ReadsRequest(const Cluster* cluster, std::shared_ptr<ClusterNode> node, std::unique_ptr<client::PendingReads> pending,
               std::vector<std::pair<size_t, Wanted>> wanted, Leases* leases)
      : cluster_(cluster),
        node_(std::move(node)),
        pending_(std::move(pending)),
        wanted_(std::move(wanted)),
        leases_(leases) {}

  absl::StatusOr<std::vector<Verdict>> Poll() override {
    KVLINK_ASSIGN_OR_RETURN(Leases some, pending_->Wait(absl::InfinitePast()));
    std::vector<Verdict> verdicts;
    absl::Status no_answer, refused;
    for (size_t k = 0; k < some.size(); ++k) {
      auto& [i, wanted] = wanted_[k];
      absl::StatusOr<std::unique_ptr<Lease>>& lease = (*leases_)[i];
      const absl::Status status = some[k].status();
      if (status.ok()) {
        verdicts.push_back(Verdict::kHad);
        if (!lease.ok()) lease = ReplicatedLeaseOver(cluster_, std::move(wanted), node_, *std::move(some[k]));
        continue;
      }
      const bool failed = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
      if (const auto epoch = MovedEpoch(status); epoch.has_value()) Moved(*epoch);
      verdicts.push_back(MovedEpoch(status).has_value() ? Verdict::kMoved
                         : failed                       ? Verdict::kFailed
                                                        : Verdict::kMissed);
      if (failed) no_answer = status;
      if (absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status)) refused = status;
      // An error that the caller can act on takes precedence over a miss.
      if (!lease.ok() && (absl::IsResourceExhausted(status) || absl::IsDataLoss(status))) lease = status;
    }
    // The refusal concerns the client, not this request.
    if (!refused.ok() && !absl::c_linear_search(verdicts, Verdict::kHad)) return refused;
    const bool silent = absl::c_all_of(verdicts, [](Verdict verdict) { return verdict == Verdict::kFailed; });
    if (silent) return absl::UnavailableError(no_answer.message());
    return verdicts;
  }
  void Expire() override { pending_->Expire(); }

 private:
  const Cluster* const cluster_;
  const std::shared_ptr<ClusterNode> node_;
  const std::unique_ptr<client::PendingReads> pending_;
  std::vector<std::pair<size_t, Wanted>> wanted_;
  Leases* const leases_;
};

}  // namespace

absl::StatusOr<std::vector<Found>> LookupOfOwners(const Cluster* cluster, absl::string_view ns,
                                                  absl::Span<const Identity> identities, Codec codec) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  std::vector<Found> found(identities.size());
  if (identities.empty()) return found;
  cluster->counters->lookups += static_cast<int64_t>(identities.size());
  const absl::Time deadline = SteadyNow() + cluster->patience;
  Scatter scatter(cluster, identities, Work::kLookup,
                  [&](const std::shared_ptr<ClusterNode>& node, absl::Span<const size_t> which,
                      const client::Notify& notify) -> absl::StatusOr<std::unique_ptr<Scatter::Request>> {
                    KVLINK_ASSIGN_OR_RETURN(const auto store, node->Store());
                    ++cluster->counters->lookup_requests;
                    std::vector<Identity> some;
                    for (const size_t i : which) some.push_back(identities[i]);
                    KVLINK_ASSIGN_OR_RETURN(auto pending, store->AskLookup(ns, some, codec, deadline, notify));
                    return std::make_unique<LookupRequest>(std::move(pending), which, &found);
                  });
  for (const auto& [node, i] : scatter.resting()) node->Probe(Work::kLookup, ns, {identities[i], {}}, codec);
  scatter.Run(deadline);
  KVLINK_RETURN_IF_ERROR(Annotate(WhyNothing(scatter, Work::kLookup), "lookup"));
  return found;
}

Leases ReadOfOwners(const Cluster* cluster, const std::shared_ptr<DeviceBuffer>& buffer, absl::string_view ns,
                    Codec codec, absl::Span<const ReadRequest> requests, absl::Time deadline) {
  absl::Status refused = ValidateName("namespace", ns);
  if (SteadyNow() >= deadline) refused = absl::DeadlineExceededError("read: the deadline has passed");
  Leases leases;
  std::vector<Identity> identities;
  for (const ReadRequest& request : requests) {
    leases.emplace_back(refused.ok() ? absl::NotFoundError("a miss: no reachable owner has the encoding") : refused);
    identities.push_back(request.identity);
  }
  if (!refused.ok() || requests.empty()) return leases;
  cluster->counters->reads += static_cast<int64_t>(requests.size());
  Scatter scatter(
      cluster, identities, Work::kRead,
      [&](const std::shared_ptr<ClusterNode>& node, absl::Span<const size_t> which,
          const client::Notify& notify) -> absl::StatusOr<std::unique_ptr<Scatter::Request>> {
        KVLINK_ASSIGN_OR_RETURN(const auto store, node->Store());
        ++cluster->counters->read_requests;
        std::vector<ReadRequest> some;
        std::vector<std::pair<size_t, Wanted>> wanted;
        for (const size_t i : which) {
          some.push_back(requests[i]);
          wanted.push_back({i, {std::string(ns), codec, requests[i], buffer}});
        }
        KVLINK_ASSIGN_OR_RETURN(auto pending, store->AskReads(buffer.get(), ns, codec, some, deadline, notify));
        return std::make_unique<ReadsRequest>(cluster, node, std::move(pending), std::move(wanted), &leases);
      });
  for (const auto& [node, i] : scatter.resting()) node->Probe(Work::kRead, ns, requests[i], codec);
  scatter.Run(deadline);
  const absl::Status nothing = Annotate(WhyNothing(scatter, Work::kRead), "read");
  if (!nothing.ok()) {
    for (auto& lease : leases) lease = nothing;
  }
  return leases;
}

}  // namespace kvlink::store::cluster
