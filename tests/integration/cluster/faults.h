// What goes wrong in a cluster, one kind at a time, and what its clients may notice of it.
// Thread-safety: as ClusterProcesses.
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
  // While clients are busy: `end` comes some seconds after `begin`. `node` is any of those that were started first.
  Step begin, end;
  // Before clients start, and once they have stopped: brings the cluster back to its shape. May be empty.
  Step prepare, restore;
  // A node cannot be written to meanwhile, or not soon: where all copies are acknowledged, those writes are refused;
  // and what it alone has acknowledged may be missed.
  bool away = false;
  DatabaseIs database = DatabaseIs::kThere;
};

// All kinds. Their order is that of seeds; the seed of the plain run begins at those that it should show.
const std::vector<Fault>& Faults();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLUSTER_FAULTS_H_
