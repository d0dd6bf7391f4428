// A whole cluster on its own network: members of etcd, PostgreSQL, and `kvlink store` nodes on separate hosts with
// their own addresses, all real processes that a test kills, freezes and cuts off.
//
// Clients in the test's process connect from network().local(0). etcd listens at local(1), PostgreSQL at local(2), so
// that a host can be cut off from each separately. The database's connection string names two servers; the second runs
// only after AddStandby.
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
  int nodes = 5;        // started at once
  int spare_hosts = 0;  // for nodes that join later
  int copies = 2, acknowledged = 2;
  int etcd_members = 3;
  std::string memory = "64M", capacity = "512M";
};

// The build a node runs: this one, or the next one, which speaks one protocol more.
enum class Build { kThis, kNext };

class ClusterProcesses {
 public:
  // Why a cluster cannot be created here; empty: it can.
  static std::string WhyNot();

  // Creates the cluster and starts its nodes; on return they serve and are active. The test fails if this fails.
  explicit ClusterProcesses(const ClusterShape& shape);
  ~ClusterProcesses();
  ClusterProcesses(const ClusterProcesses&) = delete;
  ClusterProcesses& operator=(const ClusterProcesses&) = delete;

  Network& network() { return *network_; }
  EtcdCluster& etcd() { return *etcd_; }
  // The server that takes writes.
  PostgresServer& postgres() { return *postgres_; }
  // Nodes 0 to nodes() - 1 are started at first; the spare hosts follow them.
  int nodes() const { return shape_.nodes; }
  // "HOST:PORT,.../NAME".
  std::string name() const;
  // The clients' key, which has administrator rights at the nodes.
  const std::string& key() const { return key_; }

  // Address of the node's control service.
  std::string address(int node) const;
  // Starts a node on its previous directory; false, with a test failure, if it does not serve within a minute.
  bool Start(int node, Build build = Build::kThis);
  void Kill(int node);  // kill -9
  int Stop(int node);   // SIGTERM; returns its exit status
  // Runs kvlink drain NODE and waits until the node has left and its process has ended; false, with a test failure,
  // otherwise.
  bool Drain(int node);
  void Freeze(int node);
  void Thaw(int node);
  bool running(int node);
  Subprocess& process(int node) { return *nodes_[node].process; }
  // Erases its disk.
  void EmptyDisk(int node);
  // Fills its disk until FreeDisk.
  void FillDisk(int node);
  void FreeDisk(int node);
  // Delays each read, write and flush of its disk from now on.
  void SlowDisk(int node, int milliseconds);
  // Shifts its wall clock by this many seconds from now on.
  void MoveClock(int node, int seconds);

  // Starts the database's second server, which from now on has whatever the first one commits.
  void AddStandby();
  // Kills the database's first server for good and promotes the standby; returns once that one takes writes. The next
  // standby runs where the first server was.
  void FailOver();

  // Runs kvlink with these arguments and those that identify the cluster.
  Finished Kvlink(std::vector<std::string> arguments) const;
  // Waits until these nodes are active members. False, with a test failure, after two minutes.
  bool AwaitActive(const std::vector<int>& nodes);
  // Waits until no live member has anything left to copy, according to `kvlink status`. Likewise.
  bool AwaitRepaired();

 private:
  struct Node {
    std::string directory;
    std::unique_ptr<Subprocess> process;
    int clock_seconds = 0, disk_milliseconds = 0;  // see tests/support/host_faults.cc
  };
  std::string HostFaults(int node) const { return nodes_[node].directory + "/../host-faults"; }
  void WriteHostFaults(int node) const;

  const ClusterShape shape_;
  ScratchDirectory scratch_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<EtcdCluster> etcd_;
  std::unique_ptr<PostgresServer> postgres_, standby_;
  std::string other_port_;  // of the database's second server, which may not be running
  std::string key_, key_file_, access_file_, database_;
  std::vector<Node> nodes_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLUSTER_CLUSTER_PROCESSES_H_
