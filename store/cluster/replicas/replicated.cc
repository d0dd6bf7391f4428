// Puts the parts together: nodes.h keeps the nodes, scatter.h asks owners, lease.h moves a lease to another owner,
// puts.h writes, and everybody.h asks all nodes.
#include "store/cluster/replicas/replicated.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "store/cluster/replicas/everybody.h"
#include "store/cluster/replicas/nodes.h"
#include "store/cluster/replicas/puts.h"
#include "store/cluster/replicas/reads.h"
#include "store/cluster/replicas/scatter.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(2);

client::RemoteOptions NodeOptions(const ReplicatedOptions& options) {
  client::RemoteOptions node = options.node;
  node.resources = client::NewClientResources(options.resources);
  node.connect_later = true;
  // Give up early, since another owner is asked then. The threads that connect are few, and must not wait long for
  // hosts that are gone.
  node.patience = kNoProgress;
  node.connect_timeout = std::min(node.connect_timeout, kConnectTimeout);
  return node;
}

class Replicated : public ReplicatedStore {
 public:
  Replicated(std::shared_ptr<ViewSource> source, std::shared_ptr<DocumentCatalog> catalog,
             const ReplicatedOptions& options)
      : catalog_(std::move(catalog)),
        add_catalog_stats_(options.add_catalog_stats),
        nodes_(std::move(source), NodeOptions(options)),
        cluster_{&nodes_, &hedges_, &counters_, options.zone, options.patience},
        puts_(&cluster_, options.max_rest_bytes) {}

  absl::StatusOr<std::vector<Found>> Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                            Codec codec) override {
    return LookupOfOwners(&cluster_, ns, identities, codec);
  }
  absl::StatusOr<std::unique_ptr<Lease>> Read(absl::string_view ns, const Identity& identity, Codec codec,
                                              const Etag& etag, absl::Time deadline) override {
    return ReadTo(nullptr, ns, identity, codec, etag, deadline);
  }
  absl::StatusOr<std::shared_ptr<DeviceBuffer>> OpenDeviceBuffer(const DeviceRegion& region) override;
  absl::StatusOr<std::unique_ptr<Lease>> ReadTo(DeviceBuffer* buffer, absl::string_view ns, const Identity& identity,
                                                Codec codec, const Etag& etag, absl::Time deadline) override {
    auto leases = ReadMany(buffer, ns, codec, {{identity, etag}}, deadline);
    return std::move(leases.front());
  }
  std::vector<absl::StatusOr<std::unique_ptr<Lease>>> ReadMany(DeviceBuffer* buffer, absl::string_view ns, Codec codec,
                                                               absl::Span<const ReadRequest> requests,
                                                               absl::Time deadline) override {
    return ReadOfOwners(&cluster_, Known(buffer), ns, codec, requests, deadline);
  }
  absl::StatusOr<PutResult> Put(absl::string_view ns, const Manifest& manifest,
                                absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline) override {
    return puts_.Put(ns, manifest, slabs, deadline);
  }
  absl::Status Pin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return ActAtOwners(*nodes_.Now(), identity, /*every=*/false,
                       [&](client::RemoteStore* store) { return store->Pin(ns, identity, codec); });
  }
  absl::Status Unpin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return ActAtOwners(*nodes_.Now(), identity, /*every=*/false,
                       [&](client::RemoteStore* store) { return store->Unpin(ns, identity, codec); });
  }
  absl::Status Remove(absl::string_view ns, const Identity& identity) override {
    return Annotate(ActAtOwners(*nodes_.Now(), identity, /*every=*/true,
                                [&](client::RemoteStore* store) { return store->Remove(ns, identity); }),
                    "remove");
  }

  absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutDocuments(absl::string_view ns,
                                                                     absl::Span<const DocumentPut> documents) override {
    return catalog_->PutDocuments(ns, documents);
  }
  absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> GetDocuments(absl::string_view ns,
                                                                         absl::Span<const std::string> ids) override {
    return catalog_->GetDocuments(ns, ids);
  }
  absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(absl::string_view ns,
                                                            absl::Span<const DocumentDeletion> documents) override {
    return catalog_->DeleteDocuments(ns, documents);
  }
  absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(absl::string_view ns, absl::string_view after,
                                                          int64_t limit) override {
    return catalog_->ListDocuments(ns, after, limit);
  }
  absl::StatusOr<NamespaceDeletion> DeleteNamespace(absl::string_view ns) override;
  absl::StatusOr<uint64_t> Clock() override { return catalog_->Clock(); }

  absl::StatusOr<StoreStats> Stats() override {
    KVLINK_ASSIGN_OR_RETURN(StoreStats stats, SumOfStats(*nodes_.Now()));
    if (add_catalog_stats_) KVLINK_RETURN_IF_ERROR(add_catalog_stats_(&stats));
    return stats;
  }
  absl::StatusOr<std::vector<Listed>> ListEncodings(absl::string_view ns, const Identity& after,
                                                    int64_t limit) override {
    return MergedListing(*nodes_.Now(), ns, after, limit);
  }
  absl::StatusOr<VerifyReport> Verify(std::function<bool(int64_t, int64_t)> progress) override {
    return VerifyEach(*nodes_.Now(), progress);
  }
  void DropDramTier() override {
    AskEach(nodes_.Now()->nodes, [](size_t, client::RemoteStore* store) {
      store->DropDramTier();
      return absl::OkStatus();
    });
  }

  ReplicatedCounters Counters() const override;
  std::vector<client::RemoteCounters> NodeCounters() const override;
  std::vector<NodeReport> Nodes() override { return ReportNodes(*nodes_.Now()); }

 private:
  // The shared pointer to a buffer from OpenDeviceBuffer; null for any other.
  std::shared_ptr<DeviceBuffer> Known(const DeviceBuffer* buffer);

  const std::shared_ptr<DocumentCatalog> catalog_;
  const std::function<absl::Status(StoreStats*)> add_catalog_stats_;
  cluster::Counters counters_;
  HedgeBudget hedges_;
  mutable NodeSet nodes_;
  const Cluster cluster_;
  Puts puts_;
  Mutex mutex_;
  std::vector<std::weak_ptr<DeviceBuffer>> buffers_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::shared_ptr<DeviceBuffer>> Replicated::OpenDeviceBuffer(const DeviceRegion& region) {
  // Registered once, with the transport that all nodes share, so any node that can be reached will do.
  absl::Status why = absl::UnavailableError("the cluster has no members");
  const std::shared_ptr<const struct Nodes> now = nodes_.Now();
  for (size_t i = 0; i < now->nodes.size(); ++i) {
    if (!now->view->alive(static_cast<uint16_t>(i)) || now->nodes[i]->Rests(Work::kLookup)) continue;
    KVLINK_ASSIGN_OR_RETURN(const auto store, now->nodes[i]->Store());
    auto opened = store->OpenDeviceBuffer(region);
    if (opened.ok()) {
      MutexLock lock(&mutex_);
      std::erase_if(buffers_, [](const auto& one) { return one.expired(); });
      buffers_.push_back(*opened);
      return opened;
    }
    if (absl::IsInvalidArgument(opened.status()) || absl::IsResourceExhausted(opened.status())) return opened;
    why = opened.status();
  }
  return why;
}

