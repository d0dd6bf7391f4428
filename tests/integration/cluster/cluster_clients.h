// Clients of a cluster that write, read and delete while something happens to it, and record the answers. One of them
// leaves documents alone, so that the nodes have requests while the others wait for the database.
//
// Thread-safety: one thread at a time. Ownership: starts threads `cluster-client`, which end with the object.
#ifndef KVLINK_TESTS_INTEGRATION_CLUSTER_CLUSTER_CLIENTS_H_
#define KVLINK_TESTS_INTEGRATION_CLUSTER_CLUSTER_CLIENTS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "store/cluster/members/membership.h"
#include "store/cluster/replicas/replicated.h"
#include "store/database/database.h"
#include "tests/integration/cluster/cluster_processes.h"
#include "tests/integration/cluster/history.h"

namespace kvlink::testing {

// The duration of a call.
struct Timing {
  CallKind kind = CallKind::kRead;
  int64_t begun = 0, ended = 0;  // ns of one steady clock
  std::string failed;            // the reason; empty: it succeeded
};

class ClusterClients {
 public:
  // Connects; the test fails if it cannot.
  ClusterClients(const ClusterProcesses& cluster, uint64_t seed);
  ~ClusterClients();

  void Start();
  void Stop();

  static int64_t Now();  // the clock of calls
  std::vector<Call> calls() const { return history_.calls(); }
  std::vector<Timing> timings() const;
  store::cluster::ReplicatedStore* store() { return store_.get(); }
  // Reads every encoding and document acknowledged, once, into the history.
  void ReadAll();

 private:
  absl::Status Open(const ClusterProcesses& cluster);
  void Run(int client);
  void Write(int client, uint64_t number);
  void Read(int client, uint64_t number);
  void GetDocument(int client, uint64_t number);
  void Delete(int client, uint64_t number);
  Call Begin(int client, CallKind kind, uint64_t key) const;
  void End(Call call, const absl::Status& status);

  const uint64_t seed_;
  std::shared_ptr<store::cluster::Membership> membership_;
  std::shared_ptr<store::database::DatabaseCatalog> catalog_;
  std::unique_ptr<store::cluster::ReplicatedStore> store_;
  History history_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> next_{1};
  mutable Mutex mutex_;
  std::vector<Timing> timings_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> written_ ABSL_GUARDED_BY(mutex_);
  std::vector<Thread> threads_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLUSTER_CLUSTER_CLIENTS_H_
