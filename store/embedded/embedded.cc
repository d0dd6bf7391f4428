#include "store/embedded/embedded.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/status.h"
#include "store/embedded/embedded_engine.h"
#include "store/engine/engine.h"

namespace kvlink::store {
namespace {

using engine::EncodingKey;
using engine::Engine;

class EmbeddedLease : public Lease {
 public:
  explicit EmbeddedLease(std::unique_ptr<engine::EncodingLease> lease) : lease_(std::move(lease)) {}
  const Manifest& manifest() const override { return lease_->manifest(); }
  Tier source() const override { return lease_->from_dram() ? Tier::kDram : Tier::kDisk; }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline) override { return lease_->WaitLayer(layer, deadline); }
  absl::Span<const std::byte> layer(int64_t layer) const override { return lease_->layer(layer); }

 private:
  const std::unique_ptr<engine::EncodingLease> lease_;
};

class EmbeddedStore : public Store {
 public:
  explicit EmbeddedStore(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

  absl::StatusOr<std::vector<Found>> Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                            Codec codec) override {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    std::vector<Found> answers(identities.size());
    EncodingKey key{std::string(ns), {}, codec};
    for (size_t i = 0; i < identities.size(); ++i) {
      key.identity = identities[i];
      const auto info = engine_->Find(key);
      if (!info.has_value()) continue;
      answers[i] = {.present = true,
                    .codec = codec,
                    .etag = info->location.etag,
                    .tokens = info->location.tokens,
                    .bytes = info->location.bytes,
                    .tier = info->resident ? Tier::kDram : Tier::kDisk};
    }
    return answers;
  }
  absl::StatusOr<std::unique_ptr<Lease>> Read(absl::string_view ns, const Identity& identity, Codec codec,
                                              const Etag& etag, absl::Time deadline) override {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    KVLINK_ASSIGN_OR_RETURN(auto lease, engine_->Read({std::string(ns), identity, codec}, etag, deadline));
    return std::unique_ptr<Lease>(std::make_unique<EmbeddedLease>(std::move(lease)));
  }
  absl::StatusOr<PutResult> Put(absl::string_view ns, const Manifest& manifest,
                                absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline) override {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    KVLINK_ASSIGN_OR_RETURN(const auto outcome, engine_->Put(ns, manifest, slabs, deadline));
    return PutResultOf(outcome.written, outcome.etag, manifest.etag);
  }
  absl::Status Pin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return engine_->Pin({std::string(ns), identity, codec}).status();
  }
  absl::Status Unpin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return engine_->Unpin({std::string(ns), identity, codec});
  }
  absl::Status Remove(absl::string_view ns, const Identity& identity) override {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    return engine_->Remove(ns, identity);
  }

  absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutDocuments(absl::string_view ns,
                                                                     absl::Span<const DocumentPut> documents) override {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    for (const DocumentPut& one : documents) KVLINK_RETURN_IF_ERROR(ValidateName("document id", one.id));
    std::vector<absl::StatusOr<uint64_t>> generations;
    while (generations.size() < documents.size()) {
      const auto rest = documents.subspan(generations.size());
      std::vector<Engine::EntryPut> group;
      for (const DocumentPut& one : rest.subspan(0, FirstGroup(rest))) group.push_back({one.id, &one.entry});
      KVLINK_ASSIGN_OR_RETURN(const auto committed, engine_->PutEntries(ns, group));
      generations.insert(generations.end(), committed.begin(), committed.end());
    }
    return generations;
  }
  absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> GetDocuments(absl::string_view ns,
                                                                         absl::Span<const std::string> ids) override {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    for (const std::string& id : ids) KVLINK_RETURN_IF_ERROR(ValidateName("document id", id));
    std::vector<absl::StatusOr<CatalogEntry>> entries;
    for (const std::string& id : ids) entries.push_back(engine_->GetEntry(ns, id));
    return entries;
  }
  absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(absl::string_view ns,
                                                            absl::Span<const DocumentDeletion> documents) override {
    return PutTombstones(ns, documents);
  }
  absl::StatusOr<uint64_t> Clock() override { return engine_->Now(); }
  absl::StatusOr<NamespaceDeletion> DeleteNamespace(absl::string_view ns) override {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    KVLINK_ASSIGN_OR_RETURN(const auto deleted, engine_->DeleteNamespace(ns));
    return NamespaceDeletion{deleted.documents, deleted.encodings};
  }
  absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(absl::string_view ns, absl::string_view after,
                                                          int64_t limit) override {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    KVLINK_ASSIGN_OR_RETURN(auto documents, engine_->ListEntries(ns, after, limit));
    std::vector<DocumentInfo> infos;
    for (Engine::Document& document : documents) {
      int64_t tokens = 0;
      for (const CatalogPart& part : document.entry.parts) tokens += static_cast<int64_t>(part.tokens.size());
      infos.push_back({std::move(document.id), document.entry.generation, std::move(document.entry.title), tokens,
                       document.entry.written_at_us});
    }
    return infos;
  }

  absl::StatusOr<StoreStats> Stats() override;
  absl::StatusOr<std::vector<Listed>> ListEncodings(absl::string_view ns, const Identity& after,
                                                    int64_t limit) override {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    KVLINK_ASSIGN_OR_RETURN(auto manifests, engine_->ListManifests(ns, after, limit));
    std::vector<Listed> listed;
    for (Manifest& manifest : manifests) listed.push_back({std::string(ns), std::move(manifest)});
    return listed;
  }
  absl::StatusOr<VerifyReport> Verify(std::function<bool(int64_t, int64_t)> progress) override {
    KVLINK_ASSIGN_OR_RETURN(auto outcome, engine_->Verify(progress));
    VerifyReport report;
    report.encodings = outcome.encodings;
    report.bytes = outcome.bytes;
    report.index_problems = std::move(outcome.index_problems);
    for (engine::DamagedEncoding& damage : outcome.damaged) {
      report.damaged.push_back(
          {damage.key.ns, damage.key.identity, damage.key.codec, std::move(damage.what), std::move(damage.documents)});
    }
    return report;
  }
  void DropDramTier() override { engine_->DropDramTier(); }

 private:
  const std::unique_ptr<Engine> engine_;
};