std::shared_ptr<DeviceBuffer> Replicated::Known(const DeviceBuffer* buffer) {
  if (buffer == nullptr) return nullptr;
  MutexLock lock(&mutex_);
  for (const std::weak_ptr<DeviceBuffer>& one : buffers_) {
    if (auto known = one.lock(); known.get() == buffer) return known;
  }
  return nullptr;
}

absl::StatusOr<NamespaceDeletion> Replicated::DeleteNamespace(absl::string_view ns) {
  KVLINK_ASSIGN_OR_RETURN(NamespaceDeletion deleted, catalog_->DeleteNamespace(ns));
  const auto now = nodes_.Now();
  std::vector<int64_t> encodings(now->nodes.size());
  AskEach(now->nodes, [&](size_t i, client::RemoteStore* store) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(const NamespaceDeletion here, store->DeleteNamespace(ns));
    encodings[i] = here.encodings;
    return absl::OkStatus();
  });
  for (const int64_t count : encodings) deleted.encodings += count;
  return deleted;
}

ReplicatedCounters Replicated::Counters() const {
  ReplicatedCounters counters;
  counters.lookups = counters_.lookups;
  counters.lookup_requests = counters_.lookup_requests;
  counters.reads = counters_.reads;
  counters.read_requests = counters_.read_requests;
  counters.next_owners = counters_.next_owners;
  counters.stuck = counters_.stuck;
  counters.hedges = counters_.hedges;
  counters.moved = counters_.moved;
  counters.changed_owner = counters_.changed_owner;
  counters.puts = counters_.puts;
  counters.failed_puts = counters_.failed_puts;
  counters.lacking = counters_.lacking;
  counters.copied_bytes = counters_.copied_bytes;
  for (const auto& node : nodes_.Now()->nodes) counters.probes += node->probes();
  return counters;
}

std::vector<client::RemoteCounters> Replicated::NodeCounters() const {
  std::vector<client::RemoteCounters> counters;
  for (const auto& node : nodes_.Now()->nodes) {
    if (!node->opened()) continue;
    if (const auto store = node->Store(); store.ok()) counters.push_back((*store)->Counters());
  }
  return counters;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReplicatedStore>> OpenReplicated(std::shared_ptr<ViewSource> source,
                                                                std::shared_ptr<DocumentCatalog> catalog,
                                                                const ReplicatedOptions& options) {
  if (options.patience <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("store: patience must be positive");
  }
  return std::make_unique<Replicated>(std::move(source), std::move(catalog), options);
}

}  // namespace kvlink::store::cluster
