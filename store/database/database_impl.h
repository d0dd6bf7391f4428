// The catalog of database.h: its documents in catalog.cc, its drop log in drop_log.cc, the rest in database.cc.
#ifndef KVLINK_STORE_DATABASE_DATABASE_IMPL_H_
#define KVLINK_STORE_DATABASE_DATABASE_IMPL_H_

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "store/database/database.h"
#include "store/database/entries_cache.h"
#include "store/database/pool.h"

namespace kvlink::store::database {

class DatabaseImpl final : public DatabaseCatalog {
 public:
  DatabaseImpl(const DatabaseOptions& options, std::vector<Host> hosts)
      : options_(options), pool_(options, std::move(hosts)), cache_(options.staleness) {}

  absl::Status Prepare(absl::Time deadline) override;
  absl::StatusOr<NamespaceLimits> PutNamespace(const NamespaceChange& change, absl::Time deadline) override;
  absl::StatusOr<std::vector<NamespaceLimits>> ListNamespaces(absl::Time deadline) override;
  absl::StatusOr<bool> Used(absl::Time deadline) override;
  absl::StatusOr<CatalogStats> Stats(absl::Time deadline) override;

  absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutDocuments(absl::string_view ns,
                                                                     absl::Span<const DocumentPut> documents) override;
  absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> GetDocuments(absl::string_view ns,
                                                                         absl::Span<const std::string> ids) override;
  absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(absl::string_view ns,
                                                            absl::Span<const DocumentDeletion> documents) override;
  absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(absl::string_view ns, absl::string_view after,
                                                          int64_t limit) override;
  absl::StatusOr<NamespaceDeletion> DeleteNamespace(absl::string_view ns) override;
  absl::StatusOr<uint64_t> Clock() override;

  absl::StatusOr<DropPosition> Register(const NodeId& node, absl::Time deadline) override;
  absl::StatusOr<DropPosition> Resume(const NodeId& node, const DropPosition& position, absl::Time deadline) override;
  absl::StatusOr<DropPosition> PositionOf(const NodeId& node, absl::Time deadline) override;
  absl::StatusOr<DropBatch> ReadDrops(const DropPosition& after, int64_t limit, absl::Time deadline) override;
  absl::Status StorePosition(const NodeId& node, const DropPosition& position, absl::Time deadline) override;
  absl::Status Forget(const NodeId& node, absl::Time deadline) override;
  absl::Status ForgetConsumers(absl::Time deadline) override;
  absl::StatusOr<DropPosition> End(absl::Time deadline) override;
  absl::Status WaitForConsumers(const DropPosition& position, absl::Span<const NodeId> nodes,
                                absl::Time deadline) override;
  absl::StatusOr<int64_t> Trim(absl::Duration retention, absl::Time deadline) override;

 private:
  // Reads the documents whose entry is not set yet into `entries`.
  absl::Status ReadDocuments(absl::string_view ns, absl::Span<const std::string> ids,
                             std::vector<std::optional<absl::StatusOr<CatalogEntry>>>& entries);
  // Runs the queries as one transaction of their own.
  absl::StatusOr<std::vector<Rows>> Ask(absl::Span<const Query> queries, absl::Time deadline,
                                        Tables tables = Tables::kNow);

  const DatabaseOptions options_;
  Pool pool_;
  EntriesCache cache_;
  std::atomic<bool> last_was_new_{true};  // none of the last batch's documents existed
  Mutex mutex_;
  std::vector<std::string> silent_ ABSL_GUARDED_BY(mutex_);  // consumers that were silent at the last Trim
};

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_DATABASE_IMPL_H_
