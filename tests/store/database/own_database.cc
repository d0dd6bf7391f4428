#include "tests/store/database/own_database.h"

#include <cstring>
#include <utility>

#include "base/clock.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

using store::database::DatabaseCatalog;
using store::database::DatabaseOptions;

std::unique_ptr<PostgresServer>& Shared() {
  static auto& server = *new std::unique_ptr<PostgresServer>;
  return server;
}

class EndOfTests : public ::testing::Environment {
 public:
  void TearDown() override { Shared().reset(); }
};
const ::testing::Environment* const kEnd = ::testing::AddGlobalTestEnvironment(new EndOfTests);

}  // namespace

PostgresServer& SharedServer() {
  if (Shared() == nullptr) {
    Shared() = std::make_unique<PostgresServer>(PostgresOptions{.settings = {"max_connections=60"}});
  }
  return *Shared();
}

OwnDatabase::OwnDatabase(PostgresServer& server) : server_(server), name_(server.NewDatabase()), catalog_(Open()) {
  EXPECT_EQ(catalog_->Prepare(Patience()), absl::OkStatus());
}

DatabaseOptions OwnDatabase::options() const {
  DatabaseOptions options;
  options.connection = server_.connection(name_);
  options.cluster_id = kClusterId;
  options.operation_timeout = absl::Seconds(60);
  return options;
}

std::unique_ptr<DatabaseCatalog> OwnDatabase::Open(const DatabaseOptions& options) const {
  auto opened = DatabaseCatalog::Open(options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

Identity IdentityOf(uint64_t number) {
  Identity identity;
  std::memcpy(identity.bytes.data(), &number, sizeof(number));
  identity.bytes[31] = 0x1d;
  return identity;
}

CatalogEntry EntryWith(const std::vector<uint64_t>& identities, uint64_t generation) {
  CatalogEntry entry;
  entry.generation = generation;
  entry.title = "A title";
  for (const uint64_t number : identities) {
    entry.parts.push_back({IdentityOf(number), {1, 2, static_cast<int32_t>(number)}});
  }
  return entry;
}

std::vector<store::database::Drop> Consume(store::database::DropLog& log, const store::database::NodeId& node,
                                           store::database::DropPosition* position, int64_t limit) {
  std::vector<store::database::Drop> drops;
  for (bool more = true; more;) {
    const auto batch = log.ReadDrops(*position, limit, Patience());
    EXPECT_TRUE(batch.ok()) << batch.status();
    if (!batch.ok()) return drops;
    EXPECT_GE(batch->end, *position);
    drops.insert(drops.end(), batch->drops.begin(), batch->drops.end());
    *position = batch->end;
    more = !batch->caught_up;
  }
  EXPECT_EQ(log.StorePosition(node, *position, Patience()), absl::OkStatus());
  return drops;
}

}  // namespace kvlink::testing
