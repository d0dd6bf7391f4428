// The way of payloads: a transport, the connection over it, and memory registered with it.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_CLIENT_DATA_DATA_PATH_H_
#define KVLINK_STORE_CLIENT_DATA_DATA_PATH_H_

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/client/control/control.h"
#include "store/client/control/counters.h"
#include "store/client/data/arena.h"
#include "store/client/data/node_channel.h"
#include "store/client/data/region.h"
#include "store/client/remote.h"
#include "transport/transport.h"

namespace kvlink::store::client {

class DataPath {
 public:
  // Over UCX, gRPC, or the transport of the options. UNAVAILABLE: it does not work in this process; says why.
  static absl::StatusOr<std::unique_ptr<DataPath>> Create(Carrier carrier, const RemoteOptions& options,
                                                          Control* control, ClientCounters* counters,
                                                          RequestSource* source);
  ~DataPath();
  // "ucx", "grpc", "transport".
  const std::string& name() const { return name_; }
  NodeChannel& channel() { return *channel_; }
  Arena& receive_memory() { return *receive_memory_; }
  Arena& sending() { return *sending_; }
  // As Region::Open.
  absl::StatusOr<std::shared_ptr<Region>> OpenRegion(const DeviceRegion& region, absl::Duration rest) {
    return Region::Open(transport_.get(), region, rest);
  }
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> AllocateSlabs(int64_t bytes);
  // The memory of AllocateSlabs that `slab` lies in, if it does.
  std::optional<transport::Slice> Registered(absl::Span<const std::byte> slab);

 private:
  DataPath(std::string name, std::shared_ptr<transport::Transport> transport, const RemoteOptions& options);
  // Gives memory back that nobody has used for a while.
  void TrimIdle();
  void Grown();

  const std::string name_;
  const std::shared_ptr<transport::Transport> transport_;
  const absl::Duration idle_;  // RemoteOptions::idle_memory
  const std::shared_ptr<Arena> receive_memory_, sending_;
  std::unique_ptr<NodeChannel> channel_;
  Mutex mutex_;
  std::list<std::weak_ptr<transport::RegisteredBuffer>> slabs_ ABSL_GUARDED_BY(mutex_);

  Mutex trim_mutex_;
  CondVar trim_changed_;
  bool grown_ ABSL_GUARDED_BY(trim_mutex_) = false, stop_ ABSL_GUARDED_BY(trim_mutex_) = false;
  Thread trimmer_;
};

// The address of "scheme://host:port" in `data`, an empty host replaced by that of `address`; the first of any scheme
// where `scheme` is empty. NOT_FOUND: the node names none.
absl::StatusOr<std::string> DataAddress(absl::Span<const std::string> data, absl::string_view scheme,
                                        absl::string_view address);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_DATA_PATH_H_
