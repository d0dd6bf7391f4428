// The payload path to a node: a connection over a transport, and that transport's memory.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_CLIENT_DATA_DATA_PATH_H_
#define KVLINK_STORE_CLIENT_DATA_DATA_PATH_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "store/client/control/control.h"
#include "store/client/control/counters.h"
#include "store/client/data/client_resources.h"
#include "store/client/data/node_channel.h"
#include "store/client/data/region.h"
#include "store/client/data/transport_memory.h"
#include "store/client/remote.h"

namespace kvlink::store::client {

class DataPath {
 public:
  // Uses UCX, gRPC, or the transport in the options. The arguments must outlive it. UNAVAILABLE: it does not work in
  // this process; the message says why.
  static absl::StatusOr<std::unique_ptr<DataPath>> Create(Carrier carrier, const RemoteOptions& options,
                                                          ClientResources* resources, Control* control,
                                                          ClientCounters* counters, RequestSource* source);
  // "ucx", "grpc", "transport".
  const std::string& name() const { return name_; }
  NodeChannel& channel() { return *channel_; }
  TransportMemory& memory() { return *memory_; }
  // As Region::Open.
  absl::StatusOr<std::shared_ptr<Region>> OpenRegion(const DeviceRegion& region, absl::Duration rest) {
    return Region::Open(memory_->transport(), region, rest);
  }

 private:
  DataPath(std::string name, std::shared_ptr<TransportMemory> memory)
      : name_(std::move(name)), memory_(std::move(memory)) {}

  const std::string name_;
  const std::shared_ptr<TransportMemory> memory_;
  std::unique_ptr<NodeChannel> channel_;
};

// Returns the address of "scheme://host:port" in `data`, with an empty host replaced by that of `address`; the first of
// any scheme if `scheme` is empty. NOT_FOUND: the node names none.
absl::StatusOr<std::string> DataAddress(absl::Span<const std::string> data, absl::string_view scheme,
                                        absl::string_view address);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_DATA_PATH_H_
