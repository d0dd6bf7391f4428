// Helpers for tests that act as clients of a node: options, and the node's statistics.
// Thread-safety: as documented.
#ifndef KVLINK_TESTS_INTEGRATION_NODE_CLIENTS_H_
#define KVLINK_TESTS_INTEGRATION_NODE_CLIENTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "store/client/control/admin.h"
#include "store/client/remote.h"
#include "tests/integration/traffic.h"
#include "tests/support/subprocess.h"

namespace kvlink::testing {

// Options of a client whose calls end after `deadline`. `carrier`: as in --carrier.
store::client::RemoteOptions ClientOptions(const std::string& address, const std::string& carrier,
                                           absl::Duration deadline = TrafficOptions().deadline);

// A separate, busy client: a store, and a thread that works on it. REQUIRES: the node serves.
class BusyClient {
 public:
  // The test fails if the node cannot be reached.
  BusyClient(const store::client::RemoteOptions& options, Journal* journal, const TrafficOptions& traffic);
  store::client::RemoteStore* store() const { return store_.get(); }
  TrafficThread* operator->() const { return thread_.get(); }
  bool ok() const { return thread_ != nullptr; }

 private:
  std::unique_ptr<store::client::RemoteStore> store_;
  std::unique_ptr<TrafficThread> thread_;
};

// A node's statistics. Thread-safe.
class NodeFigures {
 public:
  explicit NodeFigures(const std::string& address)
      : admin_(store::client::NodeAdmin::Create({address, "", "figures"})) {}
  store::client::NodeAdmin* admin() const { return admin_.get(); }
  // The test fails if the node does not answer or has no such statistic.
  int64_t Get(const std::string& name) const;
  // Waits until each statistic is at most this value: whatever a client left behind has been released. Otherwise the
  // test fails, naming what remains.
  bool WaitForAtMost(const std::map<std::string, int64_t>& most, absl::Duration within = 3 * kHangGuard) const;

 private:
  const std::unique_ptr<store::client::NodeAdmin> admin_;
};

// Nothing is in progress or held on the node.
inline const std::map<std::string, int64_t> kNothingHeld = {
    {"leases", 0}, {"mapped_leases", 0}, {"pulls", 0}, {"pushes", 0}, {"quarantined_bytes", 0}};

// A client process (store_client_process.cc), busy on return. `role`: "push", "pull", "hold". Null, with a test
// failure, if it does not become busy.
std::unique_ptr<Subprocess> StartClientProcess(const std::string& address, const std::string& carrier,
                                               const std::string& journal, const std::string& role, uint64_t seed,
                                               uint64_t first = 0);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_NODE_CLIENTS_H_
