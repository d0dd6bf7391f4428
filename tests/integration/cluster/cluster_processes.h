// A whole cluster on a network of its own: members of etcd, PostgreSQL, and `kvlink store` nodes on hosts with
// addresses of their own, all real processes that a test kills, freezes and cuts off.
//
// Clients of the test's process come from network().local(0). etcd listens at local(1), PostgreSQL at local(2), so that
// a host is cut off from each alone.
//
// Thread-safety: one thread at a time.
#ifndef KVLINK_TESTS_INTEGRATION_CLUSTER_CLUSTER_PROCESSES_H_
#define KVLINK_TESTS_INTEGRATION_CLUSTER_CLUSTER_PROCESSES_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tests/integration/cluster/network.h"
#include "tests/support/etcd_cluster.h"
#include "tests/support/postgres.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/subprocess.h"

namespace kvlink::testing {

struct ClusterShape {
  int nodes = 5;        // that are started
  int spare_hosts = 0;  // for nodes that join later
  int copies = 2, acknowledged = 2;
  int etcd_members = 3;
  std::string memory = "64M", capacity = "512M";
};

class ClusterProcesses {
 public:
  // Why none can be made here; empty: it can.
  static std::string WhyNot();

  // Makes the cluster and starts its nodes; they serve, and are active, when it returns. What fails is a failure of the
  // test.
  explicit ClusterProcesses(const ClusterShape& shape);
  ~ClusterProcesses();
  ClusterProcesses(const ClusterProcesses&) = delete;
  ClusterProcesses& operator=(const ClusterProcesses&) = delete;

  Network& network() { return *network_; }
  EtcdCluster& etcd() { return *etcd_; }
  PostgresServer& postgres() { return *postgres_; }
  int hosts() const { return static_cast<int>(nodes_.size()); }
  // "HOST:PORT,.../NAME".
  std::string name() const;
  // Of the clients' key, which nodes know as an administrator's.
  const std::string& key() const { return key_; }

  // Of the node's control service.
  std::string address(int node) const;
  // Starts it, on the directory that it had before; false, with a test failure, if it does not serve within a minute.
  bool Start(int node);
  void Kill(int node);  // kill -9
  int Stop(int node);   // SIGTERM; its exit status
  void Freeze(int node);
  void Thaw(int node);
  bool running(int node);
  Subprocess& process(int node) { return *nodes_[node].process; }
  // What it has on its disk goes.
  void EmptyDisk(int node);
  // Leaves no free space on its disk, until FreeDisk.
  void FillDisk(int node);
  void FreeDisk(int node);
  // Its wall clock is so many seconds off from now on.
  void MoveClock(int node, int seconds);

  // Runs kvlink with these arguments and those that say which cluster.
  Finished Kvlink(std::vector<std::string> arguments) const;
  // Until these nodes are active members. False, with a test failure: not within two minutes.
  bool AwaitActive(const std::vector<int>& nodes);
  // Until nothing is left to copy on any member that is alive, as `kvlink status` says. Likewise.
  bool AwaitRepaired();

 private:
  struct Node {
    std::string directory;
    std::unique_ptr<Subprocess> process;
  };
  std::string ClockFile(int node) const { return nodes_[node].directory + "/../clock"; }

  const ClusterShape shape_;
  ScratchDirectory scratch_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<EtcdCluster> etcd_;
  std::unique_ptr<PostgresServer> postgres_;
  std::string key_, key_file_, access_file_, database_;
  std::vector<Node> nodes_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLUSTER_CLUSTER_PROCESSES_H_
