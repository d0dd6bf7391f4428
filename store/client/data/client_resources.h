// The implementation of store/client/resources.h: the parts that a client has once, for any number of nodes.
//
// Thread-safety: all methods. Lifetime: shared by the stores. Before a store releases it, the work the store submitted
// to its threads has ended.
#ifndef KVLINK_STORE_CLIENT_DATA_CLIENT_RESOURCES_H_
#define KVLINK_STORE_CLIENT_DATA_CLIENT_RESOURCES_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/worker.h"
#include "store/client/control/retry.h"
#include "store/client/control/timer.h"
#include "store/client/data/transport_memory.h"
#include "store/client/data/verifier.h"
#include "store/client/remote.h"
#include "store/client/resources.h"
#include "transport/local/local.h"
#include "transport/tls.h"
#include "transport/transport.h"

namespace kvlink::store::client {

class ClientResources {
 public:
  explicit ClientResources(const ResourceOptions& options);

  // UCX or gRPC, created on first use. UNAVAILABLE: it does not work in this process; the message says why.
  absl::StatusOr<std::shared_ptr<TransportMemory>> OfCarrier(Carrier carrier, const transport::TlsOptions& tls);
  // For a transport supplied by the caller.
  std::shared_ptr<TransportMemory> OfTransport(std::shared_ptr<transport::Transport> transport);
  // For mapped memory. RESOURCE_EXHAUSTED: no file descriptors.
  absl::StatusOr<transport::LocalTransport*> Local();

  Timer& timer() { return timer_; }
  RetryBudget& retries() { return retries_; }
  Verifier& verifier() { return verifier_; }
  Worker& dials() { return dials_; }
  // Started on first use.
  Worker& puts();

 private:
  const ResourceOptions options_;
  RetryBudget retries_;
  Timer timer_;
  Mutex mutex_;
  std::unique_ptr<transport::LocalTransport> local_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<TransportMemory>> carriers_ ABSL_GUARDED_BY(mutex_);
  // Kept as long as any store uses them.
  std::map<transport::Transport*, std::weak_ptr<TransportMemory>> given_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Worker> puts_ ABSL_GUARDED_BY(mutex_);
  Verifier verifier_;
  Worker dials_;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_CLIENT_RESOURCES_H_
