// Encodings over transport/: the basis of the store's pulls.
#ifndef KVLINK_BENCH_TRANSFER_TRANSFER_TRANSPORT_H_
#define KVLINK_BENCH_TRANSFER_TRANSFER_TRANSPORT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"
#include "transport/transport.h"

namespace kvlink::bench {

// "ucx" or "grpc". INVALID_ARGUMENT: any other.
absl::StatusOr<std::unique_ptr<transport::Transport>> CarrierNamed(const std::string& name);

// Serves encodings from a ring over the carrier until killed; prints its address in its first line. Ends the program on
// errors.
[[noreturn]] void ServeTransport(const std::string& carrier, int64_t ring_bytes);

// The reader's end, shared by movers.
class TransportReader;
absl::StatusOr<std::shared_ptr<TransportReader>> ConnectTransport(const std::string& carrier,
                                                                  const std::string& address, int64_t ring_bytes);
// Pulls: posts a receive for each layer and requests the encoding; layers arrive one by one. With `verify`, the waiting
// thread checks each unit of a layer once it has arrived.
std::unique_ptr<Mover> NewTransportMover(std::shared_ptr<TransportReader> reader, bool verify);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_TRANSFER_TRANSPORT_H_
