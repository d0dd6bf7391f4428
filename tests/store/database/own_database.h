// A catalog over its own empty database, on a server shared by all tests of a program.
// Thread-safety: one thread at a time.
#ifndef KVLINK_TESTS_STORE_DATABASE_OWN_DATABASE_H_
#define KVLINK_TESTS_STORE_DATABASE_OWN_DATABASE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "proto/catalog.h"
#include "store/database/database.h"
#include "tests/support/node_id.h"
#include "tests/support/postgres.h"

namespace kvlink::testing {

inline constexpr std::array<uint8_t, 16> kClusterId = {0xc1, 0x05};

// Skips if PostgreSQL is not installed.
#define KVLINK_NEEDS_POSTGRES()                        \
  if (!::kvlink::testing::PostgresServer::Installed()) \
  GTEST_SKIP() << "PostgreSQL is not installed (package postgresql)"

// Starts on the first call and ends with the program's tests.
PostgresServer& SharedServer();

class OwnDatabase {
 public:
  // Creates an empty database on `server` and prepares it.
  explicit OwnDatabase(PostgresServer& server = SharedServer());

  const std::string& name() const { return name_; }
  store::database::DatabaseOptions options() const;
  // Opens another client of the same database.
  std::unique_ptr<store::database::DatabaseCatalog> Open(const store::database::DatabaseOptions& options) const;
  std::unique_ptr<store::database::DatabaseCatalog> Open() const { return Open(options()); }
  store::database::DatabaseCatalog* operator->() const { return catalog_.get(); }
  std::string Sql(const std::string& sql) const { return server_.Sql(sql, name_); }

 private:
  PostgresServer& server_;
  const std::string name_;
  std::unique_ptr<store::database::DatabaseCatalog> catalog_;
};

Identity IdentityOf(uint64_t number);
// An entry whose parts have these identities and a few tokens each.
CatalogEntry EntryWith(const std::vector<uint64_t>& identities, uint64_t generation);

// Returns what `node` would remove: reads all drops up to the end of the log, then stores its position.
std::vector<store::database::Drop> Consume(store::database::DropLog& log, const store::database::NodeId& node,
                                           store::database::DropPosition* position, int64_t limit = 100);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_DATABASE_OWN_DATABASE_H_
