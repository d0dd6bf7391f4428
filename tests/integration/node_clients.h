// Helpers for tests that are clients of a node: options, and the node's figures.
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

// Of a client whose calls end after `deadline`. `carrier`: as in --carrier.
store::client::RemoteOptions ClientOptions(const std::string& address, const std::string& carrier,
                                           absl::Duration deadline = TrafficOptions().deadline);

// A client of its own that is busy: a store, and a thread that works on it. REQUIRES: the node serves.
class BusyClient {
 public:
  // A test failure if the node cannot be reached.
  BusyClient(const store::client::RemoteOptions& options, Journal* journal, const TrafficOptions& traffic);
  store::client::RemoteStore* store() const { return store_.get(); }
  TrafficThread* operator->() const { return thread_.get(); }
  bool ok() const { return thread_ != nullptr; }

 private:
  std::unique_ptr<store::client::RemoteStore> store_;
  std::unique_ptr<TrafficThread> thread_;
};

// A node's figures. Thread-safe.
class NodeFigures {
 public:
  explicit NodeFigures(const std::string& address)
      : admin_(store::client::NodeAdmin::Create({address, "", "figures"})) {}
  store::client::NodeAdmin* admin() const { return admin_.get(); }
  // A test failure if the node does not answer or does not have that figure.
  int64_t Get(const std::string& name) const;
  // Waits until each is at most so much: what a client left behind is given back. A test failure, naming what is still
  // there, if that does not happen.
  bool WaitForAtMost(const std::map<std::string, int64_t>& most, absl::Duration within = 3 * kHangGuard) const;

 private:
  const std::unique_ptr<store::client::NodeAdmin> admin_;
};

// Nothing is under way or held on the node.
inline const std::map<std::string, int64_t> kNothingHeld = {
    {"leases", 0}, {"mapped_leases", 0}, {"pulls", 0}, {"pushes", 0}, {"quarantined_bytes", 0}};

// A process that is a client (store_client_process.cc), busy when this returns. `role`: "push", "pull", "hold". Null,
// with a test failure, if it does not come to that.
std::unique_ptr<Subprocess> StartClientProcess(const std::string& address, const std::string& carrier,
                                               const std::string& journal, const std::string& role, uint64_t seed,
                                               uint64_t first = 0);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_NODE_CLIENTS_H_
