// The replicated store knows neither etcd nor the database; here they meet.
#include "store/cli/cluster_store.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/client/remote.h"
#include "store/database/database.h"

namespace kvlink::cli {
namespace {

constexpr absl::Duration kApproach = absl::Seconds(10), kPause = absl::Milliseconds(250);

absl::StatusOr<std::unique_ptr<store::database::DatabaseCatalog>> OpenCatalog(
    const store::cluster::ClusterSettings& settings, bool make_tables = false) {
  store::database::DatabaseOptions options;
  options.connection = settings.database;
  options.cluster_id = settings.id;
  options.make_tables = make_tables;
  return store::database::DatabaseCatalog::Open(options);
}

}  // namespace

absl::Status AddCatalogStats(store::database::DatabaseCatalog* catalog, store::StoreStats* stats) {
  const auto counted = catalog->Stats(SteadyNow() + kApproach);
  if (absl::IsDeadlineExceeded(counted.status())) {
    absl::StrAppend(&stats->io, stats->io.empty() ? "" : "; ", "too many documents to count in time");
    return absl::OkStatus();
  }
  KVLINK_RETURN_IF_ERROR(counted.status());
  for (const auto& ns : counted->namespaces) {
    auto known = absl::c_find_if(stats->namespaces, [&](const auto& one) { return one.name == ns.name; });
    if (known == stats->namespaces.end()) known = stats->namespaces.insert(known, {.name = ns.name});
    known->documents = ns.documents;
  }
  absl::c_sort(stats->namespaces, [](const auto& a, const auto& b) { return a.name < b.name; });
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<store::database::DatabaseCatalog>> PrepareDatabase(
    const store::cluster::ClusterSettings& settings, bool make_tables, absl::Time deadline) {
  const std::string name = absl::StrCat("cluster ", settings.name);
  auto catalog = OpenCatalog(settings, make_tables);
  KVLINK_RETURN_IF_ERROR(Annotate(catalog.status(), name));
  for (;;) {
    const absl::Status prepared = (*catalog)->Prepare(deadline);
    if (prepared.ok()) return catalog;
    const bool gone = absl::IsUnavailable(prepared) || absl::IsDeadlineExceeded(prepared);
    if (!gone || SteadyNow() + kPause >= deadline) return Annotate(prepared, name);
    absl::SleepFor(kPause);
  }
}

absl::Status AwaitRemoved(const ClusterStore& cluster, absl::Time deadline) {
  std::vector<store::cluster::NodeId> nodes;
  const auto view = cluster.membership->view();
  for (const store::cluster::Member& member : view->placement.members()) nodes.push_back(member.node_id);
  KVLINK_ASSIGN_OR_RETURN(const store::database::DropPosition end, cluster.catalog->End(deadline));
  return Annotate(cluster.catalog->WaitForConsumers(end, nodes, deadline),
                  absl::StrCat("cluster ", view->settings.name));
}

absl::StatusOr<ClusterStore> OpenClusterStore(const StoreFlags& flags) {
  ClusterStore cluster;
  store::cluster::MembershipOptions membership;
  KVLINK_ASSIGN_OR_RETURN(membership.address, ClusterAddressOf(flags.cluster));
  KVLINK_RETURN_IF_ERROR(Annotate(store::client::CheckTls(flags.tls), PlaceName(flags)));
  auto opened = store::cluster::Membership::Open(std::move(membership), SteadyNow() + kApproach);
  KVLINK_RETURN_IF_ERROR(Annotate(opened.status(), PlaceName(flags)));
  cluster.membership = *std::move(opened);

  auto catalog = OpenCatalog(cluster.membership->view()->settings);
  KVLINK_RETURN_IF_ERROR(Annotate(catalog.status(), PlaceName(flags)));
  cluster.catalog = *std::move(catalog);

  store::cluster::ReplicatedOptions options;
  options.node.name = ClientName();
  options.node.tls = flags.tls;
  KVLINK_ASSIGN_OR_RETURN(options.node.key, NodeKey(flags));
  KVLINK_ASSIGN_OR_RETURN(options.node.carrier, store::client::ParseCarrier(flags.carrier));
  options.resources.receive_bytes = flags.memory;
  options.resources.sending_bytes = SendingBytes(flags);
  options.zone = flags.zone;
  if (!cluster.membership->view()->settings.database.empty()) {
    options.add_catalog_stats = [catalog = cluster.catalog](store::StoreStats* stats) {
      return AddCatalogStats(catalog.get(), stats);
    };
  }
  KVLINK_ASSIGN_OR_RETURN(cluster.store, store::cluster::OpenReplicated(cluster.membership, cluster.catalog, options));
  return cluster;
}

}  // namespace kvlink::cli
