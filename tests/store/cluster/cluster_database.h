// Opens the database of a cluster as kvlink store does. Thread-safety: all functions.
#ifndef KVLINK_TESTS_STORE_CLUSTER_CLUSTER_DATABASE_H_
#define KVLINK_TESTS_STORE_CLUSTER_CLUSTER_DATABASE_H_

#include <memory>

#include "base/status.h"
#include "store/cluster/view.h"
#include "store/database/database.h"

namespace kvlink::testing {

inline absl::StatusOr<std::unique_ptr<store::database::DatabaseCatalog>> OpenDatabase(
    const store::cluster::ClusterSettings& settings, bool make_tables, absl::Time deadline) {
  store::database::DatabaseOptions options;
  options.connection = settings.database;
  options.cluster_id = settings.id;
  options.make_tables = make_tables;
  KVLINK_ASSIGN_OR_RETURN(auto opened, store::database::DatabaseCatalog::Open(options));
  KVLINK_RETURN_IF_ERROR(opened->Prepare(deadline));
  return opened;
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLUSTER_CLUSTER_DATABASE_H_
