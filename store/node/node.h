// A store node: one engine, served to workers over the network (and over shared memory on its own host).
//
// Serves proto/store.proto (control, gRPC) and proto/data.proto (the data path, over the transports named in the
// options). Without an access file, every client may do everything, and the node serves this host only.
//
// Thread-safety: all methods except the destructor. Lifetime: the destructor refuses new work, ends and waits for
// pending work, and closes the store; everything acknowledged is durable.
#ifndef KVLINK_STORE_NODE_NODE_H_
#define KVLINK_STORE_NODE_NODE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/engine/engine.h"
#include "store/node/access.h"
#include "store/node/control/control.h"
#include "store/node/data/data_port.h"
#include "store/node/limits.h"
#include "store/node/ownership.h"
#include "store/node/read_rates.h"
#include "store/node/service.h"
#include "store/node/watch/log.h"
#include "transport/tls.h"
#include "transport/transport.h"

namespace kvlink::store::node {

struct NodeOptions {
  std::string directory;  // the store's
  // Options for the engine; the node sets the callbacks about its memory itself. share_memory: readers on this host may
  // map the tier.
  engine::EngineOptions engine;

  // "host:port"; port 0 picks a free one.
  std::string control_address = "127.0.0.1:0";
  // For UCX, on one network: any host that can connect can write into this process's memory. Empty: no UCX.
  std::string data_address;
  bool grpc_data = true;        // also serve the data path over the control address
  std::string metrics_address;  // http://ADDRESS/metrics for Prometheus; empty: none
  std::string local_socket;     // path for readers on this host; empty: none
  std::string access_file;      // docs/formats.md "Access file"; empty: none
  // For the control address, and the data path over it.
  transport::TlsOptions tls;
  // Transports supplied by the caller; clients are told "SCHEME://" and the address.
  struct Carrier {
    std::string scheme;
    std::unique_ptr<transport::Transport> transport;
    std::string address;
  };
  std::vector<Carrier> carriers;
  // What the node owns in a cluster; null: it stands alone and owns everything.
  std::shared_ptr<const Ownership> ownership;

  // Opens sessions from the start; otherwise only after Admit.
  bool admits = true;

  NodeLimits limits;
  FiguresBeside figures;  // shown with the node's own statistics until the node ends; empty: none
  LogSink log;            // empty: standard error
  std::string version;    // of the build, shown to clients
};

class Node {
 public:
  struct Addresses {
    std::string control, metrics, local_socket;
    std::vector<std::string> data;  // "ucx://127.0.0.1:34567"
  };

  // Serves when it returns (unless !options.admits). INVALID_ARGUMENT: addresses, the access file. FAILED_PRECONDITION:
  // an address is reachable from other hosts and there is no access file. UNAVAILABLE: an address is in use. Also the
  // errors of Engine::Open.
  static absl::StatusOr<std::unique_ptr<Node>> Start(NodeOptions options);
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  const Addresses& addresses() const { return addresses_; }
  // For components that work on the same store beside the node, and end before it.
  engine::Engine* engine() const { return service_->core.engine.get(); }
  // Of pulls. Mapped reads on this host cost the node nothing, and are not counted.
  const ReadRates& read_rates() const { return service_->core.read_rates; }
  // Opens sessions from now on.
  void Admit();
  // Refuses new sessions (except administrators') and pushes; reads continue. Permanent.
  void Drain();
  // Waits for the end of a Drain call that asked the process to stop. Returns false at the deadline.
  bool WaitForStop(absl::Time deadline);
  // Takes what the caller has read of the access file, or its error, which is returned; sessions whose line is gone or
  // changed end. On an error nothing changes. Both are logged; does not block.
  absl::Status UseAccess(absl::StatusOr<AccessList> list);
  // No pull, push or lease of mapped memory is in progress.
  bool idle() const;
  // For measurements and tests.
  std::string MetricsText() const { return service_->core.metrics->Text(); }

 private:
  explicit Node(std::unique_ptr<Service> service) : service_(std::move(service)) {}
  absl::Status Open(NodeOptions* options);
  absl::Status OpenPorts(NodeOptions* options);
  absl::Status OpenControl(const NodeOptions& options);
  void Sweep();
  void CloseLinks();

  const std::unique_ptr<Service> service_;
  Addresses addresses_;
  bool serving_ = false;  // Start has completed
  std::vector<std::unique_ptr<DataPort>> ports_;
  std::unique_ptr<ControlServer> control_;

  Mutex mutex_;
  CondVar wake_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  Thread sweeper_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_NODE_H_