absl::StatusOr<StoreStats> EmbeddedStore::Stats() {
  Engine::Statistics from = engine_->Stats();
  StoreStats stats;
  std::map<std::string, NamespaceStats> namespaces;
  for (const auto& ns : from.namespaces) {
    namespaces[ns.ns].encodings = ns.encodings;
    namespaces[ns.ns].bytes = ns.bytes;
    namespaces[ns.ns].pinned_bytes = ns.pinned_bytes;
    stats.pinned_bytes += ns.pinned_bytes;
  }
  for (const auto& [ns, documents] : from.documents) {
    if (documents > 0 || namespaces.contains(ns)) namespaces[ns].documents = documents;
  }
  for (auto& [name, ns] : namespaces) {
    ns.name = name;
    stats.namespaces.push_back(ns);
  }
  stats.segment_bytes = from.segment_bytes;
  stats.segment_bytes_used = from.segment_bytes_used;
  stats.dram_bytes = from.dram_bytes;
  stats.dram_bytes_used = from.dram_bytes_used;
  stats.hits_dram = from.hits_dram;
  stats.hits_segments = from.hits_segments;
  stats.misses = from.misses;
  stats.bytes_read = from.bytes_read;
  stats.bytes_written = from.bytes_written;
  stats.bytes_written_in_place = from.bytes_written_in_place;
  stats.evictions = from.evictions;
  stats.integrity_failures = from.integrity_failures;
  stats.double_claims = from.double_claims;
  stats.leases = from.leases;
  stats.io = std::move(from.io);
  return stats;
}

}  // namespace

std::unique_ptr<Store> StoreOver(std::unique_ptr<engine::Engine> engine) {
  return std::make_unique<EmbeddedStore>(std::move(engine));
}

absl::StatusOr<std::unique_ptr<Store>> OpenEmbedded(const std::string& directory, const EmbeddedOptions& options) {
  engine::EngineOptions engine_options;
  engine_options.create = options.create;
  engine_options.read_only = options.read_only;
  engine_options.dram_bytes = options.dram_bytes;
  engine_options.capacity_bytes = options.capacity_bytes;
  engine_options.pinned_bytes = options.pinned_bytes;
  engine_options.drop_missing = options.drop_missing;
  KVLINK_ASSIGN_OR_RETURN(auto opened, Engine::Open(directory, engine_options));
  return StoreOver(std::move(opened));
}

}  // namespace kvlink::store
