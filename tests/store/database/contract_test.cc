// The contract of store.h over a minimal node of a cluster: encodings in a directory, documents in the database, and
// between them the drop log, consumed after each change.
#include "tests/store/contract.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "store/embedded/embedded.h"
#include "tests/store/database/own_database.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

using store::DocumentDeletion;
using store::DocumentInfo;
using store::DocumentPut;
using store::Store;
using store::database::DatabaseCatalog;
using store::database::Drop;
using store::database::DropPosition;

class ClusterOfOne : public Store {
 public:
  ClusterOfOne(std::unique_ptr<Store> node, std::unique_ptr<DatabaseCatalog> catalog)
      : node_(std::move(node)), catalog_(std::move(catalog)) {
    const auto known = catalog_->PositionOf(NodeOf(1), Patience());
    const auto position = known.ok() ? known : catalog_->Register(NodeOf(1), Patience());
    EXPECT_TRUE(position.ok()) << position.status();
    if (position.ok()) position_ = *position;
  }

  absl::StatusOr<std::vector<store::Found>> Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                                   Codec codec) override {
    return node_->Lookup(ns, identities, codec);
  }
  absl::StatusOr<std::unique_ptr<store::Lease>> Read(absl::string_view ns, const Identity& identity, Codec codec,
                                                     const Etag& etag, absl::Time deadline) override {
    return node_->Read(ns, identity, codec, etag, deadline);
  }
  absl::StatusOr<store::PutResult> Put(absl::string_view ns, const Manifest& manifest,
                                       absl::Span<const absl::Span<const std::byte>> slabs,
                                       absl::Time deadline) override {
    return node_->Put(ns, manifest, slabs, deadline);
  }
  absl::Status Pin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return node_->Pin(ns, identity, codec);
  }
  absl::Status Unpin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return node_->Unpin(ns, identity, codec);
  }
  absl::Status Remove(absl::string_view ns, const Identity& identity) override { return node_->Remove(ns, identity); }

  absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutDocuments(absl::string_view ns,
                                                                     absl::Span<const DocumentPut> documents) override {
    auto put = catalog_->PutDocuments(ns, documents);
    CarryOutDrops();
    return put;
  }
  absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> GetDocuments(absl::string_view ns,
                                                                         absl::Span<const std::string> ids) override {
    return catalog_->GetDocuments(ns, ids);
  }
  absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(absl::string_view ns,
                                                            absl::Span<const DocumentDeletion> documents) override {
    auto deleted = catalog_->DeleteDocuments(ns, documents);
    CarryOutDrops();
    return deleted;
  }
  absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(absl::string_view ns, absl::string_view after,
                                                          int64_t limit) override {
    return catalog_->ListDocuments(ns, after, limit);
  }
  absl::StatusOr<store::NamespaceDeletion> DeleteNamespace(absl::string_view ns) override {
    KVLINK_ASSIGN_OR_RETURN(const store::StoreStats before, node_->Stats());
    KVLINK_ASSIGN_OR_RETURN(store::NamespaceDeletion deleted, catalog_->DeleteNamespace(ns));
    CarryOutDrops();
    for (const store::NamespaceStats& one : before.namespaces) {
      if (one.name == ns) deleted.encodings = one.encodings;
    }
    return deleted;
  }

  absl::StatusOr<uint64_t> Clock() override { return catalog_->Clock(); }
  absl::StatusOr<store::StoreStats> Stats() override {
    KVLINK_ASSIGN_OR_RETURN(store::StoreStats stats, node_->Stats());
    KVLINK_ASSIGN_OR_RETURN(const store::database::CatalogStats catalog, catalog_->Stats(Patience()));
    for (const auto& ns : catalog.namespaces) {
      const auto it = std::find_if(stats.namespaces.begin(), stats.namespaces.end(),
                                   [&](const store::NamespaceStats& one) { return one.name == ns.name; });
      store::NamespaceStats& one = it == stats.namespaces.end() ? stats.namespaces.emplace_back() : *it;
      one.name = ns.name;
      one.documents = ns.documents;
    }
    return stats;
  }
  absl::StatusOr<std::vector<Listed>> ListEncodings(absl::string_view ns, const Identity& after,
                                                    int64_t limit) override {
    return node_->ListEncodings(ns, after, limit);
  }
  absl::StatusOr<store::VerifyReport> Verify(std::function<bool(int64_t, int64_t)> progress) override {
    return node_->Verify(progress);
  }
  void DropDramTier() override { node_->DropDramTier(); }

 private:
  void CarryOutDrops() {
    for (const Drop& drop : Consume(*catalog_, NodeOf(1), &position_)) {
      if (drop.identity.has_value()) {
        EXPECT_EQ(node_->Remove(drop.ns, *drop.identity), absl::OkStatus());
      } else {
        EXPECT_EQ(node_->DeleteNamespace(drop.ns).status(), absl::OkStatus());
      }
    }
  }

  const std::unique_ptr<Store> node_;
  const std::unique_ptr<DatabaseCatalog> catalog_;
  DropPosition position_;
};

class ClusterPlace : public StorePlace {
 public:
  explicit ClusterPlace(const StorePlaceOptions& options) : options_(options) { Reopen(); }
  Store* store() override { return store_.get(); }
  void Reopen() override {
    store_.reset();
    auto node = store::OpenEmbedded(directory_.path(),
                                    {.dram_bytes = options_.dram_bytes, .capacity_bytes = options_.capacity_bytes});
    ASSERT_TRUE(node.ok()) << node.status();
    store_ = std::make_unique<ClusterOfOne>(*std::move(node), database_.Open());
  }

 private:
  const StorePlaceOptions options_;
  ScratchDirectory directory_;
  OwnDatabase database_;
  std::unique_ptr<Store> store_;
};

}  // namespace

std::vector<StoreMaker> StoresUnderTest() {
  if (!PostgresServer::Installed()) return {};
  return {{"database", [](const StorePlaceOptions& options) { return std::make_unique<ClusterPlace>(options); }}};
}

}  // namespace kvlink::testing

namespace kvlink::store {
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StoreContractTest);

TEST(DatabaseContractTest, RunsWithPostgres) { KVLINK_NEEDS_POSTGRES(); }
}  // namespace kvlink::store
