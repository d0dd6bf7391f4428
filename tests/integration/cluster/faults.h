// The kinds of faults in a cluster, and what its clients may notice of each.
// Thread-safety: same as ClusterProcesses.
#ifndef KVLINK_TESTS_INTEGRATION_CLUSTER_FAULTS_H_
#define KVLINK_TESTS_INTEGRATION_CLUSTER_FAULTS_H_

#include <functional>
#include <vector>

#include "tests/integration/cluster/cluster_processes.h"

namespace kvlink::testing {

// When the database takes no writes.
enum class DatabaseIs : uint8_t {
  kThere,        // always
  kAwayToBegin,  // until `begin` returns
  kAwayToEnd,    // until `end` returns
};

struct Fault {
  using Step = std::function<void(ClusterProcesses* cluster, int node)>;
  const char* name;
  // Called while clients are busy; `end` follows some seconds after `begin`. `node` is below cluster->nodes().
  Step begin, end;
  // Called before clients start, and after they have stopped, to bring the cluster back to its shape. May be empty.
  Step prepare, restore;
  // Nodes cannot be written to meanwhile, or only slowly: if all copies must be acknowledged, those writes are refused;
  // if not, what one node alone has acknowledged may be missed.
  bool away = false;
  DatabaseIs database = DatabaseIs::kThere;
};

// All kinds. The seed, modulo their number, chooses one; the default seed begins at the kinds that the plain run shows.
const std::vector<Fault>& Faults();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLUSTER_FAULTS_H_
